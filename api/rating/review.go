// Package rating serves reviews to shoppers, their moderation to administrators,
// and what shoppers think of books to the shop's own services.
package rating

import (
	"context"
	"strconv"
	"strings"
	"unicode"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/fault"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/rating"
	"bookworm/internal/rpc"
	"bookworm/workflows/review"
)

// Deps is what the handlers need.
type Deps struct {
	Reviews  *rating.Store
	Temporal client.Client
}

// Register adds RatingService, ModerationService and ReviewerService to a server.
func Register(server *connect.Server, d Deps) {
	ratingv1connect.RegisterRatingServiceHandler(server, &reviews{d})
	ratingv1connect.RegisterModerationServiceHandler(server, &moderation{d})
	ratingv1connect.RegisterReviewerServiceHandler(server, &reviewer{d})
}

type reviews struct{ Deps }

const pageSize = 20

// cacheControl lets anyone keep public reviews for a moment: votes move them.
// What belongs to a person is nobody else's.
const (
	cacheControl = "public, max-age=5"
	cacheNever   = "private, no-store"
)

// ListReviews lists the published reviews of a book.
func (h *reviews) ListReviews(ctx context.Context, req *ratingv1.ListReviewsRequest) (*ratingv1.ListReviewsResponse, error) {
	book, err := parseID("book_id", req.GetBookId())
	if err != nil {
		return nil, err
	}
	found, next, err := h.Reviews.List(ctx, book, sorts[req.GetSort()], req.GetStars(), sizeOf(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &ratingv1.ListReviewsResponse{NextPageToken: next}
	for _, r := range found {
		answer.Reviews = append(answer.Reviews, toProto(r))
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	return answer, nil
}

var sorts = map[ratingv1.ListReviewsRequest_Sort]rating.Sort{
	ratingv1.ListReviewsRequest_SORT_UNSPECIFIED: rating.SortHelpful,
	ratingv1.ListReviewsRequest_HELPFUL:          rating.SortHelpful,
	ratingv1.ListReviewsRequest_NEWEST:           rating.SortNewest,
	ratingv1.ListReviewsRequest_RATING_DESC:      rating.SortRatingDesc,
	ratingv1.ListReviewsRequest_RATING_ASC:       rating.SortRatingAsc,
}

// GetRatingSummary returns what the published reviews of a book say together.
func (h *reviews) GetRatingSummary(
	ctx context.Context, req *ratingv1.GetRatingSummaryRequest,
) (*ratingv1.GetRatingSummaryResponse, error) {
	book, err := parseID("book_id", req.GetBookId())
	if err != nil {
		return nil, err
	}
	rated, err := h.Reviews.Rating(ctx, book)
	if err != nil {
		return nil, err
	}
	answer := &ratingv1.GetRatingSummaryResponse{
		ReviewCount: rated.Histogram.Count(), AverageStars: rated.Histogram.Average(), Score: rated.Score, Histogram: rated.Histogram[:],
	}
	summary, ok, err := h.Reviews.Summary(ctx, book)
	if err != nil {
		return nil, err
	}
	if ok {
		answer.Summary = &ratingv1.ReviewSummary{
			Text: summary.Text, ReviewCount: summary.Reviews, CreateTime: timestamppb.New(summary.CreatedAt),
		}
		for _, source := range summary.Sources {
			answer.Summary.SourceReviewIds = append(answer.Summary.SourceReviewIds, source.String())
		}
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	return answer, nil
}

// mine names the caller's review of a book: no request says whose (A1).
func mine(ctx context.Context, bookID string) (review.Ref, error) {
	book, err := parseID("book_id", bookID)
	if err != nil {
		return review.Ref{}, err
	}
	subject := identity.FromContext(ctx).Subject
	return review.Ref{ID: rating.ReviewID(book, subject), BookID: book, Subject: subject}, nil
}

// GetMyReview returns the caller's review of a book, in whatever state it is.
func (h *reviews) GetMyReview(ctx context.Context, req *ratingv1.GetMyReviewRequest) (*ratingv1.GetMyReviewResponse, error) {
	ref, err := mine(ctx, req.GetBookId())
	if err != nil {
		return nil, err
	}
	found, err := h.own(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &ratingv1.GetMyReviewResponse{Review: found}, nil
}

// own returns the caller's review as its author sees it.
func (h *reviews) own(ctx context.Context, ref review.Ref) (*ratingv1.Review, error) {
	rpc.SetHeader(ctx, "Cache-Control", cacheNever)
	found, err := h.Reviews.Get(ctx, ref.ID)
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "ETag", strconv.Quote(found.ETag()))
	return explained(found), nil
}

// SubmitReview writes or replaces the caller's review of a book.
func (h *reviews) SubmitReview(ctx context.Context, req *ratingv1.SubmitReviewRequest) (*ratingv1.SubmitReviewResponse, error) {
	ref, err := mine(ctx, req.GetBookId())
	if err != nil {
		return nil, err
	}
	submission := rating.Submission{BookID: ref.BookID, Subject: ref.Subject, Stars: req.GetStars()}
	if submission.Title, err = plain("title", req.GetTitle()); err != nil {
		return nil, err
	}
	// A headline is one line.
	if submission.Title = strings.Join(strings.Fields(submission.Title), " "); submission.Title == "" {
		return nil, invalid("title", "must not be blank")
	}
	if submission.Text, err = plain("text", req.GetText()); err != nil {
		return nil, err
	}
	if submission.Seen, err = versionSeen(ctx, req.GetEtag()); err != nil {
		return nil, err
	}
	request, err := h.Reviews.Ask(ctx, ref.ID, submission)
	if err != nil {
		return nil, err
	}
	if _, err := review.Submit(ctx, h.Temporal, ref, request); err != nil {
		return nil, h.refused(ctx, request, err)
	}
	stored, err := h.own(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &ratingv1.SubmitReviewResponse{Review: stored}, nil
}

// refused forgets a request that will never take effect, and returns the error.
// One whose fate is unknown stays for its process, for an hour.
func (d Deps) refused(ctx context.Context, request uuid.UUID, err error) error {
	if fault.KindOf(err) == fault.Unavailable {
		return err
	}
	if withdrawn := d.Reviews.Withdraw(ctx, request); withdrawn != nil {
		return withdrawn
	}
	return err
}

// plain returns a text as it is stored: without the space around it, with one kind
// of line end. PostgreSQL's text cannot hold a NUL, and no writer needs the other
// control characters.
func plain(field, text string) (string, error) {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
		return "", invalid(field, "must not contain control characters")
	}
	return strings.TrimSpace(text), nil
}

// DeleteReview takes the caller's review of a book away.
func (h *reviews) DeleteReview(ctx context.Context, req *ratingv1.DeleteReviewRequest) (*ratingv1.DeleteReviewResponse, error) {
	ref, err := mine(ctx, req.GetBookId())
	if err != nil {
		return nil, err
	}
	seen, err := versionSeen(ctx, req.GetEtag())
	if err != nil {
		return nil, err
	}
	// Without a review there is nothing that a process would have to do.
	if _, err := h.Reviews.Get(ctx, ref.ID); fault.Is(err, fault.ReasonReviewNotFound) {
		return &ratingv1.DeleteReviewResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	var version int64
	if seen != nil {
		version = *seen
	}
	if _, err := review.Delete(ctx, h.Temporal, ref, version); err != nil {
		return nil, err
	}
	return &ratingv1.DeleteReviewResponse{}, nil
}

// VoteReview says that somebody else's review is helpful, or takes that back.
func (h *reviews) VoteReview(ctx context.Context, req *ratingv1.VoteReviewRequest) (*ratingv1.VoteReviewResponse, error) {
	id, err := parseID("review_id", req.GetReviewId())
	if err != nil {
		return nil, err
	}
	votes, err := h.Reviews.Vote(ctx, id, identity.FromContext(ctx).Subject, req.GetHelpful())
	if err != nil {
		return nil, err
	}
	return &ratingv1.VoteReviewResponse{HelpfulCount: votes}, nil
}

// ReportReview tells the shop that somebody else's review should not stand. The
// report that makes it enough tells the review's process, and so does its
// repetition, should the first have died in between.
func (h *reviews) ReportReview(ctx context.Context, req *ratingv1.ReportReviewRequest) (*ratingv1.ReportReviewResponse, error) {
	id, err := parseID("review_id", req.GetReviewId())
	if err != nil {
		return nil, err
	}
	comment, err := plain("comment", req.GetComment())
	if err != nil {
		return nil, err
	}
	hide, reported, err := h.Reviews.Report(ctx, id, identity.FromContext(ctx).Subject, rating.Ground(req.GetGround().String()), comment)
	if err != nil {
		return nil, err
	}
	if hide {
		if err := review.Look(ctx, h.Temporal, refOf(reported)); err != nil {
			return nil, err
		}
	}
	return &ratingv1.ReportReviewResponse{}, nil
}

func refOf(r rating.Review) review.Ref {
	return review.Ref{ID: r.ID, BookID: r.BookID, Subject: r.Subject}
}

var statuses = map[rating.Status]ratingv1.Review_Status{
	rating.Pending:   ratingv1.Review_PENDING,
	rating.InQueue:   ratingv1.Review_IN_QUEUE,
	rating.Published: ratingv1.Review_PUBLISHED,
	rating.Rejected:  ratingv1.Review_REJECTED,
}

// toProto returns a review as everybody may see it. Its author's subject is in no
// message.
func toProto(r rating.Review) *ratingv1.Review {
	return &ratingv1.Review{
		Id: r.ID.String(), BookId: r.BookID.String(), Stars: r.Stars, Title: r.Title, Text: r.Text,
		CreateTime: timestamppb.New(r.CreatedAt), UpdateTime: timestamppb.New(r.UpdatedAt),
		VerifiedPurchase: r.VerifiedPurchase, HelpfulCount: r.Helpful, Status: statuses[r.Status], Etag: r.ETag(),
	}
}

// explained returns a review as its author and operators see it.
func explained(r rating.Review) *ratingv1.Review {
	p := toProto(r)
	p.StatusReason = r.Reason
	return p
}

func sizeOf(size int32) int {
	if size == 0 {
		return pageSize
	}
	return int(size)
}

// versionSeen returns the version that the caller has seen, from the message or
// the If-Match header; nil for any.
func versionSeen(ctx context.Context, etag string) (seen *int64, err error) {
	header := strings.TrimSpace(rpc.Header(ctx, "If-Match"))
	if header == "*" {
		header = ""
	}
	for _, text := range []string{header, etag} {
		if text == "" {
			continue
		}
		version, err := rating.ParseETag(text)
		if err != nil {
			return nil, err
		}
		if seen != nil && *seen != version {
			return nil, invalid("etag", "contradicts the If-Match header")
		}
		seen = &version
	}
	return seen, nil
}

func parseID(field, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.UUID{}, invalid(field, "must be a UUID")
	}
	return id, nil
}

func invalid(field, problem string) *fault.Error {
	return fault.New(fault.ReasonInvalidArgument, "The field %s %s.", field, problem).WithField(field, problem)
}
