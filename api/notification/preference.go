// Package notification serves what shoppers want to hear.
package notification

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"

	"bookworm/internal/fault"
	notificationv1 "bookworm/internal/gen/bookworm/notification/v1"
	"bookworm/internal/gen/bookworm/notification/v1/notificationv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/notification"
	"bookworm/internal/rpc"
)

// Register adds PreferenceService to a server.
func Register(server *connect.Server, store *notification.Store) {
	notificationv1connect.RegisterPreferenceServiceHandler(server, &preferences{store})
}

// preferences are always the caller's own: no request names a subject (A1).
type preferences struct{ store *notification.Store }

// GetPreferences returns the caller's preferences; the defaults when none were set.
func (h *preferences) GetPreferences(
	ctx context.Context, _ *notificationv1.GetPreferencesRequest,
) (*notificationv1.GetPreferencesResponse, error) {
	subject, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	p, err := h.store.Preferences(ctx, subject)
	if err != nil {
		return nil, err
	}
	return &notificationv1.GetPreferencesResponse{Preferences: show(ctx, p)}, nil
}

// UpdatePreferences changes the fields that update_mask names. The etag of the
// message or the If-Match header, when there is one, must be the current one.
func (h *preferences) UpdatePreferences(
	ctx context.Context, req *notificationv1.UpdatePreferencesRequest,
) (*notificationv1.UpdatePreferencesResponse, error) {
	subject, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	change, err := changeOf(req)
	if err != nil {
		return nil, err
	}
	if change.Version, err = versionSeen(ctx, req.GetPreferences().GetEtag()); err != nil {
		return nil, err
	}
	p, err := h.store.UpdatePreferences(ctx, subject, change)
	if err != nil {
		return nil, err
	}
	return &notificationv1.UpdatePreferencesResponse{Preferences: show(ctx, p)}, nil
}

// show returns the preferences as their owner sees them.
func show(ctx context.Context, p notification.Preferences) *notificationv1.Preferences {
	rpc.SetHeader(ctx, "ETag", strconv.Quote(p.ETag()))
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	return &notificationv1.Preferences{OrderEmails: p.OrderEmails, MarketingEmails: p.MarketingEmails, Etag: p.ETag()}
}

func caller(ctx context.Context) (string, error) {
	subject := identity.FromContext(ctx).Subject
	if subject == "" {
		return "", errors.New("a call about preferences came without a caller")
	}
	return subject, nil
}

// changeOf reads the fields that the mask names. The mask may name the etag, as
// that of a REST call does, which is made of all fields in its body; it is no
// change by itself.
func changeOf(req *notificationv1.UpdatePreferencesRequest) (notification.Change, error) {
	var change notification.Change
	for _, path := range req.GetUpdateMask().GetPaths() {
		switch path {
		case "order_emails":
			change.OrderEmails = new(req.GetPreferences().GetOrderEmails())
		case "marketing_emails":
			change.MarketingEmails = new(req.GetPreferences().GetMarketingEmails())
		case "etag":
		default:
			return notification.Change{}, badMask("names a field that cannot be changed; order_emails and marketing_emails can")
		}
	}
	if change == (notification.Change{}) {
		return notification.Change{}, badMask("must name order_emails, marketing_emails or both")
	}
	return change, nil
}

func badMask(problem string) error {
	return fault.New(fault.ReasonInvalidArgument, "The field update_mask %s.", problem).WithField("update_mask", problem)
}

// versionSeen returns the version that the caller has seen, from the message or
// the If-Match header; nil for any.
func versionSeen(ctx context.Context, etag string) (seen *int64, err error) {
	header := strings.TrimSpace(rpc.Header(ctx, "If-Match"))
	if header == "*" { // there are always preferences
		header = ""
	}
	for _, text := range []string{header, etag} {
		if text == "" {
			continue
		}
		version, err := notification.ParseETag(text)
		if err != nil {
			return nil, err
		}
		if seen != nil && *seen != version {
			const problem = "contradicts the If-Match header"
			return nil, fault.New(fault.ReasonInvalidArgument, "The etag %s.", problem).WithField("preferences.etag", problem)
		}
		seen = &version
	}
	return seen, nil
}
