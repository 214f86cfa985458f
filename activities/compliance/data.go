package compliance

import (
	"context"
	"fmt"

	"go.temporal.io/sdk/activity"

	"bookworm/internal/compliance"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
)

// CollectData stores all that a context has of the person, and returns how many
// records that was, with a note when not all of it fitted. It heartbeats with each
// page, and begins anew when it is repeated.
func (a *Activities) CollectData(ctx context.Context, r Request, from string) (compliance.Step, error) {
	holder, err := a.holder(from)
	if err != nil {
		return compliance.Step{}, err
	}
	if err := a.Privacy.ClearPages(ctx, r.ID, from); err != nil {
		return compliance.Step{}, err
	}
	step := compliance.Step{Context: from, Done: true}
	for page, token := 0, ""; ; page++ {
		got, err := holder.ExportPersonalData(ctx, &compliancev1.ExportPersonalDataRequest{Subject: r.Subject, Context: from, PageToken: token})
		if err != nil {
			return compliance.Step{}, fmt.Errorf("collect from %s: %w", from, err)
		}
		var sections []compliance.Section
		var records int64
		for _, s := range got.GetSections() {
			section := compliance.Section{Context: from, Name: s.GetName()}
			for _, record := range s.GetRecords() {
				section.Records = append(section.Records, record.AsMap())
			}
			records += int64(len(section.Records))
			sections = append(sections, section)
		}
		if len(sections) > 0 {
			fits, err := a.Privacy.PutPage(ctx, r.Subject, r.ID, from, page, sections)
			if err != nil {
				return compliance.Step{}, err
			}
			if !fits {
				step.Note = fmt.Sprintf("An export holds %d MiB; the rest did not fit. Write to us for it.", compliance.MaxExport>>20)
				return step, nil
			}
			step.Records += records
		}
		if token = got.GetNextPageToken(); token == "" {
			return step, nil
		}
		activity.RecordHeartbeat(ctx, page)
	}
}

// Erased is what became of a person's data in a context.
type Erased struct {
	Erased, Kept int64
	Note         string
	WaitingFor   []string
}

// EraseData erases what a context has of the person, or puts the request's
// pseudonym in the subject's place, or says what must end first.
func (a *Activities) EraseData(ctx context.Context, r Request, from string) (Erased, error) {
	holder, err := a.holder(from)
	if err != nil {
		return Erased{}, err
	}
	pseudonym, err := a.Privacy.Pseudonym(ctx, r.ID)
	if err != nil {
		return Erased{}, err
	}
	got, err := holder.ErasePersonalData(ctx, &compliancev1.ErasePersonalDataRequest{Subject: r.Subject, Pseudonym: pseudonym, Context: from})
	if err != nil {
		return Erased{}, fmt.Errorf("erase from %s: %w", from, err)
	}
	return Erased{Erased: got.GetErased(), Kept: got.GetKept(), Note: got.GetNote(), WaitingFor: got.GetWaitingFor()}, nil
}

// ApplyRetention deletes what a context has kept for as long as it is kept, and
// returns how much that was, by kind. It heartbeats with each call.
func (a *Activities) ApplyRetention(ctx context.Context, from string) (map[string]int64, error) {
	holder, err := a.holder(from)
	if err != nil {
		return nil, err
	}
	deleted := make(map[string]int64)
	for {
		got, err := holder.ApplyRetention(ctx, &compliancev1.ApplyRetentionRequest{Context: from})
		if err != nil {
			return nil, fmt.Errorf("apply retention in %s: %w", from, err)
		}
		for kind, n := range got.GetDeleted() {
			deleted[kind] += n
		}
		if !got.GetMore() {
			return deleted, nil
		}
		activity.RecordHeartbeat(ctx)
	}
}

func (a *Activities) holder(from string) (compliancev1connect.PersonalDataServiceClient, error) {
	holder := a.Holders[from]
	if holder == nil {
		return nil, fmt.Errorf("nobody holds data of people for the context %q", from)
	}
	return holder, nil
}
