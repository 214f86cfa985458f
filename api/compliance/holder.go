package compliance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/structpb"

	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/personal"
)

// RegisterHolders adds PersonalDataService to the server of a process, for the
// contexts that the process serves, by name.
func RegisterHolders(server *connect.Server, holders map[string]personal.Holder) {
	compliancev1connect.RegisterPersonalDataServiceHandler(server, personalData{holders})
}

type personalData struct{ holders map[string]personal.Holder }

func (h personalData) holder(name string) (personal.Holder, error) {
	if holder := h.holders[name]; holder != nil {
		return holder, nil
	}
	problem := "is not one of " + strings.Join(slices.Sorted(maps.Keys(h.holders)), ", ")
	return nil, fault.New(fault.ReasonInvalidArgument, "The context %s.", problem).WithField("context", problem)
}

// ExportPersonalData returns a page of what a context has of a person.
func (h personalData) ExportPersonalData(
	ctx context.Context, req *compliancev1.ExportPersonalDataRequest,
) (*compliancev1.ExportPersonalDataResponse, error) {
	holder, err := h.holder(req.GetContext())
	if err != nil {
		return nil, err
	}
	sections, next, err := holder.Export(ctx, req.GetSubject(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &compliancev1.ExportPersonalDataResponse{NextPageToken: next}
	for _, section := range sections {
		packed, err := sectionProto(req.GetContext(), section.Name, section.Records)
		if err != nil {
			return nil, err
		}
		answer.Sections = append(answer.Sections, packed)
	}
	return answer, nil
}

// sectionProto packs the records of one kind that a context has of a person.
func sectionProto(from, name string, records []map[string]any) (*compliancev1.DataSection, error) {
	section := &compliancev1.DataSection{Context: from, Name: name}
	for _, record := range records {
		packed, err := structpb.NewStruct(record)
		if err != nil {
			return nil, fmt.Errorf("pack a record of %s: %w", name, err)
		}
		section.Records = append(section.Records, packed)
	}
	return section, nil
}

// ErasePersonalData erases what a context has of a person.
func (h personalData) ErasePersonalData(
	ctx context.Context, req *compliancev1.ErasePersonalDataRequest,
) (*compliancev1.ErasePersonalDataResponse, error) {
	holder, err := h.holder(req.GetContext())
	if err != nil {
		return nil, err
	}
	if req.GetPseudonym() == req.GetSubject() {
		const problem = "must not be the subject"
		return nil, fault.New(fault.ReasonInvalidArgument, "The pseudonym %s.", problem).WithField("pseudonym", problem)
	}
	erasure, err := holder.Erase(ctx, req.GetSubject(), req.GetPseudonym())
	if err != nil {
		return nil, err
	}
	return &compliancev1.ErasePersonalDataResponse{
		Erased: erasure.Erased, Kept: erasure.Kept, Note: erasure.Note, WaitingFor: erasure.WaitingFor,
	}, nil
}

// ApplyRetention deletes some of what a context has kept for long enough.
func (h personalData) ApplyRetention(
	ctx context.Context, req *compliancev1.ApplyRetentionRequest,
) (*compliancev1.ApplyRetentionResponse, error) {
	holder, err := h.holder(req.GetContext())
	if err != nil {
		return nil, err
	}
	deleted, more, err := holder.Retain(ctx)
	if err != nil {
		return nil, err
	}
	return &compliancev1.ApplyRetentionResponse{Deleted: deleted, More: more}, nil
}
