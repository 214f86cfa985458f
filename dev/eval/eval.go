package eval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"bookworm/dev/llm"
)

// Run evaluates search and bookseller on stacks of its own, in temporary folders,
// with the embedded models or, where it is not zero, with the endpoint. It prints the
// results, writes them into the page (docs/evaluation.md; "" for none) and returns an
// error that names each gate that was missed.
func Run(ctx context.Context, e Endpoint, page string, out io.Writer) (err error) {
	queries, err := Queries()
	if err != nil {
		return err
	}
	questions, err := Questions()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bookworm-eval-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))

	answers, err := retrieve(ctx, filepath.Join(dir, "library"), e, queries, logger)
	if err != nil {
		return err
	}
	table := rows(answers)
	talk, err := converse(ctx, filepath.Join(dir, "shop"), e, queries, questions, logger)
	if err != nil {
		return err
	}
	text := results(e, table, talk, time.Now())
	fmt.Fprintln(out, text)
	printMisses(out, answers[Hybrid])
	for _, w := range talk.Wrong {
		fmt.Fprintln(out, w)
	}
	if page != "" {
		if err := write(page, e, text); err != nil {
			return err
		}
	}
	var missed []error
	for _, gate := range gates(table, talk, e.Genuine) {
		missed = append(missed, errors.New("gate missed: "+gate))
	}
	return errors.Join(missed...)
}

func retrieve(ctx context.Context, dir string, e Endpoint, queries []Query, logger *slog.Logger) (answers map[Leg][]Answer, err error) {
	if e.BaseURL == "" {
		model, err := llm.Start(ctx, llm.Options{Logger: logger})
		if err != nil {
			return nil, fmt.Errorf("start the embedded model: %w", err)
		}
		defer model.Stop()
		e.BaseURL, e.EmbeddingModel, e.Dimension = model.URL(), embeddedEmbedding, embeddedDimension
	}
	l, err := openLibrary(ctx, dir, e, logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return l.answers(ctx, queries)
}

func converse(ctx context.Context, dir string, e Endpoint, queries []Query, questions []Question, logger *slog.Logger) (t Talk, err error) {
	c, err := openCounter(ctx, dir, e, logger)
	if err != nil {
		return Talk{}, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	return c.talk(ctx, queries, questions)
}

// results is what a run found, as Markdown.
func results(e Endpoint, table []Row, talk Talk, when time.Time) string {
	var out strings.Builder
	embedding, chat := embeddedEmbedding, embeddedChat
	if e.EmbeddingModel != "" {
		embedding = fmt.Sprintf("%s/%d", e.EmbeddingModel, e.Dimension)
	}
	if e.ChatModel != "" {
		chat = e.ChatModel
	}
	fmt.Fprintf(&out, "%s; %s, %d cores, %s/%s; embedding model `%s`, chat model `%s`.\n\n",
		when.UTC().Format(time.DateOnly), cpuModel(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, embedding, chat)
	out.WriteString(markdown(table))
	out.WriteString("\n| bookseller | count | share | gate |\n|---|---|---|---|\n")
	for _, line := range []struct {
		name        string
		part, whole int
		gate        string
	}{
		{"abstains from what the shop does not have", talk.Abstained, talk.Unanswerable, ">= 0.9"},
		{"cites a book that the question is about", talk.Cited, talk.Answerable, ">= 0.9"},
		{"citations that support their sentence", talk.Supported, talk.Citations, "1.0"},
	} {
		fmt.Fprintf(&out, "| %s | %d of %d | %.3f | %s |\n", line.name, line.part, line.whole, share(line.part, line.whole), line.gate)
	}
	return out.String()
}

// printMisses lists, for people, the queries with a gate of their own that hybrid
// search missed.
func printMisses(out io.Writer, answers []Answer) {
	for _, a := range answers {
		exact := a.Query.Stratum == Exact && a.Recall1 < 1
		typo := a.Query.Stratum == Typo && a.Recall10 < 1
		if exact || typo {
			fmt.Fprintf(out, "%s %q: recall@1 %.2f, recall@10 %.2f, found %v, want %v\n",
				a.Query.ID, a.Query.Text, a.Recall1, a.Recall10, a.Ranked, a.Query.Relevant)
		}
	}
}

// write replaces what stands in the page between the marks of the kind of models.
func write(page string, e Endpoint, text string) error {
	kind := "embedded"
	if e.Genuine {
		kind = "real"
	}
	content, err := os.ReadFile(page) //nolint:gosec // the caller names the page
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	begin, end := []byte("<!-- begin "+kind+" models -->\n"), []byte("<!-- end "+kind+" models -->")
	head, rest, ok := bytes.Cut(content, begin)
	_, tail, closed := bytes.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no marks %q and %q", page, begin, end)
	}
	content = bytes.Join([][]byte{head, begin, []byte(text), end, tail}, nil)
	if err := os.WriteFile(page, content, 0o644); err != nil { //nolint:gosec // a page of the documentation
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}
