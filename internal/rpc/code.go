package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"bookworm/internal/fault"
)

// Domain is the domain of every ErrorInfo detail the shop sends.
const Domain = "bookworm"

// codes is the one table from kinds to codes on the wire. Clients branch on the
// reason; the code is for tools that know no reasons. Two kinds share
// failed_precondition: a reused Idempotency-Key (Conflict) depends on what the
// shop remembers, so it is not invalid_argument, and what it names was not
// created by this request, so it is not already_exists.
var codes = map[fault.Kind]connect.Code{
	fault.Internal:        connect.CodeInternal,
	fault.Invalid:         connect.CodeInvalidArgument,
	fault.Unauthenticated: connect.CodeUnauthenticated,
	fault.Denied:          connect.CodePermissionDenied,
	fault.NotFound:        connect.CodeNotFound,
	fault.Stale:           connect.CodeAborted,
	fault.Conflict:        connect.CodeFailedPrecondition,
	fault.Precondition:    connect.CodeFailedPrecondition,
	fault.TooLarge:        connect.CodeResourceExhausted,
	fault.Unavailable:     connect.CodeUnavailable,
	fault.Limited:         connect.CodeResourceExhausted,
}

// reasons gives errors that come with a code alone, from the RPC library or from
// the network, the reason that fits.
var reasons = map[connect.Code]fault.Reason{
	connect.CodeInvalidArgument:   fault.ReasonMalformedRequest,
	connect.CodeOutOfRange:        fault.ReasonInvalidArgument,
	connect.CodeUnauthenticated:   fault.ReasonTokenInvalid,
	connect.CodePermissionDenied:  fault.ReasonAccessDenied,
	connect.CodeNotFound:          fault.ReasonNotFound,
	connect.CodeUnimplemented:     fault.ReasonNotFound,
	connect.CodeAborted:           fault.ReasonStaleVersion,
	connect.CodeResourceExhausted: fault.ReasonRequestTooLarge,
	connect.CodeUnavailable:       fault.ReasonUnavailable,
	connect.CodeDeadlineExceeded:  fault.ReasonUnavailable,
	connect.CodeCanceled:          fault.ReasonUnavailable,
}

// ReasonOf returns the reason for an error of which only the code is known;
// INTERNAL for codes that a server of the shop never gives.
func ReasonOf(code connect.Code) fault.Reason {
	if reason, ok := reasons[code]; ok {
		return reason
	}
	return fault.ReasonInternal
}

// internalMessage is all a caller learns of an error that is the shop's own.
const internalMessage = "Something went wrong on our side."

// Coded turns a fault into the error that goes over the wire: the code of its
// kind, its message, an ErrorInfo detail with reason and metadata, and a
// BadRequest detail that names each field. Its cause stays here.
func Coded(f *fault.Error) *connect.Error {
	message := f.Message
	if f.Kind() == fault.Internal {
		message = internalMessage
	}
	return detailed(connect.NewError(codes[f.Kind()], message).WithCause(f), f)
}

// detailed adds the fault's details to an error.
func detailed(coded *connect.Error, f *fault.Error) *connect.Error {
	coded = withDetail(coded, &errdetails.ErrorInfo{Reason: string(f.Reason), Domain: Domain, Metadata: f.Metadata})
	if len(f.Fields) == 0 {
		return coded
	}
	request := &errdetails.BadRequest{}
	for _, field := range f.Fields {
		request.FieldViolations = append(request.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: field.Name, Description: field.Problem,
		})
	}
	return withDetail(coded, request)
}

func withDetail(coded *connect.Error, message proto.Message) *connect.Error {
	detail, err := connectproto.NewErrorDetail(message)
	if err != nil {
		return coded // only text that is not UTF-8 cannot be encoded; the code and message still say what happened
	}
	return coded.WithDetail(detail)
}

// coding turns every error of a call into one with a code and a reason, and logs
// those that are the shop's own. Nothing that nobody wrote for a caller goes out.
func coding(logger *slog.Logger) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			err := next(ctx, spec, stream)
			if err == nil || connecthttp.IsNotModifiedError(err) {
				return err
			}
			coded := classify(ctx, err)
			switch coded.Code() {
			case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss:
				logger.ErrorContext(ctx, "call failed", "procedure", spec.Procedure, "error", err)
			case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
				logger.WarnContext(ctx, "call not served", "procedure", spec.Procedure, "error", err)
			default:
			}
			return coded
		}
	}
}

// classify says what a caller gets for an error.
func classify(ctx context.Context, err error) *connect.Error {
	if f := fault.As(err); f != nil {
		return Coded(f)
	}
	if invalid, ok := errors.AsType[*protovalidate.ValidationError](err); ok {
		return Coded(violations(invalid))
	}
	if coded, ok := errors.AsType[*connect.Error](err); ok && coded != nil && !coded.IsRemote() {
		return completed(coded)
	}
	// A store or a client whose context ended says so in many ways.
	switch {
	case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled):
		return connect.NewError(connect.CodeCanceled, "The call was cancelled.").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		coded := connect.NewError(connect.CodeDeadlineExceeded, "The call took too long.").WithCause(err)
		return detailed(coded, fault.New(fault.ReasonUnavailable, ""))
	}
	return Coded(fault.New(fault.ReasonInternal, "").WithCause(err))
}

// completed gives an error of the RPC library itself a reason. Its code stays.
func completed(coded *connect.Error) *connect.Error {
	if len(coded.Details()) > 0 || coded.Code() == connect.CodeCanceled {
		return coded
	}
	reason := ReasonOf(coded.Code())
	if fault.Reasons[reason].Kind == fault.Internal {
		return Coded(fault.New(reason, "").WithCause(coded))
	}
	if reason == fault.ReasonMalformedRequest {
		return Coded(Malformed(strings.TrimPrefix(coded.Message(), "unmarshal message: ")).WithCause(coded))
	}
	return detailed(coded, fault.New(reason, ""))
}

func violations(invalid *protovalidate.ValidationError) *fault.Error {
	f := fault.New(fault.ReasonInvalidArgument, "")
	var problems []string
	for _, violation := range invalid.Violations {
		name, problem := protovalidate.FieldPathString(violation.Proto.GetField()), violation.Proto.GetMessage()
		if problem == "" {
			problem = "is not valid"
		}
		problems = append(problems, strings.TrimSpace(name+" "+problem))
		f = f.WithField(name, problem)
	}
	f.Message = strings.Join(problems, "; ")
	return f.WithCause(invalid)
}

var (
	// decoderPrefix is what the decoder says before what is wrong; it varies the
	// space on purpose.
	decoderPrefix = regexp.MustCompile(`^proto:[\s\x{00a0}]*`)
	// libraryNames are Go's own functions and types, which decoders put into what
	// they say.
	libraryNames = regexp.MustCompile(`strconv\.\w+: `)
	unknownField = regexp.MustCompile(`unknown field "([^"]*)"`)
	badField     = regexp.MustCompile(`invalid value for \S+ field ([A-Za-z0-9_.]+):|(?:parsing|for|duplicate) field "([^"]*)"|parameter: ([^,]+),`)
)

// maxProblem is the most that a caller reads of what a decoder says, in bytes.
const maxProblem = 500

// Malformed returns MALFORMED_REQUEST for what the decoder of JSON or of a query
// said of a request, naming the field where the decoder does.
func Malformed(problem string) *fault.Error {
	if len(problem) > maxProblem { // it quotes the caller, who may have sent a name of a megabyte
		problem = strings.ToValidUTF8(problem[:maxProblem], "") + "..."
	}
	problem = libraryNames.ReplaceAllString(decoderPrefix.ReplaceAllString(problem, ""), "")
	f := fault.New(fault.ReasonMalformedRequest, "%s", problem)
	if found := unknownField.FindStringSubmatch(problem); found != nil {
		return f.WithField(found[1], "is not a field of this request")
	}
	if found := badField.FindStringSubmatch(problem); found != nil {
		return f.WithField(found[1]+found[2]+found[3], "cannot be read")
	}
	return f
}

// decoded turns what a server of the shop answered back into the fault it came
// from. An error without a reason stays unclassified, unless the network is to
// blame: that is UNAVAILABLE.
func decoded(err error) error {
	coded, ok := errors.AsType[*connect.Error](err)
	if !ok || coded == nil {
		return err
	}
	f := &fault.Error{Message: coded.Message()}
	for _, detail := range coded.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if err != nil {
			continue // a detail of a later version; the others still count
		}
		switch message := message.(type) {
		case *errdetails.ErrorInfo:
			if message.GetDomain() == Domain {
				f.Reason, f.Metadata = fault.Reason(message.GetReason()), message.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, violation := range message.GetFieldViolations() {
				f.Fields = append(f.Fields, fault.Field{Name: violation.GetField(), Problem: violation.GetDescription()})
			}
		}
	}
	switch {
	case coded.Code() == connect.CodeCanceled:
		return fmt.Errorf("%w: %w", context.Canceled, err)
	case coded.Code() == connect.CodeDeadlineExceeded:
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case f.Reason != "":
		return f.WithCause(err)
	case coded.Code() == connect.CodeUnavailable:
		return fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").WithCause(err)
	}
	return err
}
