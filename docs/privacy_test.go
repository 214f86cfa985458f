package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRetentionPeriodsAreInThePrivacyPage reads the constants whose names begin with
// keep, with the reasons beside them.
func TestRetentionPeriodsAreInThePrivacyPage(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := []string{"| context | kept | why | for |\n|---|---|---|---|\n"}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range parsed.Decls {
			constants, ok := declared.(*ast.GenDecl)
			if !ok || constants.Tok != token.CONST {
				continue
			}
			for _, spec := range constants.Specs {
				row := retention(t, parsed.Name.Name, constants, spec.(*ast.ValueSpec))
				if row != "" {
					rows = append(rows, row)
				}
			}
		}
	}
	if len(rows) < 10 {
		t.Errorf("only %d periods were found", len(rows)-1)
	}
	compare(t, "privacy.md", map[string]string{"retention": strings.Join(rows, "")})
}

// retention returns the row of a constant that is a period of retention. Its
// comment must say "<name> is how long <what>: <why>".
func retention(t *testing.T, context string, of *ast.GenDecl, spec *ast.ValueSpec) string {
	t.Helper()
	name := spec.Names[0].Name
	if !strings.HasPrefix(name, "keep") || len(spec.Values) != 1 {
		return ""
	}
	doc := spec.Doc
	if doc == nil {
		doc = of.Doc
	}
	what, why, ok := strings.Cut(strings.Join(strings.Fields(doc.Text()), " "), ": ")
	what, said := strings.CutPrefix(what, name+" is how long ")
	if !ok || !said {
		t.Errorf("the comment of %s.%s is not %q", context, name, name+" is how long <what>: <why>")
		return ""
	}
	return fmt.Sprintf("| %s | %s | %s | %s |\n", context, what, why, period(t, spec.Values[0]))
}

// period writes a product of numbers and units of time in days or hours.
func period(t *testing.T, value ast.Expr) string {
	t.Helper()
	d := duration(t, value)
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return fmt.Sprintf("%g h", d.Hours())
}

func duration(t *testing.T, value ast.Expr) time.Duration {
	t.Helper()
	switch v := value.(type) {
	case *ast.BasicLit:
		n, err := strconv.Atoi(v.Value)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(n)
	case *ast.BinaryExpr:
		if v.Op == token.MUL {
			return time.Duration(int64(duration(t, v.X)) * int64(duration(t, v.Y)))
		}
	case *ast.SelectorExpr:
		if v.Sel.Name == "Hour" {
			return time.Hour
		}
	}
	t.Fatalf("a period is a product of numbers and time.Hour, not %T", value)
	return 0
}
