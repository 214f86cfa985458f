package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/dev/folder"
	"bookworm/dev/infra"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
)

// Sizes of the chat run.
const (
	turns     = 100 // of one client, of each kind
	listeners = 200 // conversations at once
	words     = 180 // of a long answer: some four seconds of talk
)

const atLength = "Good day to you, please talk to me at length"

// Chat measures the bookseller on a stack of its own: what it adds to the model's
// own time before the first words, how late words arrive while many talk at once,
// and what each conversation takes in memory. The bare limit beside it is the same
// number of clients that listen to the model itself.
func Chat(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintf(out, "machine: %s, %d cores, %s, %s\n", cpuModel(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, runtime.Version())
	fmt.Fprintf(out, "model: thinks %s before each answer, then a word every %s, %d words a sentence\n\n", thinking, pace, sentence)
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
	var m *model
	var modelErr error
	s, err := shop.Start(ctx, f, i.Addresses, shop.Options{Logger: logger, Environ: shop.Unlimited, Config: func(settings map[string]string) {
		if m, modelErr = startModel(ctx, settings["BOOKWORM_OPENAI_BASE_URL"]); modelErr == nil {
			settings["BOOKWORM_OPENAI_BASE_URL"] = m.url
		}
	}})
	if m != nil {
		defer m.stop()
	}
	if err := errors.Join(err, modelErr); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	c := &chat{shop: s, model: m}
	for range listeners {
		who, err := c.person()
		if err != nil {
			return err
		}
		c.people = append(c.people, who)
	}
	if err := c.overhead(ctx, out); err != nil {
		return err
	}
	return c.crowd(ctx, out)
}

type chat struct {
	shop   *shop.Shop
	model  *model
	people []*shopper.Shopper
}

func (c *chat) person() (*shopper.Shopper, error) {
	token, err := c.shop.Identity.IssueWith("alice", map[string]any{"sub": uuid.NewString(), "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		return nil, fmt.Errorf("make a shopper: %w", err)
	}
	return &shopper.Shopper{
		Gateway: c.shop.Addresses["BOOKWORM_GATEWAY_URL"], Token: token,
		HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
	}, nil
}

// overhead measures the time to the first words, less the model's own.
func (c *chat) overhead(ctx context.Context, out io.Writer) error {
	fmt.Fprintf(out, "Time to the first words that the model did not take itself, one client, %d turns of each kind:\n\n", turns)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tp50 ms\tp95 ms\tp99 ms\tgoal p99\t")
	for _, kind := range []struct{ name, text string }{
		{"answered at once", "Good day to you"}, {"after a search", "Please look for something to read"},
	} {
		var took []time.Duration
		for n := range turns + 5 {
			c.model.own()
			began := time.Now()
			// A conversation of its own: the history's length is the model's matter.
			turn, err := c.people[n%len(c.people)].Say(ctx, "", uuid.NewString(), kind.text)
			if err != nil {
				return fmt.Errorf("say: %w", err)
			}
			for first := false; !first; {
				event, err := turn.Next()
				if err != nil {
					return fmt.Errorf("listen: %w", err)
				}
				if done := event.GetDone(); done != nil {
					return fmt.Errorf("a turn without words ended %s", done.GetOutcome())
				}
				first = event.GetDelta() != ""
			}
			if n >= 5 { // the first ones warm up
				took = append(took, time.Since(began)-c.model.own())
			}
			if _, err := turn.Each(func(string) {}); err != nil {
				return fmt.Errorf("listen: %w", err)
			}
		}
		slices.Sort(took)
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t<= 50\t\n", kind.name, ms(at(took, 0.5)), ms(at(took, 0.95)), ms(at(took, 0.99)))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// crowd lets many listen at once, to the shop and to the model itself.
func (c *chat) crowd(ctx context.Context, out io.Writer) error {
	type outcome struct {
		last, all []time.Duration // how old words were when they arrived: the last of each delivery, and all
		memory    int64           // for each conversation, in bytes
	}
	load := func(listen func(who int, arrived func(text string)) error) (outcome, error) {
		var o outcome
		var mu sync.Mutex
		before := live()
		var group errgroup.Group
		for who := range listeners {
			group.Go(func() error {
				return listen(who, func(text string) {
					ages := c.model.ages(text, time.Now())
					if len(ages) == 0 {
						return
					}
					mu.Lock()
					o.last = append(o.last, ages[len(ages)-1])
					o.all = append(o.all, ages...)
					mu.Unlock()
				})
			})
		}
		wait(ctx, words*pace/2) // in the middle of the talk
		o.memory = (live() - before) / listeners
		err := group.Wait()
		slices.Sort(o.last)
		slices.Sort(o.all)
		return o, err
	}
	bare, err := load(func(_ int, arrived func(string)) error { return c.model.listen(ctx, arrived) })
	if err != nil {
		return err
	}
	own, err := load(func(who int, arrived func(string)) error {
		turn, err := c.people[who].Say(ctx, "", uuid.NewString(), atLength)
		if err != nil {
			return fmt.Errorf("say: %w", err)
		}
		done, err := turn.Each(arrived)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if len(strings.Fields(done.GetText())) < words {
			return fmt.Errorf("a turn ended %s with %q", done.GetOutcome(), done.GetText())
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d conversations at once, %d words each:\n\n", listeners, words)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tdelivery p50 ms\tp95 ms\tp99 ms\tgoal p99\twords held back, p99 ms\tKB for each\tgoal\t")
	for _, row := range []struct {
		name string
		outcome
	}{{"the bookseller", own}, {"the model itself", bare}} {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t<= 100\t%.1f\t%d\t\t\n", row.name, ms(at(row.last, 0.5)), ms(at(row.last, 0.95)),
			ms(at(row.last, 0.99)), ms(at(row.all, 0.99)), row.memory/1000)
	}
	fmt.Fprintf(t, "the shop's share\t\t\t\t\t\t%d\t<= 200\t\n", (own.memory-bare.memory)/1000)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	_, err = fmt.Fprint(out, "\nDelivery is from the last word of a piece leaving the model to the piece reaching the client; a sentence is held back until it is checked.\n"+
		"Memory is live heap and stacks of this process, which holds shop, model and clients, in the middle of the talk, less that before it.\n")
	return err
}

// live is the memory in use after a collection, in bytes.
func live() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse) //nolint:gosec // far below
}

// at returns the value that a share of the sorted ones stays at or below.
func at(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// listen is a client of the model itself.
func (m *model) listen(ctx context.Context, arrived func(string)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url+"/chat/completions",
		strings.NewReader(`{"stream": true, "messages": [{"role": "user", "content": "`+atLength+`"}]}`))
	if err != nil {
		return fmt.Errorf("ask the model: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the model: %w", err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, is := strings.CutPrefix(lines.Text(), "data: ")
		if !is || data == "[DONE]" {
			continue
		}
		var chunk struct {
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return fmt.Errorf("listen to the model: %w", err)
		}
		if len(chunk.Choices) > 0 {
			arrived(chunk.Choices[0].Delta.Content)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("listen to the model: %w", err)
	}
	return nil
}
