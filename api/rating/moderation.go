package rating

import (
	"context"
	"strconv"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/rating"
	"bookworm/internal/rpc"
	"bookworm/workflows/ratings"
	"bookworm/workflows/review"
)

type moderation struct{ Deps }

// ListModerationQueue lists the reviews that wait for a decision, with what other
// shoppers have against them.
func (h *moderation) ListModerationQueue(
	ctx context.Context, req *ratingv1.ListModerationQueueRequest,
) (*ratingv1.ListModerationQueueResponse, error) {
	waiting, next, err := h.Reviews.Queue(ctx, sizeOf(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(waiting))
	for i, r := range waiting {
		ids[i] = r.ID
	}
	reports, err := h.Reviews.Reports(ctx, ids)
	if err != nil {
		return nil, err
	}
	answer := &ratingv1.ListModerationQueueResponse{NextPageToken: next}
	for _, r := range waiting {
		queued := &ratingv1.QueuedReview{Review: explained(r)}
		for _, report := range reports[r.ID] {
			queued.Reports = append(queued.Reports, &ratingv1.Report{
				Ground:  ratingv1.ReportReviewRequest_Ground(ratingv1.ReportReviewRequest_Ground_value[string(report.Ground)]),
				Comment: report.Comment, CreateTime: timestamppb.New(report.CreatedAt),
			})
		}
		answer.Reviews = append(answer.Reviews, queued)
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheNever)
	return answer, nil
}

// DecideReview publishes or rejects a review, whatever rules and model said of it.
func (h *moderation) DecideReview(ctx context.Context, req *ratingv1.DecideReviewRequest) (*ratingv1.DecideReviewResponse, error) {
	id, err := parseID("review_id", req.GetReviewId())
	if err != nil {
		return nil, err
	}
	decision := rating.Decision{Publish: req.GetDecision() == ratingv1.DecideReviewRequest_PUBLISH}
	if decision.Version, err = rating.ParseETag(req.GetEtag()); err != nil {
		return nil, err
	}
	if decision.Reason, err = plain("reason", req.GetReason()); err != nil {
		return nil, err
	}
	if !decision.Publish && decision.Reason == "" {
		return nil, invalid("reason", "must tell the author why the review is rejected")
	}
	found, err := h.Reviews.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	request, err := h.Reviews.Ask(ctx, id, decision)
	if err != nil {
		return nil, err
	}
	if _, err := review.Decide(ctx, h.Temporal, refOf(found), request); err != nil {
		return nil, h.refused(ctx, request, err)
	}
	if found, err = h.Reviews.Get(ctx, id); err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheNever)
	rpc.SetHeader(ctx, "ETag", strconv.Quote(found.ETag()))
	return &ratingv1.DecideReviewResponse{Review: explained(found)}, nil
}

// RebuildRatings starts the process that counts all reviews anew.
func (h *moderation) RebuildRatings(ctx context.Context, _ *ratingv1.RebuildRatingsRequest) (*ratingv1.RebuildRatingsResponse, error) {
	if err := ratings.Start(ctx, h.Temporal); err != nil {
		return nil, err
	}
	return &ratingv1.RebuildRatingsResponse{WorkflowId: ratings.WorkflowID}, nil
}

type reviewer struct{ Deps }

// maxStars is how many ratings of a shopper are told.
const maxStars = 1000

// ListStars returns how a shopper rated books.
func (h *reviewer) ListStars(ctx context.Context, req *ratingv1.ListStarsRequest) (*ratingv1.ListStarsResponse, error) {
	stars, err := h.Reviews.StarsBy(ctx, req.GetSubject(), maxStars)
	if err != nil {
		return nil, err
	}
	answer := &ratingv1.ListStarsResponse{}
	for _, s := range stars {
		answer.Stars = append(answer.Stars, &ratingv1.Stars{BookId: s.BookID.String(), Stars: s.Stars})
	}
	return answer, nil
}
