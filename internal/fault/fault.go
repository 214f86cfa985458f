// Package fault is the shop's one typed error. Domain packages say which Reason
// applies; only the edges turn it into a code: internal/rpc for Connect and
// gRPC, api/gateway for REST, internal/temporal for workflows.
package fault

import (
	"errors"
	"fmt"
)

// Kind is the class of a fault, what a caller can do about it.
type Kind int

// The zero Kind is Internal: an error nobody classified is the shop's own.
const (
	// Internal is a defect or an outage of the shop's own; details stay in the log.
	Internal Kind = iota
	// Invalid is a request that can never succeed as it is.
	Invalid
	// Unauthenticated is a request without a valid credential.
	Unauthenticated
	// Denied is a request the caller may not make.
	Denied
	// NotFound is a thing that is not there, or not there for this caller.
	NotFound
	// Stale is a change to a version that is no longer the current one.
	Stale
	// Conflict is a request that contradicts one made before.
	Conflict
	// Precondition is a request that the state of the shop does not allow now.
	Precondition
	// TooLarge is a request over a size limit.
	TooLarge
	// Unavailable is a part of the shop that cannot answer now; a retry may succeed.
	Unavailable
	// Limited is a caller who asks too often; a retry later succeeds.
	Limited
)

// Reason is a stable upper-case word that clients branch on. It is public: a
// reason is never renamed and never changes its kind.
type Reason string

// Every reason the shop gives, by context.
const (
	ReasonInternal             Reason = "INTERNAL"
	ReasonInvalidArgument      Reason = "INVALID_ARGUMENT"
	ReasonMalformedRequest     Reason = "MALFORMED_REQUEST"
	ReasonRequestTooLarge      Reason = "REQUEST_TOO_LARGE"
	ReasonNotFound             Reason = "NOT_FOUND"
	ReasonUnavailable          Reason = "UNAVAILABLE"
	ReasonTokenMissing         Reason = "TOKEN_MISSING"
	ReasonTokenInvalid         Reason = "TOKEN_INVALID"
	ReasonAccessDenied         Reason = "ACCESS_DENIED"
	ReasonPageTokenInvalid     Reason = "PAGE_TOKEN_INVALID"
	ReasonStaleVersion         Reason = "STALE_VERSION"
	ReasonKeyMissing           Reason = "IDEMPOTENCY_KEY_MISSING"
	ReasonKeyReused            Reason = "IDEMPOTENCY_KEY_REUSED"
	ReasonBookNotFound         Reason = "BOOK_NOT_FOUND"
	ReasonBookArchived         Reason = "BOOK_ARCHIVED"
	ReasonOutOfStock           Reason = "OUT_OF_STOCK"
	ReasonHoldReleased         Reason = "HOLD_RELEASED"
	ReasonHoldShipped          Reason = "HOLD_SHIPPED"
	ReasonBasketEmpty          Reason = "BASKET_EMPTY"
	ReasonBasketFull           Reason = "BASKET_FULL"
	ReasonOrderNotFound        Reason = "ORDER_NOT_FOUND"
	ReasonNotCancellable       Reason = "ORDER_NOT_CANCELLABLE"
	ReasonIllegalTransition    Reason = "ILLEGAL_TRANSITION"
	ReasonPriceChanged         Reason = "PRICE_CHANGED"
	ReasonCurrencyMismatch     Reason = "CURRENCY_MISMATCH"
	ReasonPaymentNotFound      Reason = "PAYMENT_NOT_FOUND"
	ReasonPaymentMismatch      Reason = "PAYMENT_MISMATCH"
	ReasonRecipientMalformed   Reason = "RECIPIENT_MALFORMED"
	ReasonISBNTaken            Reason = "ISBN_TAKEN"
	ReasonReviewNotFound       Reason = "REVIEW_NOT_FOUND"
	ReasonPurchaseRequired     Reason = "PURCHASE_REQUIRED"
	ReasonOwnReview            Reason = "OWN_REVIEW"
	ReasonConversationNotFound Reason = "CONVERSATION_NOT_FOUND"
	ReasonTurnNotFound         Reason = "TURN_NOT_FOUND"
	ReasonTurnInProgress       Reason = "TURN_IN_PROGRESS"
	ReasonActionNotFound       Reason = "ACTION_NOT_FOUND"
	ReasonBudgetSpent          Reason = "CHAT_BUDGET_SPENT"
	ReasonRateLimited          Reason = "RATE_LIMITED"
	ReasonOverloaded           Reason = "OVERLOADED"
	ReasonRequestBlocked       Reason = "REQUEST_BLOCKED"
	ReasonDataRequestNotFound  Reason = "DATA_REQUEST_NOT_FOUND"
	ReasonExportNotReady       Reason = "EXPORT_NOT_READY"
	ReasonShopperKeyNotFound   Reason = "SHOPPER_KEY_NOT_FOUND"
	ReasonErasureInProgress    Reason = "ERASURE_IN_PROGRESS"
)

// Entry is what the reason table says of a reason.
type Entry struct {
	Kind  Kind
	Title string // one short sentence, the same for every occurrence
}

// Reasons is the one table of reasons. The edges and the documentation read it.
var Reasons = map[Reason]Entry{
	ReasonInternal:             {Internal, "Something went wrong on our side."},
	ReasonInvalidArgument:      {Invalid, "A field of the request is not valid."},
	ReasonMalformedRequest:     {Invalid, "The request cannot be read."},
	ReasonRequestTooLarge:      {TooLarge, "The request is too large."},
	ReasonNotFound:             {NotFound, "There is nothing here."},
	ReasonUnavailable:          {Unavailable, "A part of the shop cannot answer right now."},
	ReasonTokenMissing:         {Unauthenticated, "This call needs an access token."},
	ReasonTokenInvalid:         {Unauthenticated, "The access token is not valid."},
	ReasonAccessDenied:         {Denied, "You may not make this call."},
	ReasonPageTokenInvalid:     {Invalid, "The page token does not belong to this list."},
	ReasonStaleVersion:         {Stale, "It has changed since you read it."},
	ReasonKeyMissing:           {Invalid, "This call needs an Idempotency-Key header."},
	ReasonKeyReused:            {Conflict, "The Idempotency-Key was used with another request."},
	ReasonBookNotFound:         {NotFound, "There is no such book."},
	ReasonBookArchived:         {Precondition, "The book is no longer sold."},
	ReasonOutOfStock:           {Precondition, "There are not enough copies."},
	ReasonHoldReleased:         {Precondition, "The order's stock was given back."},
	ReasonHoldShipped:          {Precondition, "The order's stock has left the house."},
	ReasonBasketEmpty:          {Precondition, "The basket is empty."},
	ReasonBasketFull:           {Precondition, "The basket holds no more different books."},
	ReasonOrderNotFound:        {NotFound, "There is no such order."},
	ReasonNotCancellable:       {Precondition, "The order can no longer be cancelled."},
	ReasonIllegalTransition:    {Precondition, "The order cannot take this step."},
	ReasonPriceChanged:         {Precondition, "The price has changed since you agreed to it."},
	ReasonCurrencyMismatch:     {Invalid, "The shop does not sell in this currency."},
	ReasonPaymentNotFound:      {NotFound, "There is no such payment."},
	ReasonPaymentMismatch:      {Precondition, "The provider's payment is not the order's."},
	ReasonRecipientMalformed:   {Invalid, "The e-mail address cannot be written to."},
	ReasonISBNTaken:            {Conflict, "Another book has this ISBN."},
	ReasonReviewNotFound:       {NotFound, "There is no such review."},
	ReasonPurchaseRequired:     {Precondition, "Only somebody who bought the book here can review it."},
	ReasonOwnReview:            {Precondition, "The review is your own."},
	ReasonConversationNotFound: {NotFound, "There is no such conversation."},
	ReasonTurnNotFound:         {NotFound, "There is no such turn."},
	ReasonTurnInProgress:       {Precondition, "The conversation is still answering."},
	ReasonActionNotFound:       {NotFound, "There is no such action, or it can no longer be confirmed."},
	ReasonBudgetSpent:          {Precondition, "The day's words with the bookseller are used up."},
	ReasonRateLimited:          {Limited, "You ask too often."},
	ReasonOverloaded:           {Unavailable, "The shop has more to do than it can."},
	ReasonRequestBlocked:       {Denied, "The request looks like an attack."},
	ReasonDataRequestNotFound:  {NotFound, "There is no such request for data."},
	ReasonExportNotReady:       {Precondition, "The export cannot be fetched now."},
	ReasonShopperKeyNotFound:   {NotFound, "The key does not exist any more."},
	ReasonErasureInProgress:    {Precondition, "Your data is being erased."},
}

// Field is one field of a request that is not valid.
type Field struct {
	Name    string // path in the message, for example "shipping_address.city"
	Problem string
}

// Error is a classified error. Its message is written for the caller and goes
// over the wire: no secrets, no personal data, nothing of the shop's insides.
type Error struct {
	Reason   Reason
	Message  string
	Metadata map[string]string // machine-readable details, for example book_id
	Fields   []Field
	cause    error
}

// New returns an error of the given reason. The format and its arguments make
// the public message.
func New(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// With adds a machine-readable detail and returns the same error.
func (e *Error) With(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = make(map[string]string)
	}
	e.Metadata[key] = value
	return e
}

// WithField names a field that is not valid and returns the same error.
func (e *Error) WithField(name, problem string) *Error {
	e.Fields = append(e.Fields, Field{Name: name, Problem: problem})
	return e
}

// WithCause attaches what went wrong underneath, for the log only, and returns
// the same error.
func (e *Error) WithCause(err error) *Error {
	e.cause = err
	return e
}

// Error says the reason, the message and the cause, for the log.
func (e *Error) Error() string {
	s := string(e.Reason)
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Kind returns the class of the error's reason; Internal when the table does
// not know it.
func (e *Error) Kind() Kind { return Reasons[e.Reason].Kind }

// As returns the fault in err's chain, or nil.
func As(err error) *Error {
	if f, ok := errors.AsType[*Error](err); ok {
		return f
	}
	return nil
}

// Is reports whether err carries the given reason.
func Is(err error, reason Reason) bool {
	f := As(err)
	return f != nil && f.Reason == reason
}

// KindOf returns err's kind; Internal for an error that is not classified.
func KindOf(err error) Kind {
	if f := As(err); f != nil {
		return f.Kind()
	}
	return Internal
}
