// Package personaltest looks, in tests, for what a schema keeps of a person: in
// every column of every table, whoever made it.
package personaltest

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// versions is the table of the migrations. It has nothing of people, and goose
// decides what is in it.
const versions = "migration"

type column struct{ Table, Name string }

func (c column) String() string { return c.Table + "." + c.Name }

func columns(ctx context.Context, pool *pgxpool.Pool, schema string) ([]column, error) {
	rows, err := pool.Query(ctx, `
		select c.table_name, c.column_name from information_schema.columns c
		join information_schema.tables t using (table_schema, table_name)
		where c.table_schema = $1 and t.table_type = 'BASE TABLE' and c.table_name <> $2
		order by c.table_name, c.ordinal_position`, schema, versions)
	if err != nil {
		return nil, fmt.Errorf("list columns: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("the schema %s has no table", schema)
	}
	return found, err
}

// Find returns the columns of a schema in which one of the words is, in whatever
// case, as "table.column has word". Bytes are looked through for the word's UTF-8.
func Find(tb testing.TB, pool *pgxpool.Pool, schema string, words ...string) []string {
	tb.Helper()
	all, err := columns(tb.Context(), pool, schema)
	if err != nil {
		tb.Fatal(err)
	}
	var places []string
	for _, c := range all {
		for _, word := range words {
			var found bool
			err := pool.QueryRow(tb.Context(), fmt.Sprintf(
				`select exists (select from %[1]s where position($1 in lower(%[2]s::text)) > 0 or position($2 in lower(%[2]s::text)) > 0)`,
				pgx.Identifier{schema, c.Table}.Sanitize(), pgx.Identifier{c.Name}.Sanitize()),
				strings.ToLower(word), hex.EncodeToString([]byte(word))).Scan(&found)
			if err != nil {
				tb.Fatalf("search %s: %v", c, err)
			}
			if found {
				places = append(places, c.String()+" has "+word)
			}
		}
	}
	return places
}

// FindAnywhere is Find over the schemas of all contexts of a database, for a pool
// that may read them.
func FindAnywhere(tb testing.TB, pool *pgxpool.Pool, words ...string) []string {
	tb.Helper()
	rows, err := pool.Query(tb.Context(), `select table_schema::text from information_schema.tables where table_name = $1 order by 1`, versions)
	if err != nil {
		tb.Fatal(err)
	}
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(schemas) == 0 {
		tb.Fatalf("found %d schemas, %v", len(schemas), err)
	}
	var places []string
	for _, schema := range schemas {
		for _, place := range Find(tb, pool, schema, words...) {
			places = append(places, schema+"."+place)
		}
	}
	return places
}

// Rows returns every row of a schema as text, sorted.
func Rows(tb testing.TB, pool *pgxpool.Pool, schema string) []string {
	tb.Helper()
	all, err := columns(tb.Context(), pool, schema)
	if err != nil {
		tb.Fatal(err)
	}
	var found []string
	for i, c := range all {
		if i > 0 && all[i-1].Table == c.Table {
			continue
		}
		rows, err := pool.Query(tb.Context(), `select $1 || ' ' || t::text from `+pgx.Identifier{schema, c.Table}.Sanitize()+` t`, c.Table)
		if err != nil {
			tb.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			tb.Fatal(err)
		}
		found = append(found, texts...)
	}
	slices.Sort(found)
	return found
}

// Untouched reports as errors what of the rows before, a result of Rows, is no
// longer in the schema byte for byte.
func Untouched(tb testing.TB, pool *pgxpool.Pool, schema string, before []string) {
	tb.Helper()
	now := Rows(tb, pool, schema)
	for _, row := range before {
		if _, there := slices.BinarySearch(now, row); !there {
			tb.Errorf("changed or gone: %s", row)
		}
	}
}

// Classes says of each column of a schema what an erasure does to it. The columns
// are written as "table.column", with spaces between them.
type Classes struct {
	Erased    string // removed, alone or with its row
	Pseudonym string // gets the pseudonym
	Kept      string // of a person once, and of nobody under the pseudonym: the law or the accounts need it
	NotOfAny  string // says nothing of people
}

// Classify fails when a column of the schema is in none or several of the
// classes, or one that is in a class does not exist. So nobody adds a column
// without deciding what an erasure does to it.
func Classify(tb testing.TB, pool *pgxpool.Pool, schema string, c Classes) {
	tb.Helper()
	classes := make(map[string]int)
	for _, class := range []string{c.Erased, c.Pseudonym, c.Kept, c.NotOfAny} {
		for name := range strings.FieldsSeq(class) {
			classes[name]++
		}
	}
	all, err := columns(tb.Context(), pool, schema)
	if err != nil {
		tb.Fatal(err)
	}
	for _, c := range all {
		if n := classes[c.String()]; n != 1 {
			tb.Errorf("%s is in %d classes. Decide what an erasure does to it, let the context's personal.go do that, and add it here.", c, n)
		}
		delete(classes, c.String())
	}
	for name := range classes {
		tb.Errorf("%s is no column of the schema %s any more", name, schema)
	}
}
