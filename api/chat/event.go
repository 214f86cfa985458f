package chat

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/chat"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
)

// EventProto writes an event of a turn as the wire has it.
func EventProto(turnID string, e chat.Event) *chatv1.TurnEvent {
	p := &chatv1.TurnEvent{TurnId: turnID, Sequence: e.Sequence}
	switch {
	case e.Tool != nil:
		p.Event = &chatv1.TurnEvent_Tool{Tool: &chatv1.ToolEvent{
			CallId: e.Tool.CallID, Name: e.Tool.Name, Summary: e.Tool.Summary,
			State: chatv1.ToolEvent_State(chatv1.ToolEvent_State_value[string(e.Tool.State)]),
		}}
	case e.Citation != nil:
		p.Event = &chatv1.TurnEvent_Citation{Citation: citationProto(*e.Citation)}
	case e.Card != nil:
		p.Event = &chatv1.TurnEvent_Card{Card: cardProto(e.Card)}
	case e.Error != nil:
		p.Event = &chatv1.TurnEvent_Error{Error: &chatv1.TurnError{Reason: string(e.Error.Reason), Message: e.Error.Message}}
	case e.Done != nil:
		p.Event = &chatv1.TurnEvent_Done{Done: &chatv1.Done{
			Outcome: outcomeProto(e.Done.Outcome), InputTokens: e.Done.Input, OutputTokens: e.Done.Output,
			UncitedSentences: int32(e.Done.Uncited), Text: e.Done.Text, //nolint:gosec // an answer has no two billion sentences
		}}
	default:
		p.Event = &chatv1.TurnEvent_Delta{Delta: e.Delta}
	}
	return p
}

func outcomeProto(o chat.Outcome) chatv1.Done_Outcome {
	return chatv1.Done_Outcome(chatv1.Done_Outcome_value[string(o)])
}

func citationProto(c chat.Citation) *chatv1.Citation {
	p := &chatv1.Citation{Number: int32(c.Number), CallId: c.CallID, Title: c.Title} //nolint:gosec // numbers of a turn's results
	switch c.Kind {
	case chat.KindBook:
		p.Source = &chatv1.Citation_BookId{BookId: c.ID}
	case chat.KindReview:
		p.Source = &chatv1.Citation_ReviewId{ReviewId: c.ID}
	case chat.KindOrder:
		p.Source = &chatv1.Citation_OrderId{OrderId: c.ID}
	case chat.KindPolicy:
		p.Source = &chatv1.Citation_Policy{Policy: c.ID}
	}
	return p
}

func cardProto(c *chat.Card) *chatv1.Card {
	switch {
	case c.Book != nil:
		return &chatv1.Card{Card: &chatv1.Card_Book{Book: &chatv1.BookCard{
			BookId: c.Book.BookID, Title: c.Book.Title, Authors: c.Book.Authors, Price: c.Book.Price.Proto(), AvailableQuantity: c.Book.Available,
		}}}
	case c.Order != nil:
		return &chatv1.Card{Card: &chatv1.Card_Order{Order: &chatv1.OrderCard{
			OrderId: c.Order.OrderID, Status: c.Order.Status, Total: c.Order.Total.Proto(), CreateTime: timestamppb.New(c.Order.CreatedAt),
		}}}
	case c.Confirmation != nil:
		return &chatv1.Card{Card: &chatv1.Card_Confirmation{Confirmation: &chatv1.ConfirmationCard{
			ActionId: c.Confirmation.ActionID.String(), Text: c.Confirmation.Text, ExpireTime: timestamppb.New(c.Confirmation.ExpiresAt),
		}}}
	}
	return nil
}
