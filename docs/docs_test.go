// Package docs_test keeps the pages of this folder true: what they say about the
// code is compared with the code. Run it with -update to write the parts that are
// made from code.
package docs_test

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bookworm/api/gateway"
	"bookworm/internal/fault"
	"bookworm/internal/identity"
	"bookworm/internal/rpc"
)

var update = flag.Bool("update", false, "write the parts of the pages that are made from code")

const root = ".."

// proven lists the invariants that must have a test named after them.
var proven = []string{"M3", "M4", "S1", "S3", "S5", "O1", "O2", "O4", "O5", "N3", "A1", "A2"}

func TestInvariantsNameTheirTests(t *testing.T) {
	t.Parallel()
	tests := invariantTests(t)
	for _, id := range proven {
		if len(tests[id]) == 0 {
			t.Errorf("no test is named after %s", id)
		}
	}
	page := read(t, "invariants.md")
	for id := range tests {
		if !strings.Contains(page, begin("tests "+id)) {
			t.Errorf("invariants.md says nothing of %s, which has tests", id)
		}
	}
	blocks := make(map[string]string)
	for _, match := range regexp.MustCompile(`<!-- begin (tests (\w+)) -->`).FindAllStringSubmatch(page, -1) {
		list := "No test is named after it yet.\n"
		if names := tests[match[2]]; len(names) > 0 {
			list = "- " + strings.Join(names, "\n- ") + "\n"
		}
		blocks[match[1]] = list
	}
	compare(t, "invariants.md", blocks)
}

// invariantTests returns the tests of both modules that are named after an
// invariant, by invariant.
func invariantTests(t *testing.T) map[string][]string {
	t.Helper()
	named := regexp.MustCompile(`(?m)^func (Test([A-Z]\d)_\w+)\(`)
	tests := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		for _, match := range named.FindAllStringSubmatch(string(source), -1) {
			tests[match[2]] = append(tests[match[2]], fmt.Sprintf("`%s` in `%s`", match[1], filepath.ToSlash(folder)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range tests {
		slices.Sort(names)
	}
	return tests
}

func TestReasonsAreInTheAPIPage(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| reason | RPC code | HTTP status | meaning |\n|---|---|---|---|\n")
	for _, reason := range slices.Sorted(maps.Keys(fault.Reasons)) {
		fmt.Fprintf(&table, "| `%s` | `%s` | %d | %s |\n",
			reason, rpc.Coded(fault.New(reason, "")).Code(), restStatus(t, reason), fault.Reasons[reason].Title)
	}
	compare(t, "api.md", map[string]string{"reasons": table.String()})
}

// refusing is a verifier that answers every token with one fault.
type refusing struct{ reason fault.Reason }

func (r refusing) Verify(context.Context, string) (identity.Caller, error) {
	return identity.Caller{}, fault.New(r.reason, "")
}

// restStatus asks the gateway in which status it gives a reason.
func restStatus(t *testing.T, reason fault.Reason) int {
	t.Helper()
	// No call reaches the backend: the token is refused first.
	door, err := gateway.New(t.Context(), gateway.Options{
		Backends: map[string]string{"catalog": "http://127.0.0.1:9"}, Verifier: refusing{reason}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/books", nil)
	request.Header.Set("Authorization", "Bearer token")
	answer := httptest.NewRecorder()
	door.ServeHTTP(answer, request)
	return answer.Code
}

func TestEveryDependencyHasItsLine(t *testing.T) {
	t.Parallel()
	page := read(t, "dependencies.md")
	listed := make(map[string]bool)
	for _, match := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(page, -1) {
		listed[match[1]] = true
	}
	used := make(map[string]bool)
	required := make(map[string][]string)
	for _, module := range []string{"go.mod", "dev/go.mod", "tools/go.mod", "tools/lint/go.mod", "api/client/go/go.mod"} {
		required[module] = direct(t, module)
	}
	for _, file := range []string{"tools/npm/package.json", "api/client/typescript/package.json"} {
		required[file] = packages(t, file)
	}
	for module, paths := range required {
		for _, path := range paths {
			used[path] = true
			if !listed[path] {
				t.Errorf("dependencies.md does not say what %s of %s is for", path, module)
			}
		}
	}
	for path := range listed {
		if !used[path] {
			t.Errorf("dependencies.md lists %s, which no module requires", path)
		}
	}
}

// direct returns what a go.mod requires for code of its module, and its tools.
func direct(t *testing.T, file string) []string {
	t.Helper()
	var paths []string
	block := ""
	for line := range strings.Lines(read(t, filepath.Join(root, file))) {
		line, comment, _ := strings.Cut(strings.TrimSpace(line), "//")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[1] == "(":
			block = fields[0]
		case len(fields) > 0 && fields[0] == ")":
			block = ""
		case len(fields) == 3 && fields[0] == "require":
			fields = fields[1:]
			fallthrough
		case block == "require" && len(fields) == 2:
			if !strings.Contains(comment, "indirect") && fields[0] != "bookworm" {
				paths = append(paths, fields[0])
			}
		case len(fields) == 2 && fields[0] == "tool":
			paths = append(paths, fields[1])
		case block == "tool" && len(fields) == 1:
			paths = append(paths, fields[0])
		}
	}
	return paths
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	pages := []string{"../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, page := range pages {
		for _, match := range link.FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), match[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, match[1], err)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func begin(block string) string { return "<!-- begin " + block + " -->\n" }

// compare says where a page's blocks are not what the code makes of them, or
// writes them when asked to.
func compare(t *testing.T, path string, blocks map[string]string) {
	t.Helper()
	page := read(t, path)
	want := page
	for name, content := range blocks {
		before, rest, ok := strings.Cut(want, begin(name))
		_, after, closed := strings.Cut(rest, "<!-- end -->\n")
		if !ok || !closed {
			t.Fatalf("%s has no block %q", path, name)
		}
		want = before + begin(name) + content + "<!-- end -->\n" + after
	}
	switch {
	case want == page:
	case *update:
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s does not say what the code does: run make update-docs", path)
	}
}
