package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"bookworm/internal/fault"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
)

// problemType is the address under which a problem's type stands, followed by
// the reason in lower case with dashes.
const problemType = "https://bookworm.example/problems/"

// statuses is the one table from kinds to HTTP status codes.
var statuses = map[fault.Kind]int{
	fault.Internal:        http.StatusInternalServerError,
	fault.Invalid:         http.StatusBadRequest,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Denied:          http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.Stale:           http.StatusPreconditionFailed,
	fault.Conflict:        http.StatusUnprocessableEntity,
	fault.Precondition:    http.StatusConflict,
	fault.TooLarge:        http.StatusRequestEntityTooLarge,
	fault.Unavailable:     http.StatusServiceUnavailable,
	fault.Limited:         http.StatusTooManyRequests,
}

// problem is an error in the form of RFC 9457.
type problem struct {
	Type     string            `json:"type"`
	Title    string            `json:"title"`
	Status   int               `json:"status"`
	Detail   string            `json:"detail,omitempty"`
	Reason   fault.Reason      `json:"reason"`
	TraceID  string            `json:"trace_id,omitempty"`
	Errors   []fieldProblem    `json:"errors,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

type fieldProblem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// retryAfter is how many seconds a client waits before it asks a part of the
// shop again that could not answer.
const retryAfter = "1"

// sayRetry says when to come back, where nothing more exact is said yet.
func sayRetry(header http.Header) {
	if header.Get("Retry-After") == "" {
		header.Set("Retry-After", retryAfter)
	}
}

// refuse answers with a fault, in the status of its kind.
func (g *gateway) refuse(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	g.refuseAs(w, r, f, fault.Reasons[f.Reason])
}

// refuseWith answers with a fault in a status that says more than its kind.
func (g *gateway) refuseWith(w http.ResponseWriter, r *http.Request, code int, f *fault.Error) {
	g.write(w, r, code, f, fault.Reasons[f.Reason].Title)
}

func (g *gateway) refuseAs(w http.ResponseWriter, r *http.Request, f *fault.Error, entry fault.Entry) {
	switch entry.Kind {
	case fault.Unavailable, fault.Limited:
		sayRetry(w.Header())
	case fault.Unauthenticated:
		w.Header().Set("WWW-Authenticate", "Bearer")
	default:
	}
	g.write(w, r, statuses[entry.Kind], g.public(r.Context(), f, entry), entry.Title)
}

// public logs a fault that is the shop's own and returns what the caller learns
// of it.
func (g *gateway) public(ctx context.Context, f *fault.Error, entry fault.Entry) *fault.Error {
	switch entry.Kind {
	case fault.Internal:
		g.logger.ErrorContext(ctx, "request failed", "route", recordOf(ctx).route, "error", f)
		return fault.New(f.Reason, "")
	case fault.Unavailable:
		if f.Reason != fault.ReasonOverloaded && !errors.Is(ctx.Err(), context.Canceled) { // the client has not gone away
			g.logger.WarnContext(ctx, "request not served", "route", recordOf(ctx).route, "error", f)
		}
	default:
	}
	return f
}

func (g *gateway) write(w http.ResponseWriter, r *http.Request, code int, f *fault.Error, title string) {
	answer := problem{
		Type:   problemType + strings.ReplaceAll(strings.ToLower(string(f.Reason)), "_", "-"),
		Title:  title,
		Status: code, Detail: cmp.Or(f.Message, title), Reason: f.Reason, TraceID: telemetry.TraceID(r.Context()), Metadata: f.Metadata,
	}
	for _, field := range f.Fields {
		answer.Errors = append(answer.Errors, fieldProblem{Field: field.Name, Message: field.Problem})
	}
	w.Header().Del("ETag")
	w.Header().Set("Cache-Control", "private, no-store")
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		g.logger.DebugContext(r.Context(), "answer not sent", "error", err) // the client went away
	}
}

// failed answers for an error of a REST call: a backend's, or the translator's own.
func (g *gateway) failed(w http.ResponseWriter, r *http.Request, err error) {
	if routing, ok := errors.AsType[*runtime.HTTPStatusError](err); ok {
		g.refuseWith(w, r, routing.HTTPStatus, fault.New(fault.ReasonMalformedRequest, "The path cannot be read.").WithCause(err))
		return
	}
	f, entry := faultOf(err)
	g.refuseAs(w, r, f, entry)
}

// faultOf reads the fault out of a gRPC error. A reason that this build's table
// does not know, of a backend that is newer, keeps its name and is treated as
// its code says.
func faultOf(err error) (*fault.Error, fault.Entry) {
	answer := status.Convert(err)
	byCode := rpc.ReasonOf(connect.Code(answer.Code()))
	f := &fault.Error{Message: answer.Message()}
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == rpc.Domain {
				f.Reason, f.Metadata = fault.Reason(detail.GetReason()), detail.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				f.Fields = append(f.Fields, fault.Field{Name: violation.GetField(), Problem: violation.GetDescription()})
			}
		}
	}
	if f.Reason == "" {
		f = fault.New(byCode, "")
		if answer.Code() == codes.InvalidArgument { // the translator's own, about JSON or the query
			f = rpc.Malformed(answer.Message())
		}
	}
	entry, known := fault.Reasons[f.Reason]
	if !known {
		entry = fault.Reasons[byCode]
	}
	return f.WithCause(err), entry
}
