package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/page"
)

const (
	conversationList = "chat.conversations"
	messageList      = "chat.messages"
)

func noConversation(id uuid.UUID) error {
	return fault.New(fault.ReasonConversationNotFound, "There is no conversation %s.", id)
}

// Conversations returns up to size of a subject's conversations, the one used last
// first, and the token of the next page, empty on the last one. A conversation in
// which something is said while someone reads on may be seen twice.
// Errors: PAGE_TOKEN_INVALID.
func (s *Store) Conversations(ctx context.Context, subject string, size int, token string) ([]Conversation, string, error) {
	after, id := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), uuid.Max
	if token != "" {
		if err := page.Decode(token, conversationList, subject, &after, &id); err != nil {
			return nil, "", err
		}
	}
	rows, err := s.db.Query(ctx, `
		select id, title, created_at, updated_at from conversation
		where subject = $1 and (updated_at, id) < ($2, $3)
		order by updated_at desc, id desc limit $4`, subject, after, id, size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list conversations: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanConversation)
	if err != nil {
		return nil, "", fmt.Errorf("list conversations: %w", err)
	}
	if len(found) <= size {
		return found, "", nil
	}
	found = found[:size]
	last := found[size-1]
	next, err := page.Encode(conversationList, subject, last.UpdatedAt, last.ID)
	return found, next, err
}

func scanConversation(row pgx.CollectableRow) (Conversation, error) {
	var c Conversation
	err := row.Scan(&c.ID, &c.Title, &c.CreatedAt, &c.UpdatedAt)
	c.CreatedAt, c.UpdatedAt = c.CreatedAt.UTC(), c.UpdatedAt.UTC()
	return c, err
}

// conversation returns one. Errors: CONVERSATION_NOT_FOUND.
func (s *Store) conversation(ctx context.Context, subject string, id uuid.UUID) (Conversation, error) {
	return s.one(ctx, id, `select id, title, created_at, updated_at from conversation where subject = $1 and id = $2`, subject, id)
}

func (s *Store) one(ctx context.Context, id uuid.UUID, query string, args ...any) (Conversation, error) {
	rows, err := s.db.Query(ctx, query, args...)
	if err != nil {
		return Conversation{}, fmt.Errorf("read conversation: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanConversation)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Conversation{}, noConversation(id)
	case err != nil:
		return Conversation{}, fmt.Errorf("read conversation: %w", err)
	}
	return c, nil
}

// Rename gives a conversation a title. Errors: CONVERSATION_NOT_FOUND,
// INVALID_ARGUMENT for a title of which nothing can be seen.
func (s *Store) Rename(ctx context.Context, subject string, id uuid.UUID, title string) (Conversation, error) {
	title = strings.Join(strings.Fields(strings.Map(dropControls, title)), " ")
	if title == "" {
		return Conversation{}, fault.New(fault.ReasonInvalidArgument, "The title is empty.").WithField("title", "is empty")
	}
	return s.one(ctx, id, `update conversation set title = $3 where subject = $1 and id = $2 returning id, title, created_at, updated_at`,
		subject, id, title)
}

// Delete removes a conversation with all that was said in it, for good; one that
// is being answered, too. No error when there is none.
func (s *Store) Delete(ctx context.Context, subject string, id uuid.UUID) error {
	if _, err := s.db.Exec(ctx, `delete from conversation where subject = $1 and id = $2`, subject, id); err != nil {
		return fmt.Errorf("delete conversation: %w", err)
	}
	return nil
}

// Messages returns up to size messages of a conversation, the oldest first, and
// the token of the next page. Of a turn that runs there is the question only.
// Errors: CONVERSATION_NOT_FOUND, PAGE_TOKEN_INVALID.
func (s *Store) Messages(ctx context.Context, subject string, id uuid.UUID, size int, token string) ([]Message, string, error) {
	if _, err := s.conversation(ctx, subject, id); err != nil {
		return nil, "", err
	}
	var after int64
	filter := []string{subject, id.String()}
	if token != "" {
		if err := page.Decode(token, messageList, filter, &after); err != nil {
			return nil, "", err
		}
	}
	found, place, err := s.messages(ctx, subject, id, after, size+1)
	if err != nil {
		return nil, "", err
	}
	if len(found) <= size {
		return found, "", nil
	}
	next, err := page.Encode(messageList, filter, place[size-1])
	return found[:size], next, err
}

// messages returns messages and the place of each in the conversation.
func (s *Store) messages(ctx context.Context, subject string, id uuid.UUID, after int64, limit int) ([]Message, []int64, error) {
	rows, err := s.db.Query(ctx, `
		select m.place, t.id, m.author, m.text, m.at, case m.author when 'BOOKSELLER' then t.citations else '[]' end,
			case m.author when 'BOOKSELLER' then t.outcome else '' end
		from turn t, lateral (values
			(2 * t.number, 'SHOPPER', t.question, t.created_at),
			(2 * t.number + 1, 'BOOKSELLER', t.answer, t.ended_at)
		) as m (place, author, text, at)
		where t.conversation_id = $1 and t.subject = $2 and t.number >= $3 / 2 and m.place > $3 and m.at is not null
		order by t.number, m.place limit $4`, id, subject, after, limit)
	if err != nil {
		return nil, nil, fmt.Errorf("list messages: %w", err)
	}
	var places []int64
	messages, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Message, error) {
		var m Message
		var place int64
		var citations []byte
		if err := row.Scan(&place, &m.TurnID, &m.Author, &m.Text, &m.At, &citations, &m.Outcome); err != nil {
			return Message{}, err
		}
		places = append(places, place)
		m.At = m.At.UTC()
		return m, json.Unmarshal(citations, &m.Citations)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list messages: %w", err)
	}
	return messages, places, nil
}

// exportPage is how many messages Export reads at a time.
const exportPage = 500

// Export returns a conversation whole as Markdown (CommonMark), with a name for
// the file. Errors: CONVERSATION_NOT_FOUND.
func (s *Store) Export(ctx context.Context, subject string, id uuid.UUID) (name, markdown string, err error) {
	c, err := s.conversation(ctx, subject, id)
	if err != nil {
		return "", "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# %s\n\nA conversation with the bookseller of BookWorm, begun %s.\n", escapeMarkdown(c.Title), moment(c.CreatedAt))
	for after := int64(0); ; {
		found, places, err := s.messages(ctx, subject, id, after, exportPage)
		if err != nil {
			return "", "", err
		}
		for _, m := range found {
			writeMessage(&text, m)
		}
		if len(found) < exportPage {
			break
		}
		after = places[len(places)-1]
	}
	return "bookworm-chat-" + c.CreatedAt.Format(time.DateOnly) + ".md", text.String(), nil
}

func writeMessage(to *strings.Builder, m Message) {
	speaker := "You"
	text := escapeMarkdown(m.Text)
	if m.Author == Bookseller {
		speaker, text = "Bookseller", m.Text // Markdown already, and checked
	}
	fmt.Fprintf(to, "\n## %s, %s\n\n%s\n", speaker, moment(m.At), text)
	if m.Author == Bookseller && m.Outcome != Answered {
		fmt.Fprintf(to, "\n(%s)\n", strings.ToLower(string(m.Outcome)))
	}
	if len(m.Citations) > 0 {
		to.WriteString("\nSources:\n\n")
	}
	for _, c := range m.Citations {
		fmt.Fprintf(to, "- \\[%d\\] %s (%s %s)\n", c.Number, escapeMarkdown(c.Title), c.Kind, escapeMarkdown(c.ID))
	}
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

var markdownEscapes = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", `\<`, ">", `\>`, "#", `\#`, "!", `\!`, "|", `\|`,
	"\n", "  \n", // a line break, as it was written
)

// escapeMarkdown makes text show as it was written.
func escapeMarkdown(text string) string { return markdownEscapes.Replace(text) }
