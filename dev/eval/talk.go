package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"bookworm/dev/folder"
	"bookworm/dev/infra"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
)

// counter is the whole shop, whose bookseller is asked as shoppers ask.
type counter struct {
	folder *folder.Folder
	infra  *infra.Infra
	shop   *shop.Shop

	catalogue []seed.Book
	byID      map[string]seed.Book
}

// openCounter runs the shop in a folder. With a chat model of its own, the endpoint
// takes the place of the embedded models.
func openCounter(ctx context.Context, dir string, e Endpoint, logger *slog.Logger) (*counter, error) {
	c := &counter{byID: make(map[string]seed.Book)}
	if err := c.open(ctx, dir, e, logger); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *counter) open(ctx context.Context, dir string, e Endpoint, logger *slog.Logger) (err error) {
	if c.catalogue, err = seed.Books(); err != nil {
		return err
	}
	for _, b := range c.catalogue {
		c.byID[catalog.SeedID(b.ISBN13).String()] = b
	}
	if c.folder, err = folder.Open(dir); err != nil {
		return err
	}
	if c.infra, err = infra.Start(ctx, c.folder, logger); err != nil {
		return err
	}
	options := shop.Options{Logger: logger, Environ: shop.Unlimited}
	if e.ChatModel != "" {
		options.Environ = append(slices.Clone(shop.Unlimited),
			"BOOKWORM_OPENAI_BASE_URL="+e.BaseURL, "BOOKWORM_OPENAI_API_KEY="+string(e.APIKey), "BOOKWORM_CHAT_MODEL="+e.ChatModel,
			"BOOKWORM_EMBEDDING_MODEL="+e.EmbeddingModel, fmt.Sprintf("BOOKWORM_EMBEDDING_DIMENSION=%d", e.Dimension))
	}
	if c.shop, err = shop.Start(ctx, c.folder, c.infra.Addresses, options); err != nil {
		return err
	}
	return c.awaitIndex(ctx)
}

func (c *counter) close() error {
	var errs []error
	if c.shop != nil {
		errs = append(errs, c.shop.Stop())
	}
	if c.infra != nil {
		errs = append(errs, c.infra.Stop())
	}
	if c.folder != nil {
		errs = append(errs, c.folder.Close())
	}
	return errors.Join(errs...)
}

// awaitIndex waits until searches use the index.
func (c *counter) awaitIndex(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, indexPatience)
	defer cancel()
	anybody := &shopper.Shopper{Gateway: c.shop.Addresses["BOOKWORM_GATEWAY_URL"]}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		found := &catalogv1.SearchBooksResponse{}
		if _, err := anybody.Do(ctx, http.MethodGet, "/api/v1/books:search?query=dune", nil, found); err != nil {
			return fmt.Errorf("await the search index: %w", err)
		}
		if found.GetMode() == catalogv1.SearchMode_SEARCH_MODE_HYBRID {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await the search index: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// reply is the bookseller's answer to one question.
type reply struct {
	text      string
	outcome   chatv1.Done_Outcome
	citations map[int]*chatv1.Citation
	books     int // cards of books
}

// ask has somebody new ask the bookseller: no history and no spent budget colours
// the answer.
func (c *counter) ask(ctx context.Context, question string) (r reply, err error) {
	token, err := c.shop.Identity.IssueWith("alice", map[string]any{
		"sub": uuid.NewString(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		return reply{}, fmt.Errorf("make a shopper: %w", err)
	}
	who := &shopper.Shopper{Gateway: c.shop.Addresses["BOOKWORM_GATEWAY_URL"], Token: token}
	turn, err := who.Say(ctx, "", uuid.NewString(), question)
	if err != nil {
		return reply{}, err
	}
	defer func() { err = errors.Join(err, turn.Close()) }()
	r.citations = make(map[int]*chatv1.Citation)
	for {
		event, err := turn.Next()
		if errors.Is(err, io.EOF) {
			return reply{}, errors.New("the turn ended without a done event")
		}
		if err != nil {
			return reply{}, err
		}
		switch {
		case event.GetCitation() != nil:
			r.citations[int(event.GetCitation().GetNumber())] = event.GetCitation()
		case event.GetCard().GetBook() != nil:
			r.books++
		case event.GetDone() != nil:
			r.text, r.outcome = event.GetDone().GetText(), event.GetDone().GetOutcome()
			return r, nil
		}
	}
}

// talk asks what nothing answers and what the catalogue does, and judges the
// answers.
func (c *counter) talk(ctx context.Context, queries []Query, questions []Question) (Talk, error) {
	var t Talk
	for _, q := range queries {
		if q.Stratum != Unanswerable {
			continue
		}
		r, err := c.ask(ctx, q.Question)
		if err != nil {
			return Talk{}, fmt.Errorf("ask %s: %w", q.ID, err)
		}
		t.Unanswerable++
		if abstains(r) {
			t.Abstained++
		} else {
			t.Wrong = append(t.Wrong, fmt.Sprintf("%s %q is not abstained from (%s): %q", q.ID, q.Question, r.outcome, r.text))
		}
	}
	for _, q := range questions {
		r, err := c.ask(ctx, q.Text)
		if err != nil {
			return Talk{}, fmt.Errorf("ask %s: %w", q.ID, err)
		}
		t.Answerable++
		if c.cites(r, q.About) {
			t.Cited++
		} else {
			t.Wrong = append(t.Wrong, fmt.Sprintf("%s %q cites no book that it is about (%s): %q", q.ID, q.Text, r.outcome, r.text))
		}
		citations, wrong := c.check(r)
		t.Citations += citations
		t.Supported += citations - len(wrong)
		for _, w := range wrong {
			t.Wrong = append(t.Wrong, fmt.Sprintf("%s %q: %s", q.ID, q.Text, w))
		}
	}
	return t, nil
}

// denials are the ways in which a bookseller says that the shop does not have
// something.
var denials = []string{
	"don't have", "do not have", "doesn't have", "does not have", "don't sell", "do not sell", "not in our catalogue", "not in the catalogue", "isn't in",
	"is not in", "found no", "found nothing", "find no", "couldn't find", "could not find", "cannot find", "can't find",
	"nothing in our", "nothing in the", "no book", "only help", "only talk",
}

// abstains reports whether an answer offers nothing for what the shop does not have:
// no citation, no book, and a word that it is not there.
func abstains(r reply) bool {
	text := strings.ReplaceAll(strings.ToLower(r.text), "’", "'")
	says := slices.ContainsFunc(denials, func(d string) bool { return strings.Contains(text, d) })
	return says && len(r.citations) == 0 && r.books == 0 && !mark.MatchString(text) &&
		(r.outcome == chatv1.Done_ANSWERED || r.outcome == chatv1.Done_REFUSED)
}

func (c *counter) cites(r reply, about []string) bool {
	for _, s := range sentences(r.text) {
		for _, n := range s.marks {
			if b, known := c.byID[r.citations[n].GetBookId()]; known && slices.Contains(about, b.ISBN13) {
				return true
			}
		}
	}
	return false
}

// check counts the citations in an answer, and says of each that is wrong why.
func (c *counter) check(r reply) (citations int, wrong []string) {
	for _, s := range sentences(r.text) {
		marks := slices.Compact(slices.Sorted(slices.Values(s.marks)))
		citations += len(marks)
		var cited []seed.Book
		for _, n := range marks {
			if b, known := c.byID[r.citations[n].GetBookId()]; known {
				cited = append(cited, b)
				continue
			}
			wrong = append(wrong, fmt.Sprintf("[%d] in %q is of no book", n, s.text))
		}
		if len(cited) == 0 {
			continue
		}
		if reason := unsupported(s.text, cited, c.catalogue); reason != "" {
			for range cited {
				wrong = append(wrong, fmt.Sprintf("%s: %q", reason, s.text))
			}
		}
	}
	return citations, wrong
}
