package page_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/uuid"

	"bookworm/internal/fault"
	"bookworm/internal/page"
)

type filters struct {
	Query   string
	Subject string
}

var id = uuid.MustParse("0190f5a1-0000-7000-8000-000000000001")

func encode(t *testing.T, list string, f any, key ...any) string {
	t.Helper()
	token, err := page.Encode(list, f, key...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestDecodeReadsWhatEncodeWrote(t *testing.T) {
	t.Parallel()
	f := filters{Query: "sea", Subject: "alice"}
	token := encode(t, "books", f, "Moby-Dick \"ü\"", int64(1<<62+1), id)
	var (
		title string
		price int64
		book  uuid.UUID
	)
	if err := page.Decode(token, "books", f, &title, &price, &book); err != nil {
		t.Fatal(err)
	}
	if title != "Moby-Dick \"ü\"" || price != 1<<62+1 || book != id {
		t.Errorf("got %q, %d, %s", title, price, book)
	}
}

func TestDecodeRefusesAForeignToken(t *testing.T) {
	t.Parallel()
	f := filters{Query: "sea", Subject: "alice"}
	mine := encode(t, "books", f, "Moby-Dick", id)
	raw := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	inside, err := base64.RawURLEncoding.DecodeString(mine)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"empty":              "",
		"not base64":         "!!!",
		"padded":             mine + "==",
		"cut":                mine[:len(mine)-4],
		"not JSON":           raw("hello"),
		"null":               raw("null"),
		"more behind":        raw(string(inside) + "{}"),
		"another field":      raw(strings.Replace(string(inside), `{`, `{"x":1,`, 1)),
		"another list":       encode(t, "orders", f, "Moby-Dick", id),
		"other filters":      encode(t, "books", filters{Query: "land", Subject: "alice"}, "Moby-Dick", id),
		"another's":          encode(t, "books", filters{Query: "sea", Subject: "bob"}, "Moby-Dick", id),
		"fewer values":       encode(t, "books", f, "Moby-Dick"),
		"more values":        encode(t, "books", f, "Moby-Dick", id, 1),
		"value of a type":    encode(t, "books", f, 12, id),
		"value missing":      encode(t, "books", f, nil, id),
		"id that is no UUID": encode(t, "books", f, "Moby-Dick", "x"),
		"NUL":                encode(t, "books", f, "Moby\x00Dick", id),
		"endless":            strings.Repeat("A", 5000),
	} {
		var (
			title string
			book  uuid.UUID
		)
		if err := page.Decode(token, "books", f, &title, &book); !fault.Is(err, fault.ReasonPageTokenInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	valid, err := page.Encode("books", filters{}, "title", int64(7), id)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add("")
	f.Add("e30")
	f.Add(valid[:20])
	f.Fuzz(func(t *testing.T, token string) {
		var (
			title string
			price int64
			book  uuid.UUID
		)
		err := page.Decode(token, "books", filters{}, &title, &price, &book)
		if err != nil {
			if !fault.Is(err, fault.ReasonPageTokenInvalid) {
				t.Errorf("an error without its reason: %v", err)
			}
			return
		}
		if strings.Contains(title, "\x00") {
			t.Errorf("%q has a NUL", title)
		}
		again, err := page.Encode("books", filters{}, title, price, book)
		if err != nil {
			t.Fatal(err)
		}
		if err := page.Decode(again, "books", filters{}, &title, &price, &book); err != nil {
			t.Errorf("what was read cannot be written and read again: %v", err)
		}
	})
}
