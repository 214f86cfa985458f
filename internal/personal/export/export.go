// Package export reads what a context has of a person from PostgreSQL, a page at a
// time, for a personal.Holder whose records are what its rows say.
package export

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/page"
	"bookworm/internal/personal"
)

// Part is a kind of record.
type Part struct {
	Name string
	// Query returns of each record its key (a UUID and a bigint) and the record as
	// JSON, in the order of the keys. $1 is the subject, $2 and $3 the key after which
	// to begin, $4 how many records to return.
	Query string
}

// UTC writes a timestamptz of a query as RFC 3339 has it, in UTC.
func UTC(expression string) string {
	return `to_char(` + expression + ` at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`
}

// Page returns a page of up to size records of a subject's, all of one part, as
// Export of personal.Holder does. The list's name tells the tokens of contexts
// apart. Errors: PAGE_TOKEN_INVALID.
func Page(
	ctx context.Context, db *pgxpool.Pool, list string, parts []Part, subject, token string, size int,
) (sections []personal.Section, next string, err error) {
	part, id, number := 0, uuid.Nil, int64(-1)
	if token != "" {
		if err := page.Decode(token, list, subject, &part, &id, &number); err != nil {
			return nil, "", err
		}
	}
	for ; part >= 0 && part < len(parts); part++ {
		rows, err := db.Query(ctx, parts[part].Query, subject, id, number, size)
		if err != nil {
			return nil, "", fmt.Errorf("export %s: %w", parts[part].Name, err)
		}
		records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (record map[string]any, err error) {
			var raw []byte
			if err := row.Scan(&id, &number, &raw); err != nil {
				return nil, err
			}
			return record, json.Unmarshal(raw, &record)
		})
		if err != nil {
			return nil, "", fmt.Errorf("export %s: %w", parts[part].Name, err)
		}
		if len(records) > 0 {
			next, err = page.Encode(list, subject, part, id, number)
			return []personal.Section{{Name: parts[part].Name, Records: records}}, next, err
		}
		id, number = uuid.Nil, -1
	}
	return nil, "", nil
}
