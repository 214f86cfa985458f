package compliance

import (
	"cmp"
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
)

// registerAudit adds AuditService and AuditLogService to a server.
func registerAudit(server *connect.Server, store *compliance.Store) {
	compliancev1connect.RegisterAuditServiceHandler(server, &audit{store})
	compliancev1connect.RegisterAuditLogServiceHandler(server, &auditLog{store})
}

// audit shows the log to those who may read it.
type audit struct{ store *compliance.Store }

const auditPageSize = 20

// ListAuditEntries lists entries, newest first.
func (h *audit) ListAuditEntries(
	ctx context.Context, req *compliancev1.ListAuditEntriesRequest,
) (*compliancev1.ListAuditEntriesResponse, error) {
	size := int(cmp.Or(req.GetPageSize(), auditPageSize))
	entries, next, err := h.store.ListAudit(ctx, compliance.AuditFilter{Actor: req.GetActor(), Procedure: req.GetProcedure()}, size, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &compliancev1.ListAuditEntriesResponse{NextPageToken: next}
	for i := range entries {
		answer.Entries = append(answer.Entries, entryProto(&entries[i]))
	}
	return answer, nil
}

// ExportAuditLog streams entries, oldest first, up to the one that was the last
// when it began.
func (h *audit) ExportAuditLog(
	ctx context.Context, req *compliancev1.ExportAuditLogRequest, stream compliancev1connect.AuditServiceExportAuditLogServerStream,
) error {
	for e, err := range h.store.Audit(ctx, req.GetAfterSequence()+1) {
		if err != nil {
			return err
		}
		if err := stream.Send(&compliancev1.ExportAuditLogResponse{Entry: entryProto(&e)}); err != nil {
			return err
		}
	}
	return nil
}

// VerifyAuditLog computes the chain anew.
func (h *audit) VerifyAuditLog(ctx context.Context, _ *compliancev1.VerifyAuditLogRequest) (*compliancev1.VerifyAuditLogResponse, error) {
	verdict, err := h.store.VerifyAudit(ctx)
	if err != nil {
		return nil, err
	}
	return &compliancev1.VerifyAuditLogResponse{
		Intact: verdict.BrokenAt == 0, Entries: verdict.Head.Sequence, Head: verdict.Head.Hash.String(), BrokenAt: verdict.BrokenAt,
	}, nil
}

// auditLog takes entries from the shop's own services.
type auditLog struct{ store *compliance.Store }

// AppendAuditEntry adds an entry.
func (h *auditLog) AppendAuditEntry(
	ctx context.Context, req *compliancev1.AppendAuditEntryRequest,
) (*compliancev1.AppendAuditEntryResponse, error) {
	e, err := entryOf(req.GetEntry())
	if err != nil {
		return nil, err
	}
	sequence, err := h.store.AppendAudit(ctx, e)
	if err != nil {
		return nil, err
	}
	return &compliancev1.AppendAuditEntryResponse{Sequence: sequence}, nil
}

// maxText is the longest text of an entry, in bytes, and maxItems the largest list
// or map: an entry is no place for content.
const (
	maxText  = 255
	maxItems = 50
)

// entryOf reads an entry of a service, whose fields the contract does not bound
// because answers have the same type.
func entryOf(m *compliancev1.AuditEntry) (compliance.AuditEntry, error) {
	e := compliance.AuditEntry{
		Actor: m.GetActor(), Roles: m.GetRoles(), Procedure: m.GetProcedure(), Target: m.GetTarget(), Outcome: m.GetOutcome().String(),
		Reason: m.GetReason(), TraceID: m.GetTraceId(),
	}
	invalid := func(field, problem string) (compliance.AuditEntry, error) {
		return compliance.AuditEntry{}, fault.New(fault.ReasonInvalidArgument, "entry.%s %s", field, problem).WithField("entry."+field, problem)
	}
	var err error
	if e.ID, err = uuid.Parse(m.GetId()); err != nil {
		return invalid("id", "is not a UUID")
	}
	if e.ActionID, err = uuid.Parse(m.GetActionId()); err != nil {
		return invalid("action_id", "is not a UUID")
	}
	hash, err := hex.DecodeString(m.GetRequestHash())
	if err != nil || len(hash) != len(e.RequestHash) {
		return invalid("request_hash", "is not a SHA-256 in hexadecimal")
	}
	copy(e.RequestHash[:], hash)
	switch m.GetOutcome() {
	case compliancev1.AuditEntry_ATTEMPTED, compliancev1.AuditEntry_SUCCEEDED, compliancev1.AuditEntry_FAILED:
	default:
		return invalid("outcome", "is none")
	}
	if len(e.Roles) > maxItems || len(e.Target) > maxItems {
		return invalid("target", "has too many items")
	}
	texts := map[string]string{"actor": e.Actor, "procedure": e.Procedure, "reason": e.Reason, "trace_id": e.TraceID}
	for _, role := range e.Roles {
		texts["roles."+role] = role
	}
	for field, id := range e.Target {
		texts["target."+field] = field + id
	}
	for field, text := range texts {
		if len(text) > maxText {
			return invalid(field, "is too long")
		}
	}
	if e.Actor == "" || e.Procedure == "" {
		return invalid("actor", "and procedure must be there")
	}
	return e, nil
}

func entryProto(e *compliance.AuditEntry) *compliancev1.AuditEntry {
	return &compliancev1.AuditEntry{
		Sequence: e.Sequence, Id: e.ID.String(), RecordedAt: timestamppb.New(e.RecordedAt), Actor: e.Actor, Roles: e.Roles, Procedure: e.Procedure,
		Target: e.Target, RequestHash: e.RequestHash.String(),
		Outcome: compliancev1.AuditEntry_Outcome(compliancev1.AuditEntry_Outcome_value[e.Outcome]), Reason: e.Reason,
		ActionId: e.ActionID.String(), TraceId: e.TraceID, PreviousHash: e.PreviousHash.String(), Hash: e.Hash.String(),
	}
}

// LogAuditHead logs the end of the audit log at once and at every interval, until
// ctx ends. Logs leave for another system, and a head that stands there shows when
// the log is cut off later.
func LogAuditHead(ctx context.Context, store *compliance.Store, every time.Duration, logger *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		head, err := store.AuditHead(ctx)
		switch {
		case err == nil:
			logger.InfoContext(ctx, "head of the audit log", "entries", head.Sequence, "head", head.Hash.String())
		case ctx.Err() == nil:
			logger.ErrorContext(ctx, "head of the audit log is not known", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
