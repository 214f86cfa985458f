package compliance

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/activities/notification"
	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/identity"
	"bookworm/workflows/dataexport"
	"bookworm/workflows/datarequest"
	"bookworm/workflows/erasure"
)

type privacy struct{ Deps }

// RequestExport starts the collection of the caller's data, or joins the one that
// is under way.
func (h *privacy) RequestExport(ctx context.Context, _ *compliancev1.RequestExportRequest) (*compliancev1.RequestExportResponse, error) {
	in, err := h.input(ctx, compliance.Export)
	if err != nil {
		return nil, err
	}
	id, err := dataexport.Request(ctx, h.Temporal, h.Privacy.Pseudonymous(in.Subject), in)
	if err != nil {
		return nil, err
	}
	request, err := h.request(ctx, id)
	return &compliancev1.RequestExportResponse{Request: request}, err
}

// RequestErasure starts the erasure of the caller's data, or joins the one that is
// under way.
func (h *privacy) RequestErasure(ctx context.Context, _ *compliancev1.RequestErasureRequest) (*compliancev1.RequestErasureResponse, error) {
	in, err := h.input(ctx, compliance.Erasure)
	if err != nil {
		return nil, err
	}
	id, err := erasure.Request(ctx, h.Temporal, h.Privacy.Pseudonymous(in.Subject), in)
	if err != nil {
		return nil, err
	}
	request, err := h.request(ctx, id)
	return &compliancev1.RequestErasureResponse{Request: request}, err
}

// input is what the process of a request needs of the caller. A request that is
// under way keeps its id: should its process have been ended by an operator, this
// one goes on with it.
func (h *privacy) input(ctx context.Context, kind compliance.Kind) (datarequest.Input, error) {
	caller := identity.FromContext(ctx)
	in := datarequest.Input{Subject: caller.Subject}
	underWay, err := h.Privacy.UnderWay(ctx, caller.Subject, kind)
	switch {
	case err == nil:
		in.RequestID = underWay.ID
	case !fault.Is(err, fault.ReasonDataRequestNotFound):
		return in, err
	default:
		if in.RequestID, err = uuid.NewV7(); err != nil {
			return in, fmt.Errorf("make the request's id: %w", err)
		}
	}
	if caller.Email == "" {
		return in, nil
	}
	contact := notification.Contact{Email: string(caller.Email), Name: string(caller.Name)}
	in.Contact, err = h.Privacy.Sealer().Seal(ctx, caller.Subject, in.RequestID.String(), contact)
	return in, err
}

func (h *privacy) request(ctx context.Context, id uuid.UUID) (*compliancev1.DataRequest, error) {
	found, err := h.Privacy.Request(ctx, identity.FromContext(ctx).Subject, id)
	if err != nil {
		return nil, err
	}
	return requestProto(found), nil
}

// GetDataRequest returns one of the caller's requests.
func (h *privacy) GetDataRequest(ctx context.Context, req *compliancev1.GetDataRequestRequest) (*compliancev1.GetDataRequestResponse, error) {
	id, err := parseID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	request, err := h.request(ctx, id)
	return &compliancev1.GetDataRequestResponse{Request: request}, err
}

// ListDataRequests lists the caller's requests, newest first.
func (h *privacy) ListDataRequests(ctx context.Context, _ *compliancev1.ListDataRequestsRequest) (*compliancev1.ListDataRequestsResponse, error) {
	found, err := h.Privacy.Requests(ctx, identity.FromContext(ctx).Subject)
	if err != nil {
		return nil, err
	}
	answer := &compliancev1.ListDataRequestsResponse{}
	for _, r := range found {
		answer.Requests = append(answer.Requests, requestProto(r))
	}
	return answer, nil
}

// DownloadExport returns what an export of the caller's collected.
func (h *privacy) DownloadExport(ctx context.Context, req *compliancev1.DownloadExportRequest) (*compliancev1.DownloadExportResponse, error) {
	id, err := parseID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	request, sections, err := h.Privacy.Collected(ctx, identity.FromContext(ctx).Subject, id)
	if err != nil {
		return nil, err
	}
	answer := &compliancev1.DownloadExportResponse{Request: requestProto(request)}
	for _, section := range sections {
		packed, err := sectionProto(section.Context, section.Name, section.Records)
		if err != nil {
			return nil, err
		}
		answer.Sections = append(answer.Sections, packed)
	}
	return answer, nil
}

func requestProto(r compliance.Request) *compliancev1.DataRequest {
	out := &compliancev1.DataRequest{
		Id: r.ID.String(), Kind: compliancev1.DataRequest_Kind(compliancev1.DataRequest_Kind_value[string(r.Kind)]),
		State:       compliancev1.DataRequest_State(compliancev1.DataRequest_State_value[string(r.State)]),
		RequestedAt: timestamppb.New(r.RequestedAt), CompletedAt: timeProto(r.CompletedAt), ExpiresAt: timeProto(r.ExpiresAt), Proof: r.Proof,
	}
	for _, s := range r.Steps {
		out.Steps = append(out.Steps, &compliancev1.DataRequestStep{Context: s.Context, Done: s.Done, Records: s.Records, Kept: s.Kept, Note: s.Note})
	}
	return out
}

func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
