package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"bookworm/cmd/bookworm/app"
	"bookworm/dev/folder"
	"bookworm/dev/infra"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/loopback"
	"bookworm/internal/telemetry"
)

// Sizes of the door's run.
const (
	doorClients = 32              // connections of the closed loop that finds the capacity
	doorRound   = 4 * time.Second // of one way, in turn with the others
	doorRounds  = 4
	flood       = 5 // times the capacity
	floodTime   = 10 * time.Second
	calls       = 4000 // of the small parts
)

// Door measures what the public door costs on a stack of its own: what it adds to a
// read beside the same read at the service itself, what its parts cost, and what it
// does when five times as much is asked as it can answer. Clients, shop and servers
// share the processors.
func Door(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintf(out, "machine: %s, %d cores, %s, %s\n\n", cpuModel(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, runtime.Version())
	dir, err := os.MkdirTemp("", "bookworm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f, err := folder.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	i, err := infra.Start(ctx, f, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Stop()) }()
	d := &door{}
	s, err := shop.Start(ctx, f, i.Addresses, shop.Options{Logger: logger, Config: d.configure})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	d.shop = s
	if d.tel, err = telemetry.Setup(ctx, telemetry.Config{Service: "bench", LogLevel: slog.LevelError, LogFormat: "text"}); err != nil {
		return err
	}
	if err := d.book(ctx); err != nil {
		return err
	}
	return errors.Join(d.read(ctx, out), d.parts(ctx, out), d.flood(out))
}

// door is a stack with one public door and some more of other settings.
type door struct {
	shop     *shop.Shop
	tel      *telemetry.Telemetry
	settings map[string]string
	bookID   string
}

// configure counts calls as in production, against limits that nobody reaches.
func (d *door) configure(settings map[string]string) {
	for _, class := range []string{"BROWSE", "SEARCH", "WRITE", "CHECKOUT", "CHAT"} {
		settings["BOOKWORM_LIMIT_"+class] = "10000000"
	}
	settings["BOOKWORM_LOG_LEVEL"] = "error" // a line for each refusal would be most of the load
	d.settings = maps.Clone(settings)
}

func (d *door) book(ctx context.Context) error {
	who := &shopper.Shopper{Gateway: d.shop.Addresses["BOOKWORM_GATEWAY_URL"], HTTP: http.DefaultClient}
	books, err := who.Books(ctx, "page_size=1")
	if err != nil {
		return fmt.Errorf("list books: %w", err)
	}
	d.bookID = books[0].GetId()
	return nil
}

// another opens one more door to the same shop, with other settings.
func (d *door) another(ctx context.Context, settings map[string]string) (address string, stop func() error, err error) {
	all := maps.Clone(d.settings)
	maps.Copy(all, settings)
	environ := make([]string, 0, len(all))
	for name, value := range all {
		environ = append(environ, name+"="+value)
	}
	config, err := app.LoadConfig(environ)
	if err != nil {
		return "", nil, fmt.Errorf("configure another door: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", loopback.HostPort(0))
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	life, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- app.Gateway(life, config, d.tel, nil, listener) }()
	address = "http://" + listener.Addr().String()
	stop = func() error {
		cancel()
		return <-done
	}
	for until := time.Now().Add(10 * time.Second); ; {
		err := isOpen(ctx, address)
		if err == nil {
			return address, stop, nil
		}
		if time.Now().After(until) {
			return "", nil, errors.Join(err, stop())
		}
	}
}

// isOpen asks a door whether it is ready.
func isOpen(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/health/ready", http.NoBody)
	if err != nil {
		return fmt.Errorf("ask the door: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the door: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the door is not ready: %s", res.Status)
	}
	return errors.Join(err, res.Body.Close())
}

// load is what became of many requests.
type load struct {
	ok, refused []time.Duration // sorted
	codes       map[uint16]int
	rate        float64 // answered well, a second
}

func (l *load) add(o load) {
	l.ok, l.refused = append(l.ok, o.ok...), append(l.refused, o.refused...)
	slices.Sort(l.ok)
	slices.Sort(l.refused)
}

// hit asks one address with a number of connections, at a rate; at a rate of 0 as
// often as answers come.
func hit(address string, rate, connections int, during time.Duration) load {
	attacker := vegeta.NewAttacker(vegeta.Workers(uint64(connections)), vegeta.MaxWorkers(uint64(connections)), //nolint:gosec // a small number
		vegeta.Connections(connections), vegeta.Timeout(10*time.Second))
	defer attacker.Stop()
	l := load{codes: make(map[uint16]int)}
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: address})
	began := time.Now()
	for result := range attacker.Attack(target, vegeta.Rate{Freq: rate, Per: time.Second}, during, "door") {
		l.codes[result.Code]++
		switch result.Code {
		case http.StatusOK:
			l.ok = append(l.ok, result.Latency)
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			l.refused = append(l.refused, result.Latency)
		}
	}
	l.rate = float64(len(l.ok)) / time.Since(began).Seconds()
	slices.Sort(l.ok)
	slices.Sort(l.refused)
	return l
}

func (d *door) connectGet(base string) string {
	query := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {`{"id":"` + d.bookID + `"}`}}
	return base + catalogv1connect.CatalogServiceGetBookProcedure + "?" + query.Encode()
}

// read measures GetBook at half of what the door can answer.
func (d *door) read(ctx context.Context, out io.Writer) (err error) {
	gateway, service := d.shop.Addresses["BOOKWORM_GATEWAY_URL"], d.settings["BOOKWORM_CATALOG_URL"]
	rest := gateway + "/api/v1/books/" + d.bookID
	hit(rest, 0, doorClients, doorRound) // warms up
	full := hit(rest, 0, doorClients, doorRound)
	half := int(full.rate / 2)
	detect, stopDetect, err := d.another(ctx, map[string]string{"BOOKWORM_WAF": "detect"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopDetect()) }()
	ways := []struct{ name, address string }{
		{"the service itself, Connect", d.connectGet(service)},
		{"the door, Connect", d.connectGet(gateway)},
		{"the door, REST", rest},
		{"the door with the WAF, REST", detect + "/api/v1/books/" + d.bookID},
	}
	seen := make([]load, len(ways))
	for range doorRounds {
		for n, way := range ways {
			seen[n].add(hit(way.address, half, doorClients, doorRound))
		}
	}
	fmt.Fprintf(out, "GetBook at half load, %d a second (the door answers %.0f), %d connections, in turn:\n\n", half, full.rate, doorClients)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tp50 ms\tp95 ms\tp99 ms\tadds p50\tgoal\tadds p99\tgoal\t")
	own := seen[0].ok
	for n, way := range ways {
		ok := seen[n].ok
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t", way.name, ms(at(ok, 0.5)), ms(at(ok, 0.95)), ms(at(ok, 0.99)))
		switch n {
		case 0:
			fmt.Fprintln(t, "\t\t\t\t")
		default:
			fmt.Fprintf(t, "%.2f\t<= 1\t%.2f\t<= 5\t\n", ms(at(ok, 0.5)-at(own, 0.5)), ms(at(ok, 0.99)-at(own, 0.99)))
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// flood asks for five times what can be answered. A search is asked for, which costs
// enough that the clients can do so beside the shop.
func (d *door) flood(out io.Writer) error {
	search := d.shop.Addresses["BOOKWORM_GATEWAY_URL"] + "/api/v1/books:search?query=" + url.QueryEscape("whales and the sea")
	hit(search, 0, 4, doorRound) // warms up
	calm := hit(search, 10, 4, floodTime)
	full := hit(search, 0, 16, doorRound)
	rate := int(math.Ceil(full.rate * flood))
	flooded := hit(search, rate, 2000, floodTime)
	fmt.Fprintf(out, "\nSearchBooks at %d times the capacity of %.0f a second, that is %d a second, for %s:\n\n", flood, full.rate, rate, floodTime)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tanswers a second\tp50 ms\tp99 ms\tgoal p99\trefused\tafter p50 ms\tp99 ms\tby status\t")
	fmt.Fprintf(t, "unloaded\t%.0f\t%.1f\t%.1f\t\t\t\t\t\t\n", calm.rate, ms(at(calm.ok, 0.5)), ms(at(calm.ok, 0.99)))
	fmt.Fprintf(t, "flooded\t%.0f\t%.1f\t%.1f\t<= %.1f\t%d\t%.1f\t%.1f\t%v\t\n", flooded.rate, ms(at(flooded.ok, 0.5)), ms(at(flooded.ok, 0.99)),
		4*ms(at(calm.ok, 0.99)), len(flooded.refused), ms(at(flooded.refused, 0.5)), ms(at(flooded.refused, 0.99)), flooded.codes)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
