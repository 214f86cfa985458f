// Package bench measures the embedded stack: how fast it starts, what it needs,
// how long shoppers wait, what an order costs the Temporal server, and how many
// orders a second it confirms. Beside each figure of the shop stands the bare
// limit: a workflow of the same shape whose activities do nothing, on the same
// server in the same run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/dev/folder"
	"bookworm/dev/infra"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
	"bookworm/internal/catalog"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/postgres"
)

// Sizes of the run.
const (
	warmUp    = 30
	single    = 200              // orders of one client
	crowd     = 16               // clients at once
	crowdTime = 20 * time.Second // of the crowd
)

// Run measures on stacks of its own, in temporary folders, and prints tables.
// program is the bookworm-dev binary, which is started to see how long that
// takes.
func Run(ctx context.Context, program string, out io.Writer) (err error) {
	fmt.Fprintf(out, "machine: %s, %d cores, %s, %s\n\n", cpuModel(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, runtime.Version())
	if err := startUp(ctx, program, out); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bookworm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := open(ctx, dir)
	if err != nil {
		return err
	}
	return errors.Join(b.measure(ctx, out), b.close())
}

// bench is a stack in this process, with as many shoppers as there are clients.
type bench struct {
	folder *folder.Folder
	infra  *infra.Infra
	shop   *shop.Shop
	bare   *bare
	people []*shopper.Shopper
	books  []*catalogv1.Book
}

func open(ctx context.Context, dir string) (*bench, error) {
	b := &bench{}
	return b, b.open(ctx, dir)
}

func (b *bench) open(ctx context.Context, dir string) (err error) {
	if b.folder, err = folder.Open(dir); err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if b.infra, err = infra.Start(ctx, b.folder, logger); err != nil {
		return err
	}
	if b.shop, err = shop.Start(ctx, b.folder, b.infra.Addresses, shop.Options{Logger: logger, Environ: shop.Unlimited}); err != nil {
		return err
	}
	if b.bare, err = startBare(ctx, b.infra.Addresses); err != nil {
		return err
	}
	for range crowd {
		token, err := b.shop.Identity.IssueWith("alice", map[string]any{
			"sub": uuid.NewString(), "exp": time.Now().Add(time.Hour).Unix(),
		})
		if err != nil {
			return fmt.Errorf("make a shopper: %w", err)
		}
		b.people = append(b.people, &shopper.Shopper{
			Gateway: b.shop.Addresses["BOOKWORM_GATEWAY_URL"], Token: token,
			HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
		})
	}
	return b.stock(ctx)
}

// stock receives enough copies of some books that nobody goes home without.
func (b *bench) stock(ctx context.Context) (err error) {
	if b.books, err = b.people[0].Books(ctx, "page_size=50"); err != nil {
		return fmt.Errorf("list books: %w", err)
	}
	pool, err := postgres.Open(ctx, b.infra.Addresses["BOOKWORM_DATABASE_URL"], catalog.Schema.Name)
	if err != nil {
		return fmt.Errorf("open the catalogue: %w", err)
	}
	defer pool.Close()
	for _, book := range b.books {
		if err := catalog.NewStore(pool).Receive(ctx, uuid.MustParse(book.GetId()), 100_000, "bench"); err != nil {
			return fmt.Errorf("receive stock: %w", err)
		}
	}
	return nil
}

func (b *bench) close() error {
	b.bare.stop()
	return errors.Join(b.shop.Stop(), b.infra.Stop(), b.folder.Close())
}

// trip is what one order took.
type trip struct{ place, confirmed time.Duration }

// buy fills a basket and orders it. The clock runs from the request to place the
// order; confirmed is when the order's own page says so.
func (b *bench) buy(ctx context.Context, who *shopper.Shopper, n int) (trip, error) {
	for i := range 2 {
		if _, err := who.Put(ctx, b.books[(n+i*7)%len(b.books)].GetId(), 1); err != nil {
			return trip{}, fmt.Errorf("fill basket: %w", err)
		}
	}
	began := time.Now()
	order, _, err := who.Place(ctx, uuid.NewString(), shopper.Request("pm_card_visa"))
	if err != nil {
		return trip{}, fmt.Errorf("place: %w", err)
	}
	placed := time.Since(began)
	if _, err := who.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED); err != nil {
		return trip{}, fmt.Errorf("await confirmation: %w", err)
	}
	t := trip{placed, time.Since(began)}
	// The next basket starts empty, so that it is not cleared under our hands.
	if _, err := who.AwaitEmptyBasket(ctx); err != nil {
		return trip{}, fmt.Errorf("await the empty basket: %w", err)
	}
	return t, nil
}

func (b *bench) measure(ctx context.Context, out io.Writer) error {
	for i := range warmUp {
		if _, err := b.buy(ctx, b.people[i%crowd], i); err != nil {
			return err
		}
		if _, err := b.bare.run(ctx); err != nil {
			return err
		}
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	// The shop and the bare workflow in turn, so that both see the same machine.
	var own, bare []trip
	var ownWrites, bareWrites writes
	const rounds = 4
	for range rounds {
		var err error
		ownWrites, err = b.counted(ctx, ownWrites, single/rounds, func() error {
			for i := range single / rounds {
				t, err := b.buy(ctx, b.people[0], i)
				if err != nil {
					return err
				}
				own = append(own, t)
			}
			return nil
		})
		if err != nil {
			return err
		}
		bareWrites, err = b.counted(ctx, bareWrites, single/rounds, func() error {
			for range single / rounds {
				t, err := b.bare.run(ctx)
				if err != nil {
					return err
				}
				bare = append(bare, t)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := printSingle(out, own, bare, ownWrites, bareWrites); err != nil {
		return err
	}
	return b.crowd(ctx, out)
}

func printSingle(out io.Writer, own, bare []trip, ownWrites, bareWrites writes) error {
	fmt.Fprintf(out, "One client, %d orders of two books, and as many bare workflows of the same shape, in turn:\n\n", len(own))
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tp50 ms\tp95 ms\tgoal p50\tbare p50\tshop / bare\t")
	for _, row := range []struct {
		name, goal string
		of         func(trip) time.Duration
	}{
		{"place", "<= 25", func(t trip) time.Duration { return t.place }},
		{"place to confirmed", "<= 60", func(t trip) time.Duration { return t.confirmed }},
	} {
		p50, floor := quantile(own, row.of, 0.5), quantile(bare, row.of, 0.5)
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%s\t%.1f\t%.2f\t\n",
			row.name, ms(p50), ms(quantile(own, row.of, 0.95)), row.goal, ms(floor), float64(p50)/float64(floor))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	fmt.Fprintf(out, "\nWrites at the Temporal server, by its own metrics:\n\n")
	fmt.Fprintln(t, "\tcreations\tupdates\tgoal\tpeer to paid\tpeer to delivered\t")
	fmt.Fprintf(t, "an order, to confirmed and told\t%.2f\t%.2f\t3 + 22\t3 + 31\t3 + 43\t\n",
		ownWrites.perOrder(ownWrites.creations), ownWrites.perOrder(ownWrites.updates))
	fmt.Fprintf(t, "the bare workflow\t%.2f\t%.2f\t\t\t\t\n", bareWrites.perOrder(bareWrites.creations), bareWrites.perOrder(bareWrites.updates))
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// crowd lets many shoppers buy at once and says where the processors' time went.
func (b *bench) crowd(ctx context.Context, out io.Writer) error {
	type outcome struct {
		trips []trip
		rate  float64
	}
	load := func(buy func(worker, n int) (trip, error)) (outcome, error) {
		var mu sync.Mutex
		var o outcome
		var n atomic.Int64
		began := time.Now()
		var group errgroup.Group
		for worker := range crowd {
			group.Go(func() error {
				for time.Since(began) < crowdTime {
					t, err := buy(worker, int(n.Add(1)))
					if err != nil {
						return err
					}
					mu.Lock()
					o.trips = append(o.trips, t)
					mu.Unlock()
				}
				return nil
			})
		}
		err := group.Wait()
		o.rate = float64(len(o.trips)) / time.Since(began).Seconds()
		return o, err
	}
	bare, err := load(func(int, int) (trip, error) { return b.bare.run(ctx) })
	if err != nil {
		return err
	}
	var own outcome
	for _, p := range b.people {
		p.Patience = 50 * time.Millisecond // sixteen who ask all the time would be most of the load
	}
	processes := cpuByProcess()
	shares, err := profile(func() error {
		own, err = load(func(worker, n int) (trip, error) { return b.buy(ctx, b.people[worker], n) })
		return err
	})
	if err != nil {
		return err
	}
	processes = processes.until(cpuByProcess())
	place, confirmed := func(t trip) time.Duration { return t.place }, func(t trip) time.Duration { return t.confirmed }
	fmt.Fprintf(out, "\n%d clients, %s:\n\n", crowd, crowdTime)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\torders confirmed a second\tplace p50 ms\tp95 ms\tconfirmed p50 ms\tp95 ms\t")
	for _, row := range []struct {
		name string
		outcome
	}{{"shop", own}, {"bare workflow", bare}} {
		o := row.outcome
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", row.name, o.rate, ms(quantile(o.trips, place, 0.5)), ms(quantile(o.trips, place, 0.95)),
			ms(quantile(o.trips, confirmed, 0.5)), ms(quantile(o.trips, confirmed, 0.95)))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	fmt.Fprintf(out, "\nWhere the processors' time went (%% of what was used, %.2f of %d cores):\n\n", processes.cores, runtime.NumCPU())
	for _, table := range []map[string]float64{processes.shares, shares} {
		for _, name := range slices.SortedFunc(maps.Keys(table), func(a, b string) int { return int(1000 * (table[b] - table[a])) }) {
			fmt.Fprintf(t, "%s\t%.1f %%\t\n", name, table[name]*100)
		}
		fmt.Fprintln(t, strings.Repeat("-", 8)+"\t\t")
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// quantile returns the value that a share of the trips stays at or below.
func quantile(trips []trip, of func(trip) time.Duration, q float64) time.Duration {
	if len(trips) == 0 {
		return 0
	}
	values := make([]time.Duration, len(trips))
	for i, t := range trips {
		values[i] = of(t)
	}
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
