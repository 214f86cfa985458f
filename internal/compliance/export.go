package compliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/personal"
)

// MaxExport is how much an export holds, in bytes of JSON. The gateway's answers
// end at 16 MiB.
const MaxExport = 12 << 20

// Section is one kind of record of a person.
type Section struct {
	Context string           `json:"context"`
	Name    string           `json:"name"`
	Records []map[string]any `json:"records"`
}

// ClearPages forgets what an export has collected of a context, so that its
// collection can begin.
func (s *PrivacyStore) ClearPages(ctx context.Context, id uuid.UUID, from string) error {
	if _, err := s.db.Exec(ctx, `delete from export_page where request_id = $1 and context = $2`, id, from); err != nil {
		return fmt.Errorf("clear pages of an export: %w", err)
	}
	return nil
}

// PutPage adds a page of a context's data to an export that is under way, sealed.
// It reports false, and adds nothing, when the export would grow over MaxExport.
func (s *PrivacyStore) PutPage(ctx context.Context, subject string, id uuid.UUID, from string, page int, sections []Section) (fits bool, err error) {
	encoded, err := json.Marshal(sections)
	if err != nil {
		return false, fmt.Errorf("encode a page of an export: %w", err)
	}
	sealed, err := s.sealer.Seal(ctx, subject, pageLabel(id, from, page), sections)
	if err != nil {
		return false, err
	}
	tag, err := s.db.Exec(ctx, `
		insert into export_page (request_id, context, page, size, sealed)
		select id, $2, $3, $4::bigint, $5 from data_request
		where id = $1 and completed_at is null
			and $4::bigint + (select coalesce(sum(size), 0) from export_page where request_id = $1) <= $6
		on conflict (request_id, context, page) do update set size = excluded.size, sealed = excluded.sealed`,
		id, from, page, int64(len(encoded)), []byte(sealed), int64(MaxExport))
	if err != nil {
		return false, fmt.Errorf("store a page of an export: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// pageLabel is the label under which a page is sealed: it opens in its place only.
func pageLabel(id uuid.UUID, from string, page int) string {
	return fmt.Sprintf("export/%s/%s/%d", id, from, page)
}

// Collected returns what a person's export has collected, in the order of its
// steps. Errors: DATA_REQUEST_NOT_FOUND, also for somebody else's;
// EXPORT_NOT_READY while it is collected, after it expired, and for an erasure.
func (s *PrivacyStore) Collected(ctx context.Context, subject string, id uuid.UUID) (Request, []Section, error) {
	request, err := s.Request(ctx, subject, id)
	if err != nil {
		return Request{}, nil, err
	}
	if request.Kind != Export || request.State != Done {
		return Request{}, nil, notReady()
	}
	var sections []Section
	for _, step := range request.Steps {
		rows, err := s.db.Query(ctx, `select page, sealed from export_page where request_id = $1 and context = $2 order by page`, id, step.Context)
		if err != nil {
			return Request{}, nil, fmt.Errorf("read an export: %w", err)
		}
		var page int
		var sealed []byte
		_, err = pgx.ForEachRow(rows, []any{&page, &sealed}, func() error {
			var more []Section
			if err := s.sealer.Open(ctx, subject, pageLabel(id, step.Context, page), sealed, &more); err != nil {
				return err
			}
			for _, section := range more {
				sections = appendSection(sections, section)
			}
			return nil
		})
		if errors.Is(err, personal.ErrErased) {
			return Request{}, nil, notReady()
		}
		if err != nil {
			return Request{}, nil, fmt.Errorf("read an export: %w", err)
		}
	}
	return request, sections, nil
}

func notReady() error {
	return fault.New(fault.ReasonExportNotReady, "There is nothing to fetch: it is still being collected, or is over.")
}

// appendSection adds a section, or its records to the one that it goes on from.
func appendSection(all []Section, next Section) []Section {
	if last := len(all) - 1; last >= 0 && all[last].Context == next.Context && all[last].Name == next.Name {
		all[last].Records = append(all[last].Records, next.Records...)
		return all
	}
	return append(all, next)
}
