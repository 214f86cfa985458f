package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/identity"
	"bookworm/internal/telemetry"
)

const (
	// auditTimeout bounds how long a call waits for one entry of the audit log.
	auditTimeout = 2 * time.Second
	// auditQueue is how many outcomes wait for a log that is away, and auditPatience
	// how long one waits.
	auditQueue    = 1000
	auditPatience = 15 * time.Minute
	// auditRetry is the pause between tries, and auditLast what the end of the process
	// grants all of them together.
	auditRetry = time.Second
	auditLast  = 5 * time.Second
)

// staff are the roles whose calls are recorded.
var staff = []accessv1.Role{accessv1.Role_ROLE_ADMIN, accessv1.Role_ROLE_SUPPORT, accessv1.Role_ROLE_REPORTER}

// Audit records what the shop's staff does, through the compliance context. It is
// safe for concurrent use.
type Audit struct {
	log     compliancev1connect.AuditLogServiceClient
	logger  *slog.Logger
	waiting chan outcome
}

// outcome is an entry that the log did not take yet.
type outcome struct {
	entry *compliancev1.AuditEntry
	since time.Time
}

// NewAudit returns what records to a log. Run it, or an outcome that the log did not
// take at once is lost.
func NewAudit(log compliancev1connect.AuditLogServiceClient, logger *slog.Logger) *Audit {
	return &Audit{log: log, logger: logger, waiting: make(chan outcome, auditQueue)}
}

// Run brings outcomes to the log that were not taken when they happened, until ctx
// ends; then each gets one last try. One that is lost is logged with its action's
// id: its attempt stands in the log without an outcome.
func (a *Audit) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			a.last(context.WithoutCancel(ctx))
			return
		case o := <-a.waiting:
			a.deliver(ctx, o)
		}
	}
}

// deliver tries until the log takes the outcome, its time is over or ctx ends; once
// also then.
func (a *Audit) deliver(ctx context.Context, o outcome) {
	pause := time.NewTicker(auditRetry)
	defer pause.Stop()
	for {
		err := a.append(context.WithoutCancel(ctx), o.entry)
		if err == nil {
			return
		}
		if ctx.Err() != nil || time.Since(o.since) > auditPatience {
			a.lost(ctx, o.entry, err)
			return
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

// last tries what is still waiting once more, all of it within the time that the
// end of a process has for it.
func (a *Audit) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, auditLast)
	defer cancel()
	for {
		select {
		case o := <-a.waiting:
			if err := a.append(ctx, o.entry); err != nil {
				a.lost(ctx, o.entry, err)
			}
		default:
			return
		}
	}
}

func (a *Audit) lost(ctx context.Context, e *compliancev1.AuditEntry, err error) {
	a.logger.ErrorContext(ctx, "outcome is missing in the audit log", "action_id", e.GetActionId(), "procedure", e.GetProcedure(),
		"outcome", e.GetOutcome().String(), "reason", e.GetReason(), "error", err)
}

func (a *Audit) append(ctx context.Context, e *compliancev1.AuditEntry) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	if _, err := a.log.AppendAuditEntry(ctx, &compliancev1.AppendAuditEntryRequest{Entry: e}); err != nil {
		return fmt.Errorf("append to the audit log: %w", err)
	}
	return nil
}

// settle records what became of an action. The caller may be gone; what was done
// was done.
func (a *Audit) settle(ctx context.Context, e *compliancev1.AuditEntry) {
	ctx = context.WithoutCancel(ctx)
	err := a.append(ctx, e)
	if err == nil {
		return
	}
	a.logger.ErrorContext(ctx, "outcome is not in the audit log yet", "action_id", e.GetActionId(), "procedure", e.GetProcedure(), "error", err)
	select {
	case a.waiting <- outcome{e, time.Now()}:
	default:
		a.lost(ctx, e, err)
	}
}

// recording says what of a call to a procedure is recorded.
type recording int

const (
	nothing recording = iota
	// reading is one entry before the answer leaves.
	reading
	// acting is an entry before the handler runs and one after.
	acting
)

// recorded says how a caller's call is recorded: it is when a role of the staff is
// one of those that let the caller in, and the call changes something or reaches
// what is a customer's. A customer's own call is not, nor what somebody of the
// staff does as a customer, by a rule that names only customers.
func recorded(caller identity.Caller, method protoreflect.MethodDescriptor) recording {
	rule := RuleOf(method)
	if !slices.ContainsFunc(rule.GetRoles(), func(role accessv1.Role) bool { return slices.Contains(staff, role) && caller.Has(role) }) {
		return nothing
	}
	options, _ := method.Options().(*descriptorpb.MethodOptions)
	switch {
	case options.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		return acting
	case rule.GetOwnership() == accessv1.Ownership_OWNERSHIP_CALLER_OR_STAFF:
		return reading
	}
	return nothing
}

// auditing records the calls of the staff. It stands inside access and validation:
// what they refuse never was an action. When the log cannot take the attempt, or
// the entry of a reading, the call is refused: nothing happens unseen. A nil Audit
// refuses each call that it would have to record.
func auditing(a *Audit) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			caller := identity.FromContext(ctx)
			method, ok := spec.Schema.(protoreflect.MethodDescriptor)
			if !ok {
				return next(ctx, spec, stream)
			}
			how := recorded(caller, method)
			if how == nothing {
				return next(ctx, spec, stream)
			}
			if a == nil {
				return unrecorded(fmt.Errorf("no audit log is configured for %s", spec.Procedure))
			}
			entry := &compliancev1.AuditEntry{
				Actor: caller.Subject, Procedure: spec.Procedure, ActionId: newID(), TraceId: telemetry.TraceID(ctx),
			}
			for _, role := range caller.Roles {
				entry.Roles = append(entry.Roles, strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_")))
			}
			watched := &auditedStream{ServerStream: stream, ctx: ctx, audit: a, how: how, entry: entry, unary: spec.StreamType == connect.StreamTypeUnary}
			settled := fault.ReasonInternal // of a handler that panics
			defer func() {
				if how == acting && watched.attempted {
					a.settle(ctx, watched.outcome(settled))
				}
			}()
			err := next(ctx, spec, watched)
			settled = ""
			if err != nil {
				settled = reasonOf(ctx, err)
			}
			return err
		}
	}
}

// unrecorded is the refusal of a call that the audit log did not take.
func unrecorded(err error) error {
	return fault.New(fault.ReasonUnavailable, "The audit log cannot be written, so nothing was done.").WithCause(err)
}

// reasonOf returns the reason that the caller gets for an error.
func reasonOf(ctx context.Context, err error) fault.Reason {
	if f := fault.As(err); f != nil {
		return f.Reason
	}
	return ReasonOf(classify(ctx, err).Code())
}

// auditedStream records when the request has arrived, before the handler sees it,
// and when the answer to a reading is about to leave.
type auditedStream struct {
	connect.ServerStream
	ctx   context.Context //nolint:containedctx // of the call, as the stream itself
	audit *Audit
	how   recording
	unary bool

	entry     *compliancev1.AuditEntry // what the entries of the call have in common
	answered  map[string]string        // the ids in a single answer
	attempted bool
	read      bool
}

// Receive returns the request, of an action once its attempt is recorded. Of a
// stream of requests the first one counts.
func (s *auditedStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return err //nolint:wrapcheck // a stream in a chain
	}
	request, ok := msg.(proto.Message)
	if !ok {
		return unrecorded(fmt.Errorf("%T is no message", msg))
	}
	if s.entry.GetRequestHash() != "" {
		return nil
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return unrecorded(fmt.Errorf("encode the request: %w", err))
	}
	sum := sha256.Sum256(encoded)
	s.entry.RequestHash, s.entry.Target = hex.EncodeToString(sum[:]), idsOf(request)
	if s.how != acting {
		return nil
	}
	if err := s.audit.append(s.ctx, s.with(compliancev1.AuditEntry_ATTEMPTED, "")); err != nil {
		return unrecorded(err)
	}
	s.attempted = true
	return nil
}

// Send lets an answer out, that to a reading once it is recorded.
func (s *auditedStream) Send(msg any) error {
	if s.how == reading && !s.read {
		if err := s.audit.append(s.ctx, s.with(compliancev1.AuditEntry_SUCCEEDED, "")); err != nil {
			return unrecorded(err)
		}
		s.read = true
	}
	if answer, ok := msg.(proto.Message); ok && s.unary {
		s.answered = idsOf(answer)
	}
	return s.ServerStream.Send(msg) //nolint:wrapcheck // as above
}

// outcome is the second entry of an action. That of a success names what the answer
// holds beside what the request named: a book that is created has no id before.
func (s *auditedStream) outcome(failed fault.Reason) *compliancev1.AuditEntry {
	if failed != "" {
		return s.with(compliancev1.AuditEntry_FAILED, failed)
	}
	target := make(map[string]string)
	maps.Copy(target, s.entry.GetTarget())
	maps.Copy(target, s.answered)
	e := s.with(compliancev1.AuditEntry_SUCCEEDED, "")
	e.Target = target
	return e
}

func (s *auditedStream) with(outcome compliancev1.AuditEntry_Outcome, reason fault.Reason) *compliancev1.AuditEntry {
	e := proto.CloneOf(s.entry)
	e.Id, e.Outcome, e.Reason = newID(), outcome, string(reason)
	return e
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// idsOf returns the UUIDs in a message's fields that are named id or end in _id, by
// their path, for example "order_id" or "book.id". Nothing else of a request is
// recorded: it may be about a person.
func idsOf(message proto.Message) map[string]string {
	ids := make(map[string]string)
	collectIDs(message.ProtoReflect(), "", ids)
	return ids
}

func collectIDs(message protoreflect.Message, path string, ids map[string]string) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := path + string(field.Name())
		switch {
		case field.IsList() || field.IsMap():
		case field.Message() != nil:
			collectIDs(value.Message(), name+".", ids)
		case field.Kind() == protoreflect.StringKind && (field.Name() == "id" || strings.HasSuffix(string(field.Name()), "_id")):
			if id, err := uuid.Parse(value.String()); err == nil {
				ids[name] = id.String()
			}
		}
		return true
	})
}
