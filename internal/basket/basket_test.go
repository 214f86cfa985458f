package basket_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/basket"
	"bookworm/internal/fault"
	"bookworm/internal/loopback"
)

// realRedis is the address of a real Redis, or "".
var realRedis string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	realRedis = os.Getenv("REDIS_TEST_ADDRESS")
	if realRedis == "" {
		address, stop, err := startRedis()
		if err != nil {
			fmt.Fprintln(os.Stderr, "basket: only miniredis is tested:", err)
		} else {
			defer stop()
			realRedis = address
		}
	}
	return m.Run()
}

// startRedis runs a server that keeps nothing and ends with the test.
func startRedis() (address string, stop func(), err error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, err
	}
	port, err := loopback.Port(context.Background(), 0)
	if err != nil {
		return "", nil, err
	}
	address = loopback.HostPort(port)
	server := exec.CommandContext(context.Background(), binary, //nolint:gosec // the port is our own
		"--bind", loopback.Host, "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", os.TempDir())
	server.SysProcAttr = dieWithUs()
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = server.Process.Kill() // it keeps nothing
		_ = server.Wait()
	}
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: 20, MinRetryBackoff: 20 * time.Millisecond})
	defer func() { _ = client.Close() }()
	if err := client.Ping(context.Background()).Err(); err != nil {
		stop()
		return "", nil, err
	}
	return address, stop, nil
}

// shelf is a store with a shopper of its own.
type shelf struct {
	*basket.Store
	redis   *redis.Client
	subject string
	trips   *atomic.Int32 // round trips so far
}

// onEach runs a test on every Redis there is.
func onEach(t *testing.T, test func(t *testing.T, s shelf)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newShelf(t, miniredis.RunT(t).Addr()))
	})
	if realRedis == "" {
		return
	}
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, newShelf(t, realRedis))
	})
}

func newShelf(t *testing.T, address string) shelf {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address})
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	trips := &atomic.Int32{}
	client.AddHook(counter{trips})
	return shelf{basket.NewStore(client), client, uuid.NewString(), trips}
}

// counter counts the round trips of commands.
type counter struct{ trips *atomic.Int32 }

func (counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		c.trips.Add(1)
		return next(ctx, command)
	}
}

func (c counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		c.trips.Add(1)
		return next(ctx, commands)
	}
}

func (s shelf) set(t *testing.T, book uuid.UUID, quantity int32) basket.Basket {
	t.Helper()
	b, err := s.Set(t.Context(), s.subject, book, quantity, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s shelf) get(t *testing.T) basket.Basket {
	t.Helper()
	b, err := s.Get(t.Context(), s.subject)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// want asserts the items of a basket: book, quantity, book, quantity.
func want(t *testing.T, b basket.Basket, pairs ...any) {
	t.Helper()
	var items []basket.Item
	for i := 0; i < len(pairs); i += 2 {
		items = append(items, basket.Item{BookID: pairs[i].(uuid.UUID), Quantity: int32(pairs[i+1].(int))})
	}
	if !slices.Equal(b.Items, items) {
		t.Errorf("the basket has %v, want %v", b.Items, items)
	}
}

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

func ids(n int) []uuid.UUID {
	books := make([]uuid.UUID, n)
	for i := range books {
		books[i] = uuid.New()
	}
	return books
}

func TestItemsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		books := ids(3)
		if b := s.get(t); b.Version != 0 || len(b.Items) != 0 {
			t.Errorf("a new shopper has %+v", b)
		}
		first := s.set(t, books[0], 1)
		s.set(t, books[1], 2)
		s.set(t, books[2], 99)
		last := s.set(t, books[0], 5) // keeps its place
		want(t, last, books[0], 5, books[1], 2, books[2], 99)
		if last.Version != first.Version+3 {
			t.Errorf("versions %d to %d, want 3 changes", first.Version, last.Version)
		}
		if same := s.set(t, books[0], 5); same.Version != last.Version {
			t.Error("setting what is set made a new version")
		}
		b, err := s.Remove(t.Context(), s.subject, books[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, b, books[0], 5, books[2], 99)
		again, err := s.Remove(t.Context(), s.subject, books[1], nil)
		if err != nil || again.Version != b.Version {
			t.Errorf("removing what is not there: version %d after %d, %v", again.Version, b.Version, err)
		}
		b = s.set(t, books[1], 1) // added anew, at the end
		want(t, b, books[0], 5, books[2], 99, books[1], 1)
		if got := s.get(t); got.Version != b.Version || !slices.Equal(got.Items, b.Items) {
			t.Errorf("read %+v after %+v", got, b)
		}
	})
}

func TestQuantityIsChecked(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		for _, quantity := range []int32{0, -1, 100, 1 << 30} {
			_, err := s.Set(t.Context(), s.subject, uuid.New(), quantity, nil)
			if f := refuse(t, err, fault.ReasonInvalidArgument); len(f.Fields) != 1 || f.Fields[0].Name != "quantity" {
				t.Errorf("%d: fields %v", quantity, f.Fields)
			}
		}
		want(t, s.get(t))
	})
}

func TestFullBasket(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		books := ids(basket.MaxItems)
		for _, book := range books {
			s.set(t, book, 1)
		}
		before := s.get(t)
		_, err := s.Set(t.Context(), s.subject, uuid.New(), 1, nil)
		refuse(t, err, fault.ReasonBasketFull)
		if after := s.get(t); after.Version != before.Version || len(after.Items) != basket.MaxItems {
			t.Errorf("a refused change left %d items", len(after.Items))
		}
		for i, item := range s.get(t).Items {
			if item.BookID != books[i] {
				t.Fatalf("item %d is out of order", i)
			}
		}
		s.set(t, books[7], 9) // no new book
		if _, err := s.Remove(t.Context(), s.subject, books[0], nil); err != nil {
			t.Fatal(err)
		}
		s.set(t, uuid.New(), 1)
	})
}

func TestStaleVersionChangesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		book := uuid.New()
		absent := int64(0)
		b, err := s.Set(t.Context(), s.subject, book, 1, &absent)
		if err != nil {
			t.Fatal(err)
		}
		seen := b.Version
		current, err := s.Set(t.Context(), s.subject, book, 2, &seen)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*int64) (basket.Basket, error){
			"set":    func(v *int64) (basket.Basket, error) { return s.Set(t.Context(), s.subject, book, 7, v) },
			"remove": func(v *int64) (basket.Basket, error) { return s.Remove(t.Context(), s.subject, book, v) },
			"clear":  func(v *int64) (basket.Basket, error) { return s.Clear(t.Context(), s.subject, v) },
		} {
			for _, old := range []int64{0, seen, current.Version + 1} {
				_, err := change(&old)
				if f := refuse(t, err, fault.ReasonStaleVersion); f.Metadata["etag"] != current.ETag() {
					t.Errorf("%s: the current etag is %q, want %q", name, f.Metadata["etag"], current.ETag())
				}
			}
		}
		want(t, s.get(t), book, 2)
	})
}

func TestOneOfConcurrentChangesWins(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		seen := s.set(t, uuid.New(), 1).Version
		var won atomic.Int32
		var group errgroup.Group
		for range 16 {
			group.Go(func() error {
				_, err := s.Set(t.Context(), s.subject, uuid.New(), 1, &seen)
				if fault.Is(err, fault.ReasonStaleVersion) {
					return nil
				}
				won.Add(1)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if won.Load() != 1 {
			t.Errorf("%d changes of the same version were made", won.Load())
		}
		for range 16 { // without a version none is lost
			group.Go(func() error {
				_, err := s.Set(t.Context(), s.subject, uuid.New(), 1, nil)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if b := s.get(t); len(b.Items) != 18 || b.Version != seen+17 {
			t.Errorf("%d items in version %d, want 18 in %d", len(b.Items), b.Version, seen+17)
		}
	})
}

func TestVersionOutlivesTheBasket(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		first := s.set(t, uuid.New(), 1)
		cleared, err := s.Clear(t.Context(), s.subject, &first.Version)
		if err != nil {
			t.Fatal(err)
		}
		want(t, cleared)
		if cleared.Version != first.Version+1 {
			t.Errorf("version %d after %d", cleared.Version, first.Version)
		}
		if again, err := s.Clear(t.Context(), s.subject, nil); err != nil || again.Version != cleared.Version {
			t.Errorf("clearing an empty basket: %+v, %v", again, err)
		}
		if next := s.set(t, uuid.New(), 1); next.Version != cleared.Version+1 {
			t.Errorf("version %d after %d", next.Version, cleared.Version)
		}
		// Redis lost the basket.
		last := s.set(t, uuid.New(), 2)
		for time.Now().UnixMilli() <= last.Version {
			runtime.Gosched() // versions begin at the clock; only a test changes faster than it ticks
		}
		if err := s.redis.Del(t.Context(), "basket:{"+s.subject+"}").Err(); err != nil {
			t.Fatal(err)
		}
		if fresh := s.set(t, uuid.New(), 1); fresh.Version <= last.Version {
			t.Errorf("version %d came back after %d", fresh.Version, last.Version)
		}
	})
}

func TestO5_ClearedOnlyInTheOrderedVersion(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		book, later := uuid.New(), uuid.New()
		clearVersion := func(version int64, want bool) {
			t.Helper()
			if cleared, err := s.ClearVersion(t.Context(), s.subject, version); err != nil || cleared != want {
				t.Errorf("version %d: cleared %t, %v; want %t", version, cleared, err, want)
			}
		}
		clearVersion(1, false) // there is no basket
		ordered := s.set(t, book, 1)
		changed := s.set(t, later, 1)
		clearVersion(ordered.Version, false)
		want(t, s.get(t), book, 1, later, 1)

		clearVersion(changed.Version, true)
		want(t, s.get(t))
		if b := s.get(t); b.Version <= changed.Version {
			t.Errorf("version %d after %d", b.Version, changed.Version)
		}
		clearVersion(changed.Version, true) // a retry
		s.set(t, later, 3)
		clearVersion(changed.Version, true) // a late retry
		want(t, s.get(t), later, 3)
		clearVersion(ordered.Version, false)
		want(t, s.get(t), later, 3)

		// What the shopper clears is not the order's doing.
		again := s.get(t)
		if _, err := s.Clear(t.Context(), s.subject, nil); err != nil {
			t.Fatal(err)
		}
		clearVersion(again.Version, false)
	})
}

func TestO5_ChangeRacingTheOrderIsKept(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		for range 30 {
			ordered, late := uuid.New(), uuid.New()
			if _, err := s.Clear(t.Context(), s.subject, nil); err != nil {
				t.Fatal(err)
			}
			version := s.set(t, ordered, 1).Version
			var cleared bool
			var group errgroup.Group
			group.Go(func() error { _, err := s.Set(t.Context(), s.subject, late, 1, nil); return err })
			group.Go(func() (err error) { cleared, err = s.ClearVersion(t.Context(), s.subject, version); return err })
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			if cleared {
				want(t, s.get(t), late, 1)
			} else {
				want(t, s.get(t), ordered, 1, late, 1)
			}
		}
	})
}

func TestA1_BasketsAreApart(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		book := uuid.New()
		mine := s.set(t, book, 1)
		for _, other := range []string{uuid.NewString(), s.subject + "}", s.subject + ":v", "{" + s.subject, strings.ToUpper(s.subject) + "X"} {
			if b, err := s.Get(t.Context(), other); err != nil || len(b.Items) != 0 {
				t.Errorf("%q reads %v, %v", other, b, err)
			}
			if _, err := s.Set(t.Context(), other, uuid.New(), 2, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Remove(t.Context(), other, book, nil); err != nil {
				t.Fatal(err)
			}
			if cleared, err := s.ClearVersion(t.Context(), other, mine.Version); err != nil || cleared {
				t.Errorf("%q cleared %t, %v", other, cleared, err)
			}
			if _, err := s.Clear(t.Context(), other, nil); err != nil {
				t.Fatal(err)
			}
		}
		if b := s.get(t); b.Version != mine.Version {
			t.Error("the basket was changed by another")
		}
		want(t, s.get(t), book, 1)
	})
}

func TestBasketExpiresAfterItsLastChange(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		book := uuid.New()
		s.set(t, book, 1)
		s.set(t, uuid.New(), 1)
		for name, change := range map[string]func() error{
			"set":    func() error { s.set(t, book, 2); return nil },
			"remove": func() error { _, err := s.Remove(t.Context(), s.subject, book, nil); return err },
			"clear":  func() error { _, err := s.Clear(t.Context(), s.subject, nil); return err },
		} {
			if err := s.redis.Persist(t.Context(), "basket:{"+s.subject+"}").Err(); err != nil {
				t.Fatal(err)
			}
			s.set(t, book, 9)
			s.set(t, book, 1)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			ttl, err := s.redis.TTL(t.Context(), "basket:{"+s.subject+"}").Result()
			if err != nil || ttl < 89*24*time.Hour || ttl > 90*24*time.Hour {
				t.Errorf("%s: lives for %s, %v", name, ttl, err)
			}
		}
	})
}

func TestEachOperationIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		book := uuid.New()
		operations := map[string]func() error{
			"set":           func() error { _, err := s.Set(t.Context(), s.subject, book, 1, nil); return err },
			"get":           func() error { _, err := s.Get(t.Context(), s.subject); return err },
			"remove":        func() error { _, err := s.Remove(t.Context(), s.subject, book, nil); return err },
			"clear":         func() error { _, err := s.Clear(t.Context(), s.subject, nil); return err },
			"clear version": func() error { _, err := s.ClearVersion(t.Context(), s.subject, 1); return err },
		}
		for name, operation := range operations {
			if err := operation(); err != nil { // loads the script
				t.Fatal(err)
			}
			before := s.trips.Load()
			if err := operation(); err != nil {
				t.Fatal(err)
			}
			if n := s.trips.Load() - before; n != 1 {
				t.Errorf("%s: %d round trips", name, n)
			}
		}
	})
}

func TestUnreadableBasketIsAnError(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		for _, field := range [][2]string{{"v", "x"}, {"not-a-book", "1:1"}, {uuid.NewString(), "1"}, {uuid.NewString(), "a:1"}, {uuid.NewString(), "1:99999999999"}} {
			key := "basket:{" + s.subject + "}"
			if err := s.redis.Del(t.Context(), key).Err(); err != nil {
				t.Fatal(err)
			}
			if err := s.redis.HSet(t.Context(), key, field[0], field[1]).Err(); err != nil {
				t.Fatal(err)
			}
			if b, err := s.Get(t.Context(), s.subject); err == nil {
				t.Errorf("%v was read as %+v", field, b)
			}
		}
	})
}

func TestETag(t *testing.T) {
	t.Parallel()
	for _, version := range []int64{0, 1, 1<<62 + 1} {
		etag := basket.Basket{Version: version}.ETag()
		for _, form := range []string{etag, strconv.Quote(etag)} {
			if got, err := basket.ParseETag(form); err != nil || got != version {
				t.Errorf("%s: got %d, %v", form, got, err)
			}
		}
	}
	for _, bad := range []string{"", "v", "1", "v-1", "v01", "v+1", `"v1`, `W/"v1"`, `""v1""`, "v99999999999999999999", "v1 ", "vv1", `"`} {
		_, err := basket.ParseETag(bad)
		if !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func FuzzParseETag(f *testing.F) {
	f.Add("v1")
	f.Add(`"v17"`)
	f.Fuzz(func(t *testing.T, etag string) {
		version, err := basket.ParseETag(etag)
		if err != nil {
			return
		}
		if again := (basket.Basket{Version: version}).ETag(); again != strings.Trim(etag, `"`) {
			t.Errorf("%q became %q", etag, again)
		}
	})
}
