package ordering

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Purchase is a book that somebody bought.
type Purchase struct {
	BookID    string
	OrderedAt time.Time // the last time
}

// Purchases returns up to limit books of a subject's orders that are confirmed or
// shipped, each once, the latest first; only the given ones unless there are none.
func (s *Store) Purchases(ctx context.Context, subject string, bookIDs []string, limit int) ([]Purchase, error) {
	rows, err := s.pool.Query(ctx, `
		select l.book_id, max(o.created_at) as ordered
		from orders o join order_line l on l.order_id = o.id
		where o.subject = $1 and o.status in ('CONFIRMED', 'SHIPPED') and (cardinality($2::uuid[]) = 0 or l.book_id = any ($2))
		group by l.book_id
		order by ordered desc, l.book_id
		limit $3`, subject, append([]string{}, bookIDs...), limit)
	if err != nil {
		return nil, fmt.Errorf("list purchases: %w", err)
	}
	purchases, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Purchase, err error) {
		err = row.Scan(&p.BookID, &p.OrderedAt)
		p.OrderedAt = p.OrderedAt.UTC()
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list purchases: %w", err)
	}
	return purchases, nil
}
