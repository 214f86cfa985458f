// Package e2e tests the whole shop through its public API: the production
// wiring, in this process and with the race detector, on real PostgreSQL, Redis
// and Temporal in a process of their own.
package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"bookworm/dev/folder"
	"bookworm/dev/psp"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/postgres"
	"bookworm/internal/telemetry"
)

// program is the bookworm-dev binary, without the race detector.
var program = os.Getenv("BOOKWORM_DEV_BINARY")

// patience is how long a test waits for anything.
const patience = 60 * time.Second

// The one shop that the tests share. Each test has shoppers and books of its own.
var (
	theShop *shop.Shop
	theLog  = &logBuffer{}
	// theSettings are what the shop was started with.
	theSettings map[string]string
	orders      client.Client
	stock       *catalog.Store
	dbs         *pgxpool.Pool

	personalDataKey, serviceSecret string
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "bookworm-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if program == "" {
		program = filepath.Join(dir, "bookworm-dev")
		build := exec.Command("go", "build", "-o", program, "../cmd/bookworm-dev")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return 0, fmt.Errorf("build bookworm-dev: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	stopInfra, addresses, err := start(ctx, "infra", filepath.Join(dir, "infra"))
	if err != nil {
		return 0, err
	}
	defer stopInfra()
	f, err := folder.Open(filepath.Join(dir, "shop"))
	if err != nil {
		return 0, err
	}
	personalDataKey, serviceSecret = f.Secrets.PersonalDataKey, f.Secrets.ServiceSecret
	// What the shop logs is read again by the test of invariant A3.
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "bookworm", LogLevel: slog.LevelDebug, LogWriter: theLog})
	if err != nil {
		return 0, err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if theShop, err = shop.Start(ctx, f, addresses, shop.Options{
		Logger: logger, Telemetry: tel, Environ: shop.Unlimited, Config: func(settings map[string]string) { theSettings = maps.Clone(settings) },
	}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, theShop.Stop(), f.Close(), tel.Shutdown(context.Background())) }()
	orders, err = client.DialContext(ctx, client.Options{
		HostPort: addresses["BOOKWORM_TEMPORAL_ADDRESS"], Namespace: addresses["BOOKWORM_TEMPORAL_NAMESPACE"], Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return 0, err
	}
	defer orders.Close()
	if dbs, err = pgxpool.New(ctx, addresses["BOOKWORM_DATABASE_URL"]); err != nil {
		return 0, err
	}
	defer dbs.Close()
	pool, err := postgres.Open(ctx, addresses["BOOKWORM_DATABASE_URL"], catalog.Schema.Name)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	stock = catalog.NewStore(pool)
	return m.Run(), nil
}

// start runs a command of bookworm-dev on a folder until stop is called, and
// returns when it has published its addresses.
func start(ctx context.Context, command, dir string, environ ...string) (stop func(), a folder.Addresses, err error) {
	p, a, err := launch(ctx, command, dir, environ...)
	if err != nil {
		return nil, nil, err
	}
	return func() {
		if err := errors.Join(p.cmd.Process.Signal(syscall.SIGTERM), p.wait()); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: %s did not stop cleanly: %v\n%s", command, err, p.stderr.String())
		}
	}, a, nil
}

// process is a running bookworm-dev.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *logBuffer
	wait           func() error
}

func launch(ctx context.Context, command, dir string, environ ...string) (*process, folder.Addresses, error) {
	// Not CommandContext: the process outlives the context of its start.
	p := &process{cmd: exec.Command(program, command), stdout: &logBuffer{}, stderr: &logBuffer{}} //nolint:gosec,noctx // our own binary
	p.cmd.Env = slices.Concat(os.Environ(), []string{"BOOKWORM_DATA=" + dir}, environ)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", command, err)
	}
	ended := make(chan struct{})
	p.wait = sync.OnceValue(p.cmd.Wait)
	go func() {
		_ = p.wait() // whoever stops it reads the error
		close(ended)
	}()
	a, err := shopper.Await(ctx, func(context.Context) (folder.Addresses, error) {
		select {
		case <-ended:
			return nil, fmt.Errorf("%s ended: %w\n%s", command, p.wait(), p.stderr.String())
		default:
		}
		a, err := folder.Lookup(dir)
		if errors.Is(err, folder.ErrNotRunning) {
			return folder.Addresses{}, nil // not yet
		}
		return a, err
	}, func(a folder.Addresses) bool { return a["BOOKWORM_PID"] == strconv.Itoa(p.cmd.Process.Pid) })
	if err != nil {
		return nil, nil, errors.Join(err, p.cmd.Process.Kill())
	}
	return p, a, nil
}

// logBuffer keeps what is logged. It is safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines calls back for each line.
func (l *logBuffer) lines(each func(string)) {
	s := bufio.NewScanner(strings.NewReader(l.String()))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		each(s.Text())
	}
}

// visit is one test's visit to the shop: its own shopper and its own books.
type visit struct {
	*shopper.Shopper

	t       *testing.T
	ctx     context.Context // the life of the test
	subject string
	email   string
}

// enter brings a new shopper into the shop.
func enter(t *testing.T) *visit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	v := &visit{t: t, ctx: ctx, subject: uuid.NewString()}
	v.email = "reader-" + v.subject + "@bookworm.example"
	v.Shopper = &shopper.Shopper{
		Gateway: theShop.Addresses["BOOKWORM_GATEWAY_URL"],
		HTTP:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}},
		Token:   issue(t, map[string]any{"sub": v.subject, "email": v.email, "name": "Reader " + v.subject[:8], "exp": time.Now().Add(time.Hour)}),
	}
	return v
}

// issue returns a token of a customer with some claims changed.
func issue(t *testing.T, claims map[string]any) string {
	t.Helper()
	token, err := theShop.Identity.IssueWith("alice", claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// bookNumber makes each test's books different.
var bookNumber struct {
	sync.Mutex
	next int
}

func newISBN() string {
	bookNumber.Lock()
	defer bookNumber.Unlock()
	bookNumber.next++
	digits := fmt.Sprintf("979%09d", bookNumber.next)
	return digits + checkDigit(digits)
}

// book puts a new book on sale and returns its id.
func book(t *testing.T, priceMinor int64, copies int) string {
	t.Helper()
	isbn := newISBN()
	_, err := stock.Seed(t.Context(), []seed.Book{{
		ISBN13: isbn, Title: "Test Book " + isbn, Authors: []string{"Tess Ter"}, Year: 2026, Language: "en", Pages: 100,
		Categories: []string{"fiction"}, Publisher: "BookWorm", Description: "A book that exists for one test.",
		PriceMinor: priceMinor, Currency: "USD", Stock: copies,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return catalog.SeedID(isbn).String()
}

// checkDigit is the last digit of an ISBN-13 (ISO 2108).
func checkDigit(twelve string) string {
	sum := 0
	for i, r := range twelve {
		sum += int(r-'0') * []int{1, 3}[i%2]
	}
	return fmt.Sprint((10 - sum%10) % 10)
}

// fill puts one copy of each book into the basket.
func (v *visit) fill(books ...string) *basketv1.Basket {
	v.t.Helper()
	var basket *basketv1.Basket
	for _, id := range books {
		var err error
		if basket, err = v.Put(v.ctx, id, 1); err != nil {
			v.t.Fatal(err)
		}
	}
	return basket
}

// order places what is in the basket.
func (v *visit) order(paymentMethod string) *orderingv1.Order {
	v.t.Helper()
	order, _, err := v.Place(v.ctx, uuid.NewString(), shopper.Request(paymentMethod))
	if err != nil {
		v.t.Fatal(err)
	}
	return order
}

// becomes waits for an order's status, and records the histories of its processes
// under a name.
func (v *visit) becomes(order *orderingv1.Order, status orderingv1.Order_Status) *orderingv1.Order {
	v.t.Helper()
	now, err := v.AwaitOrder(v.ctx, order.GetId(), status)
	if err != nil {
		v.t.Fatalf("order %s: %v", order.GetId(), err)
	}
	return now
}

// effects returns what the payment provider did for an order, by kind.
func effects(orderID string) map[psp.EffectKind]int {
	count := make(map[psp.EffectKind]int)
	for _, e := range theShop.Payments.Effects() {
		if e.OrderID == orderID {
			count[e.Kind]++
		}
	}
	return count
}

// available returns how many copies of a book can be ordered.
func (v *visit) available(book string) int32 {
	v.t.Helper()
	b, err := v.Book(v.ctx, book)
	if err != nil {
		v.t.Fatal(err)
	}
	return b.GetAvailableQuantity()
}
