package personal

import (
	"context"
	"encoding/json"
	"fmt"
)

// Holder is a context's share of what people may ask of their own data. Every
// context that has data of people has one.
type Holder interface {
	// Export returns a page of all the context has of a person, and the token of the
	// next page, "" on the last one. The first page's token is "".
	Export(ctx context.Context, subject, pageToken string) (sections []Section, next string, err error)
	// Erase erases all the context has of a person, or puts the pseudonym in the
	// subject's place where a record must be kept. It is idempotent. When something
	// must end first it changes nothing and says what.
	Erase(ctx context.Context, subject, pseudonym string) (Erasure, error)
	// Retain deletes some of what has been kept for as long as it is kept, by kind,
	// and says whether there is more.
	Retain(ctx context.Context) (deleted map[string]int64, more bool, err error)
}

// Section is one kind of record of a person.
type Section struct {
	Name    string           // for example "orders"
	Records []map[string]any // of values that encoding/json makes: nil, bool, float64, string, []any, map[string]any
}

// Erasure is what became of a person's data in a context.
type Erasure struct {
	Erased     int64    // records erased now
	Kept       int64    // records that stay under the pseudonym
	Note       string   // why they stay
	WaitingFor []string // what must end first; nothing was changed then
}

// Records returns values in the form of a Section's records: as their JSON reads.
func Records[T any](values ...T) ([]map[string]any, error) {
	records := make([]map[string]any, len(values))
	for i, value := range values {
		raw, err := json.Marshal(value)
		if err == nil {
			err = json.Unmarshal(raw, &records[i])
		}
		if err != nil {
			return nil, fmt.Errorf("make a record of %T: %w", value, err)
		}
	}
	return records, nil
}
