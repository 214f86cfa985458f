package gateway_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/rpc"
)

// crowd asks for a book rate times a second, whatever becomes of earlier requests,
// and returns the times of answers by status.
func (b *bundle) crowd(t *testing.T, rate int, length time.Duration) map[int][]time.Duration {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	defer client.CloseIdleConnections()
	times := make(map[int][]time.Duration)
	var mu sync.Mutex
	var group sync.WaitGroup
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began, sent := time.Now(), 0
	for time.Since(began) < length {
		<-tick.C
		for ; sent < int(time.Since(began).Seconds()*float64(rate)); sent++ {
			group.Go(func() {
				started := time.Now()
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/api/v1/books/"+aBook, nil)
				if err != nil {
					t.Error(err)
					return
				}
				response, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				mu.Lock()
				defer mu.Unlock()
				times[response.StatusCode] = append(times[response.StatusCode], time.Since(started))
				if response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") == "" {
					t.Error("turned away without Retry-After")
				}
			})
		}
	}
	group.Wait()
	for _, of := range times {
		slices.Sort(of)
	}
	return times
}

func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[int(float64(len(times)-1)*q)]
}

// A backend that does four calls at once, each in 20 ms, is asked for five times
// what it can do: it goes on answering as many as it can, and all others are turned
// away. How long they wait for it is what make bench-door measures.
func TestOverloadIsTurnedAway(t *testing.T) { //nolint:paralleltest // it is a load
	const work, capacity, seconds = 20 * time.Millisecond, 200, 3
	b := setup(t)
	slots := make(chan struct{}, 4)
	b.shop.answerBook(func(ctx context.Context, r *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		slots <- struct{}{}
		defer func() { <-slots }()
		select {
		case <-time.After(work):
		case <-ctx.Done():
		}
		return &catalogv1.GetBookResponse{Book: &catalogv1.Book{Id: r.GetId()}}, nil
	})
	times := b.crowd(t, 5*capacity, seconds*time.Second)
	t.Logf("%d answered, p50 %v p99 %v; %d turned away, p50 %v p99 %v", len(times[200]), quantile(times[200], .5), quantile(times[200], .99),
		len(times[503]), quantile(times[503], .5), quantile(times[503], .99))
	if len(times) != 2 || len(times[503]) < len(times[200]) || len(times[200]) == 0 {
		t.Errorf("%d were answered and %d turned away in %d s", len(times[200]), len(times[503]), seconds)
	}
}

// Whoever orders does not wait for those who look around.
func TestReadersKeepNobodyFromOrdering(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stuck, entered := make(chan struct{}), make(chan struct{}, 1000)
	b.shop.answerBook(func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		entered <- struct{}{}
		<-stuck
		return &catalogv1.GetBookResponse{}, nil
	})
	var readers sync.WaitGroup
	defer readers.Wait()
	defer close(stuck)
	client := &http.Client{Transport: rpc.Transport()}
	for end := time.Now().Add(10 * time.Second); ; {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/api/v1/books/"+aBook, nil)
		if err != nil {
			t.Fatal(err)
		}
		turned := make(chan int, 1)
		readers.Go(func() {
			if response, err := client.Do(request); err == nil {
				turned <- response.StatusCode
				_ = response.Body.Close()
			}
		})
		select {
		case <-entered:
			continue
		case status := <-turned:
			if status != http.StatusServiceUnavailable {
				t.Fatalf("got %d", status)
			}
		case <-time.After(time.Until(end)):
			t.Fatal("readers are let in without end, or wait without end")
		}
		break
	}
	shed := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "")
	if p := problemOf(t, shed); shed.status != http.StatusServiceUnavailable || p["reason"] != "OVERLOADED" || shed.header.Get("Retry-After") != "1" || shed.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("REST: got %d %v %s", shed.status, shed.header, shed.body)
	}
	for name, call := range b.callers(t) {
		if _, err := call(t.Context(), ""); reasonOf(err) != "OVERLOADED" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	alice := b.as("alice", "customer")
	if got := b.send(t, http.MethodPut, "/api/v1/basket/items/"+aBook, `{"quantity":1}`, alice...); got.status != http.StatusOK {
		t.Errorf("a basket: %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodPost, "/api/v1/orders", order, append(alice, "Idempotency-Key", "k")...); got.status != http.StatusOK {
		t.Errorf("an order: %d %s", got.status, got.body)
	}
}
