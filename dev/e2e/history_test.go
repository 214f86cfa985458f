package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"

	"bookworm/dev/shopper"
	"bookworm/internal/ordering"
	"bookworm/workflows/checkout"
	"bookworm/workflows/notification"
	"bookworm/workflows/payment"
)

func orderID(subject, key string) string { return ordering.ID(subject, key) }

// workflowIDs are the processes that an order can have.
func workflowIDs(orderID string) []string {
	return []string{
		checkout.WorkflowID(orderID), payment.WorkflowID(orderID),
		notification.WorkflowID(orderID, notification.OrderConfirmed), notification.WorkflowID(orderID, notification.OrderCancelled),
		notification.WorkflowID(orderID, notification.PaymentFailed), notification.WorkflowID(orderID, notification.OrderExpired),
	}
}

// decoded returns every byte string of a message as text.
func decoded(m proto.Message) string {
	var text strings.Builder
	if err := protorange.Range(m.ProtoReflect(), func(p protopath.Values) error {
		if b, ok := p.Index(-1).Value.Interface().([]byte); ok {
			text.Write(b)
			text.WriteByte('\n')
		}
		return nil
	}); err != nil {
		return err.Error()
	}
	return text.String()
}

func count(ctx context.Context, query string) (int64, error) {
	answer, err := orders.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: query})
	return answer.GetCount(), err
}

// record writes the histories of an order's processes where the replay tests read
// them, see recordOne.
func record(t *testing.T, path, orderID string) {
	t.Helper()
	recordOne(t, "checkout", path, checkout.WorkflowID(orderID))
	recordOne(t, "payment", path, payment.WorkflowID(orderID))
}

// recordOne writes a history where the replay test of its process reads it, when
// BOOKWORM_RECORD is "new", and there is none for the path yet, or "all". A process
// that still runs is recorded as far as it got, once it rests.
func recordOne(t *testing.T, process, path, workflowID string) {
	t.Helper()
	mode := os.Getenv("BOOKWORM_RECORD")
	if mode != "new" && mode != "all" {
		return
	}
	file := filepath.Join("../../workflows", process, "testdata", path+".json")
	if _, err := os.Stat(file); err == nil && mode == "new" {
		return
	}
	history := settled(t, workflowID)
	if len(history.GetEvents()) == 0 {
		return
	}
	content, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(history)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, append(content, '\n'), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// settled reads a history once no workflow task is under way.
func settled(t *testing.T, id string) *historypb.History {
	t.Helper()
	history, err := shopper.Await(t.Context(), func(ctx context.Context) (*historypb.History, error) {
		h := &historypb.History{}
		events := orders.GetWorkflowHistory(ctx, id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for events.HasNext() {
			event, err := events.Next()
			if _, none := errors.AsType[*serviceerror.NotFound](err); none {
				return &historypb.History{}, nil // there is no such process
			}
			if err != nil {
				return nil, err
			}
			h.Events = append(h.Events, event)
		}
		return h, nil
	}, func(h *historypb.History) bool {
		if len(h.GetEvents()) == 0 {
			return true
		}
		switch h.GetEvents()[len(h.GetEvents())-1].GetEventType() {
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED:
			return false
		default:
			return true
		}
	})
	if err != nil {
		t.Fatal(fmt.Errorf("read history: %w", err))
	}
	return history
}
