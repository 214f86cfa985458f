// Package chat is the bookseller that shoppers talk to: conversations and their
// turns, the engine that runs a turn, and the guards around the model.
//
// A turn is one message of a shopper and its answer. The engine that takes it runs
// it in its own process and appends its events to the database, from where they
// can be read again and from elsewhere. docs/processes/chat.md tells it step by
// step.
package chat

import (
	"crypto/sha256"
	"embed"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is what the chat keeps in the database.
var Schema = postgres.Schema{Name: "chat", Migrations: migrations}

// Store keeps conversations in PostgreSQL. Every method that takes a subject sees
// only what belongs to it: somebody else's conversation is not there. It is safe
// for concurrent use, also by several processes.
type Store struct{ db *pgxpool.Pool }

// NewStore returns a store over a pool opened for Schema.
func NewStore(db *pgxpool.Pool) *Store { return &Store{db: db} }

// Conversation is a series of turns.
type Conversation struct {
	ID        uuid.UUID
	Title     string
	CreatedAt time.Time
	UpdatedAt time.Time // when something was last said in it
}

// Author is who said something.
type Author string

// The authors.
const (
	Shopper    Author = "SHOPPER"
	Bookseller Author = "BOOKSELLER"
)

// Message is what somebody said.
type Message struct {
	TurnID    uuid.UUID
	Author    Author
	Text      string
	At        time.Time
	Citations []Citation // of the bookseller's
	Outcome   Outcome    // of the bookseller's
}

// turnSpace is the namespace of turn ids (RFC 9562, version 5).
var turnSpace = uuid.MustParse("5a6f0c1e-7d0b-4f6a-9a57-0a3c5e2b8d41")

// TurnID derives the turn's id from who speaks and with which idempotency key, so
// that a repeated message can only ever meet the same turn.
func TurnID(subject, idempotencyKey string) uuid.UUID {
	return uuid.NewSHA1(turnSpace, []byte(subject+"\x00"+idempotencyKey))
}

// newConversationID is the id of the conversation that a turn begins. It derives
// from the turn, so that two attempts at it begin one conversation.
func newConversationID(turn uuid.UUID) uuid.UUID { return uuid.NewSHA1(turn, []byte("conversation")) }

// fingerprint identifies a message, so that a key reused with another one is
// noticed.
func fingerprint(conversation uuid.UUID, text string) []byte {
	sum := sha256.Sum256([]byte(conversation.String() + "\x00" + text))
	return sum[:]
}

// maxText is the longest message, in characters, as the contract says.
const maxText = 4000

// cleanQuestion returns a message without control characters, which no keyboard
// makes and the database does not take. Errors: INVALID_ARGUMENT.
func cleanQuestion(text string) (string, error) {
	invalid := func(problem string) error {
		return fault.New(fault.ReasonInvalidArgument, "The text %s.", problem).WithField("text", problem)
	}
	if !utf8.ValidString(text) {
		return "", invalid("is not valid UTF-8")
	}
	if utf8.RuneCountInString(text) > maxText {
		return "", invalid("is longer than 4000 characters")
	}
	cleaned := strings.TrimSpace(strings.Map(dropControls, text))
	switch {
	case strings.TrimSpace(text) == "":
		return "", invalid("is empty")
	case cleaned == "" || !strings.ContainsFunc(cleaned, unicode.IsGraphic):
		return "", invalid("has only characters that cannot be seen")
	}
	return cleaned, nil
}

func dropControls(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return -1
	}
	return r
}

const titleLength = 60

// titleOf makes a title of the beginning of the first message.
func titleOf(text string) string {
	words := strings.Fields(text)
	title := ""
	for _, word := range words {
		if utf8.RuneCountInString(title)+utf8.RuneCountInString(word) >= titleLength {
			break
		}
		title = strings.TrimSpace(title + " " + word)
	}
	if title == "" { // one word that is longer than a title
		title = string([]rune(words[0])[:titleLength])
	}
	return title
}
