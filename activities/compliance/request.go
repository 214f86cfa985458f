// Package compliance holds the activities of people's requests for their data, and
// of the shop's own deletion of what it has kept for long enough. They run on the
// compliance task queue and are idempotent by the request's id. What belongs to a
// context is asked of that context's API.
package compliance

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"bookworm/internal/compliance"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/process"
)

// TaskQueue is where exports, erasures and retention run.
const TaskQueue = "compliance"

// Contexts lists the contexts that have data of people, in the order in which they
// erase it: what can go at once goes before what may have to wait for an order.
// Compliance comes last: until then it keeps what an export has collected.
var Contexts = []string{"basket", "rating", "chat", "ordering", "finance", "notification", "compliance"}

// Activities is what the activities need. The clients carry the service's own
// credential.
type Activities struct {
	Privacy *compliance.PrivacyStore
	Log     *compliance.Store
	// Holders has a client for each of Contexts.
	Holders map[string]compliancev1connect.PersonalDataServiceClient
}

// Request names a person's request.
type Request struct {
	ID      uuid.UUID
	Subject string
	Kind    compliance.Kind
}

// Begun is a request that stands in the database.
type Begun struct {
	ID    uuid.UUID // of a fresh export where that stands for the one that was asked for
	Done  bool      // nothing is left to do
	Steps []compliance.Step
}

// BeginRequest writes the request down. Errors: ERASURE_IN_PROGRESS for an export
// beside an erasure; UNAVAILABLE when another request of the kind is under way.
func (a *Activities) BeginRequest(ctx context.Context, r Request, steps []compliance.Step) (Begun, error) {
	begun, err := a.Privacy.Begin(ctx, r.Subject, r.ID, r.Kind, steps)
	if err != nil {
		return Begun{}, process.Refusal(err)
	}
	return Begun{ID: begun.ID, Done: !begun.CompletedAt.IsZero(), Steps: begun.Steps}, nil
}

// ShowProgress writes down how far a request is.
func (a *Activities) ShowProgress(ctx context.Context, r Request, state compliance.State, steps []compliance.Step) error {
	return a.Privacy.Progress(ctx, r.ID, state, steps)
}

// CompleteExport makes an export ready to be fetched and returns until when.
func (a *Activities) CompleteExport(ctx context.Context, r Request, steps []compliance.Step) (time.Time, error) {
	return a.Privacy.CompleteExport(ctx, r.ID, steps)
}

// CountKeys returns how many keys a shopper has.
func (a *Activities) CountKeys(ctx context.Context, r Request) (int64, error) {
	return a.Privacy.CountKeys(ctx, r.Subject)
}

// CompleteErasure destroys the shopper's keys and completes the request.
func (a *Activities) CompleteErasure(ctx context.Context, r Request, steps []compliance.Step) error {
	return a.Privacy.CompleteErasure(ctx, r.Subject, r.ID, steps)
}

// procedures are how people ask for each kind.
var procedures = map[compliance.Kind]string{
	compliance.Export:  compliancev1connect.PrivacyServiceRequestExportProcedure,
	compliance.Erasure: compliancev1connect.PrivacyServiceRequestErasureProcedure,
}

// RecordProof adds to the audit log that a request was answered, and its proof. The
// person is not named: nothing is ever taken out of the log.
func (a *Activities) RecordProof(ctx context.Context, r Request, proof string) error {
	var asked proto.Message = &compliancev1.RequestExportRequest{}
	if r.Kind == compliance.Erasure {
		asked = &compliancev1.RequestErasureRequest{Confirm: true}
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(asked)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	_, err = a.Log.AppendAudit(ctx, compliance.AuditEntry{
		ID: uuid.NewSHA1(r.ID, []byte("proof")), Actor: TaskQueue, Roles: []string{"service"}, Procedure: procedures[r.Kind],
		Target: map[string]string{"request_id": r.ID.String(), "proof": proof}, RequestHash: sha256.Sum256(encoded),
		Outcome: compliance.OutcomeSucceeded, ActionID: r.ID,
	})
	return err
}
