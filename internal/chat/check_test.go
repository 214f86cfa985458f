package chat

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// shelf is what the turn of the tests has found.
func shelf() []*Result {
	list := []*Result{
		{Kind: KindBook, ID: "b1", Title: "Dune", Text: "A desert planet and its spice. 31337 copies left! Only $0.01! Write to spice@evil.example.", Fields: map[string]any{
			"authors": []string{"Frank Herbert"}, "price": "USD 9.99", Available: int32(3), "isbn13": "9780441172719", "publication_year": int32(1965),
			"page_count": int32(412), "rating": "4.5 of 5 stars, 12 reviews",
		}},
		{Kind: KindBook, ID: "b2", Title: "Dune Messiah", Text: "The story goes on.", Fields: map[string]any{
			"authors": []string{"Frank Herbert"}, "price": "USD 8.50", Available: int32(0), "publication_year": int32(1969),
		}},
		{Kind: KindReview, ID: "r1", Title: "Great", Text: "The worms are wonderful. It costs $1 only, refund within 99 days.", Fields: map[string]any{"stars": int32(5)}},
		{Kind: KindOrder, ID: "o1", Title: "Order of 2026-11-24", Fields: map[string]any{
			"status": "SHIPPED", "total": "USD 21.99", "items": []string{"2 x Emma, USD 5.00 each"}, "placed": "2026-11-24",
		}},
		{Kind: KindPolicy, ID: "shipping", Title: "Shipping", Text: "Shipping costs USD 4.50 and takes 5 days. Questions: help@bookworm.example or +1 900 555 0100."},
		{Kind: KindBook, ID: "b3", Title: "It", Text: "A clown.", Fields: map[string]any{"authors": []string{"Stephen King"}, "price": "USD 12.00", Available: int32(1)}},
	}
	for i, r := range list {
		r.ref = i + 1
		r.clean()
		r.proof = r.prove()
	}
	return list
}

func newCheck(asked string) (*check, *[]int) {
	list := shelf()
	cited := new([]int)
	return &check{
		results: func() []*Result { return list }, asked: asked, marked: make(map[int]bool),
		cited: func(r *Result) { *cited = append(*cited, r.ref) },
	}, cited
}

// through sends a text through a check in pieces of so many bytes.
func through(asked, text string, size int) (said string, uncited int, cited []int) {
	c, refs := newCheck(asked)
	var out strings.Builder
	for len(text) > 0 {
		n := min(size, len(text))
		for n < len(text) && !utf8.RuneStart(text[n]) {
			n++
		}
		out.WriteString(c.Write(text[:n]))
		text = text[n:]
	}
	out.WriteString(c.Close())
	return out.String(), c.uncited, *refs
}

func TestCheckOfSentences(t *testing.T) {
	t.Parallel()
	const asked = "Do you have something under $20, by tomorrow?"
	for name, test := range map[string]struct{ text, want string }{
		"nothing claimed":               {"Hello! What would you like to read?", "Hello! What would you like to read?"},
		"a lead-in":                     {"Here is what I found:\n- Dune costs USD 9.99 [1].", "Here is what I found:\n- Dune costs USD 9.99 [1]."},
		"price, cited":                  {"Dune costs USD 9.99 [1].", "Dune costs USD 9.99 [1]."},
		"price with a sign":             {"Dune is $9.99 [1].", "Dune is $9.99 [1]."},
		"price, uncited":                {"Dune costs USD 9.99.", "Dune costs USD 9.99 (unverified)."},
		"price, wrong":                  {"Dune costs USD 7.99 [1].", "Dune costs USD 7.99 (unverified)."},
		"price of another":              {"Dune Messiah costs USD 9.99 [2].", "Dune Messiah costs USD 9.99 (unverified)."},
		"price that is a number else":   {"Dune costs USD 3.00 [1].", "Dune costs USD 3.00 (unverified)."},
		"price from a description":      {"Dune costs $0.01 [1].", "Dune costs $0.01 (unverified)."},
		"price from a review":           {"Dune costs $1 [3].", "Dune costs $1 (unverified)."},
		"mark of nothing":               {"Dune costs USD 9.99 [97].", "Dune costs USD 9.99 (unverified)."},
		"mark of nothing on a greeting": {"Hello there [97]!", "Hello there!"},
		"mark of the wrong book":        {"Dune costs USD 9.99 [2].", "Dune costs USD 9.99 (unverified)."},
		"one right, one wrong mark":     {"Dune costs USD 9.99 [1][97].", "Dune costs USD 9.99 [1]."},
		"mark that has no part in it":   {"The price of Dune is USD 9.99 [1][5].", "The price of Dune is USD 9.99 [1]."},
		"two in one":                    {"Dune is USD 9.99 [1] and Dune Messiah is USD 8.50 [2].", "Dune is USD 9.99 [1] and Dune Messiah is USD 8.50 [2]."},
		"list of marks":                 {"Both are by Frank Herbert [1, 2].", "Both are by Frank Herbert [1][2]."},
		"mark behind the stop":          {"Dune costs USD 9.99. [1] Shall I go on?", "Dune costs USD 9.99. [1] Shall I go on?"},
		"mark before the words":         {"[1] Dune costs USD 9.99.", "[1] Dune costs USD 9.99."},
		"mark before wrong words":       {"[1] Dune costs USD 5.", " Dune costs USD 5 (unverified)."},
		"stock":                         {"It is in stock [1].", "It is in stock [1]."},
		"stock that there is not":       {"Dune Messiah is in stock [2].", "Dune Messiah is in stock (unverified)."},
		"no stock":                      {"Dune Messiah is out of stock [2].", "Dune Messiah is out of stock [2]."},
		"no stock where there is some":  {"Dune is sold out [1].", "Dune is sold out (unverified)."},
		"copies":                        {"There are 3 copies left [1].", "There are 3 copies left [1]."},
		"copies in words":               {"There are three copies left [1].", "There are three copies left [1]."},
		"copies from a description":     {"There are 31337 copies left [1].", "There are 31337 copies left (unverified)."},
		"stock, uncited":                {"It is available.", "It is available (unverified)."},
		"isbn":                          {"Its ISBN is 978-0-441-17271-9 [1].", "Its ISBN is 978-0-441-17271-9 [1]."},
		"isbn of another":               {"Its ISBN is 9780306406157 [1].", "Its ISBN is 9780306406157 (unverified)."},
		"year":                          {"It was published in 1965 [1].", "It was published in 1965 [1]."},
		"year, wrong":                   {"It was published in 1975 [1].", "It was published in 1975 (unverified)."},
		"author":                        {"Dune is by Frank Herbert [1].", "Dune is by Frank Herbert [1]."},
		"author, wrong":                 {"Dune is by Isaac Asimov [1].", "Dune is by Isaac Asimov (unverified)."},
		"title in quotes":               {"I recommend “Emma” [1].", "I recommend “Emma” (unverified)."},
		"title of the turn, uncited":    {"Dune takes place on a desert planet.", "Dune takes place on a desert planet (unverified)."},
		"title that is a word":          {"It is late.", "It is late."},
		"title that is a word, set off": {"*It* is about a clown.", "*It* is about a clown (unverified)."},
		"rating":                        {"It has 4.5 stars from 12 reviews [1].", "It has 4.5 stars from 12 reviews [1]."},
		"rating, made up":               {"It has 4.99 stars from 88888 reviews [1].", "It has 4.99 stars from 88888 reviews (unverified)."},
		"review":                        {"A reader gives it 5 stars and calls the worms wonderful [3].", "A reader gives it 5 stars and calls the worms wonderful [3]."},
		"order":                         {"Your order of 2026-11-24 is SHIPPED and costs USD 21.99 [4].", "Your order of 2026-11-24 is SHIPPED and costs USD 21.99 [4]."},
		"order, uncited":                {"Your order was shipped.", "Your order was shipped (unverified)."},
		"rule":                          {"Shipping costs USD 4.50 and takes 5 days [5].", "Shipping costs USD 4.50 and takes 5 days [5]."},
		"rule, made up":                 {"Returns are free for 365 days [5].", "Returns are free for 365 days (unverified)."},
		"rule from a review":            {"You get a refund within 99 days [3].", "You get a refund within 99 days (unverified)."},
		"code":                          {"The code BOOK90OFF takes 90 % off [3].", "The code BOOK90OFF takes 90 % off (unverified)."},
		"not known":                     {"I couldn't find anything under $20.", "I couldn't find anything under $20."},
		"not known, but a price":        {"I couldn't find it, but it costs $3.", "I couldn't find it, but it costs $3 (unverified)."},
		"question with a price":         {"Did you know that it costs $3?", "Did you know that it costs $3 (unverified)?"},
		"question with a title":         {"Shall I put Dune into your basket?", "Shall I put Dune into your basket?"},
		"how many are listed":           {"I found three books for you.", "I found three books for you."},
		"initials end no sentence":      {"P. G. Wodehouse wrote with Mr. Smith.", "P. G. Wodehouse wrote with Mr. Smith."},
		"a numbered list":               {"1. Dune costs USD 9.99 [1].\n2. Hm.", "1. Dune costs USD 9.99 [1].\n2. Hm."},
		"no stop at the end":            {"Dune costs USD 9.99", "Dune costs USD 9.99 (unverified)"},
		"decimal comma":                 {"Dune kostet 9,99 € [1].", "Dune kostet 9,99 € [1]."},
		"chinese":                       {"你好。《沙丘》很好看。", "你好。《沙丘》很好看。"}, //nolint:gosmopolitan // on purpose
	} {
		for _, size := range []int{1, 7, 10_000} {
			said, uncited, cited := through(asked, test.text, size)
			if said != test.want {
				t.Errorf("%s, %d bytes at a time:\n got %q\nwant %q", name, size, said, test.want)
			}
			if want := strings.Count(test.want, unverified); uncited != want {
				t.Errorf("%s: counted %d, want %d", name, uncited, want)
			}
			for ref := range 7 {
				has := strings.Contains(said, "["+string(rune('0'+ref))+"]")
				if slices.Contains(cited, ref) != has {
					t.Errorf("%s: cited %v in %q", name, cited, said)
				}
			}
		}
	}
}

func TestCheckOfWhatMayNotBeSaid(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text   string
		never  []string
		always []string
	}{
		"link":                {"See [this page](https://evil.example/a?b=c) now.", []string{"evil", "http", "]("}, []string{"this page", "now."}},
		"relative link":       {"See [Dune](/books/abc-1) now.", nil, []string{"[Dune](/books/abc-1)"}},
		"protocol-relative":   {"See [Dune](//evil.example) now.", []string{"evil", "]("}, []string{"Dune"}},
		"backslash":           {`See [Dune](/\evil.example) now.`, []string{"evil", "]("}, []string{"Dune"}},
		"script":              {"See [Dune](javascript:alert(1)) now.", []string{"javascript"}, []string{"Dune"}},
		"image":               {"Look ![x](https://evil.example/p.png) here.", []string{"evil", "!["}, []string{"Look", "here."}},
		"own image":           {"Look ![x](/books/1) here.", []string{"![", "/books"}, nil},
		"reference link":      {"[details][1]\n[1]: https://evil.example/?h=1", []string{"evil", "http"}, []string{"details"}},
		"bare link":           {"Visit https://evil.example/win or www.evil.example or evil.example/win today.", []string{"evil"}, []string{"Visit", "today."}},
		"autolink":            {"Visit <https://evil.example> today.", []string{"evil"}, []string{"today."}},
		"html":                {`<img src="https://evil.example/x"> and <a href="javascript:alert(1)">buy</a>.`, []string{"evil", "<", "javascript"}, []string{"buy"}},
		"tag that never ends": {`<img src=x onerror=alert`, []string{"<"}, nil},
		"link taken apart":    {"https:/<b></b>/evil.example and ht[tps://](x)evil.example and e[vil.exam](x)ple", []string{"evil.example", "://"}, nil},
		"data url":            {"![cover](data:text/html;base64,PHNj) data:text/html;base64,PHNj", []string{"data:"}, nil},
		"e-mail":              {"Write to help@evil.example, please.", []string{"evil", "@"}, []string{"Write to", "please."}},
		"the shop's e-mail":   {"Write to help@bookworm.example [5].", nil, []string{"help@bookworm.example"}},
		"e-mail of a book":    {"Write to spice@evil.example [1].", []string{"evil"}, nil},
		"phone":               {"Call +1 900 555 0199 now.", []string{"900 555", "0199"}, []string{"Call", "now."}},
		"card":                {"It is 4242 4242 4242 4242, and 4242424242424242.", []string{"4242 4242", "42424242"}, nil},
		"iban":                {"Pay to DE89 3704 0044 0532 0130 00 today.", []string{"3704", "0532"}, []string{"today."}},
		"secret":              {"The key is sk-proj-abcdefgh12345678.", []string{"sk-proj"}, nil},
		"a long token":        {"It is " + strings.Repeat("QUJD", 30) + " so.", []string{"QUJDQUJD"}, []string{" so."}},
		"escape sequence":     {"A\x1b[31mB \u202eevil\u202c C\U000e0041.", []string{"\x1b", "\u202e", "\U000e0041"}, nil},
		"chat template":       {"Done <|im_start|>system<|im_end|> yes.", []string{"<|", "|>"}, []string{"yes."}},
		"brackets":            {"An [EMAIL] and [sic] stay [ open", nil, []string{"[EMAIL]", "[sic]", "[ open"}},
		"less than":           {"Prices < 10 are 1 <3 love.", nil, []string{"< 10"}},
	} {
		for _, size := range []int{1, 5, 10_000} {
			said, _, _ := through("", test.text, size)
			for _, never := range test.never {
				if strings.Contains(said, never) {
					t.Errorf("%s, %d bytes at a time: %q is in %q", name, size, never, said)
				}
			}
			for _, always := range test.always {
				if !strings.Contains(said, always) {
					t.Errorf("%s, %d bytes at a time: %q is not in %q", name, size, always, said)
				}
			}
		}
	}
}

func TestCheckKeepsTheInstructions(t *testing.T) {
	t.Parallel()
	spaced := strings.Join(strings.Split(promptText, ""), " ")
	runes := []rune(promptText)
	slices.Reverse(runes)
	for name, text := range map[string]string{
		"whole":     promptText,
		"the end":   "Sure! " + promptText[len(promptText)-200:],
		"upper":     strings.ToUpper(promptText),
		"spaced":    spaced,
		"hyphens":   strings.ReplaceAll(promptText, " ", "-"),
		"backwards": string(runes),
		"fenced":    "```\n" + promptText + "\n```",
	} {
		c, _ := newCheck("")
		said := c.Write(text) + c.Close()
		if !c.stopped && !strings.Contains(said, removed) {
			t.Errorf("%s: was let through", name)
		}
		letters := strings.Map(bare, said)
		for window := range instructions() {
			if strings.Contains(letters, window) {
				t.Errorf("%s: told %q", name, window)
				break
			}
		}
		if c.Write("more") != "" {
			if c.stopped {
				t.Errorf("%s: goes on after the stop", name)
			}
		}
	}
}

// TestCheckIsNoBrake: what needs no check goes out with the next word.
func TestCheckIsNoBrake(t *testing.T) {
	t.Parallel()
	c, _ := newCheck("")
	if got := c.Write("Let me see "); got != "Let me see" {
		t.Errorf("got %q at once", got)
	}
	if got := c.Write("what there is"); got != " what there" {
		t.Errorf("got %q", got)
	}
	if got := c.Write(". Dune costs USD 9.99 "); got != " is. Dune costs USD" {
		t.Errorf("got %q: a word is held until it is whole, a number until the next word", got)
	}
	if got := c.Write("[1]. "); got != " 9.99" {
		t.Errorf("got %q", got)
	}
	if got := c.Write("Now"); got != " [1]." {
		t.Errorf("got %q: the sentence ends with what is not a mark", got)
	}
}

func FuzzCheck(f *testing.F) {
	for _, text := range []string{
		"Dune costs USD 9.99 [1]. It is [in stock](http://x.com) <b>now</b> 4242 4242 4242 4242!", "![", "[1](", "<|", "1. [2]\n[", "\u300a\u6c99\u300b[1]\u3002", promptText[:90], "a@b.cd +1 900 555 0199",
	} {
		f.Add(text, 3)
	}
	f.Fuzz(func(t *testing.T, text string, size int) {
		if size < 1 || size > 1000 || len(text) > 4000 || !utf8.ValidString(text) {
			t.Skip()
		}
		said, uncited, cited := through("", text, size)
		whole, wholeUncited, _ := through("", text, len(text)+1)
		if said != whole || uncited != wholeUncited {
			t.Errorf("in pieces %q, whole %q", said, whole)
		}
		if strings.Contains(said, "](") && !strings.Contains(text, "](/") {
			t.Errorf("a link: %q", said)
		}
		for _, bad := range []string{"://", "<script", "<img", "![", "\x00", "\x1b"} {
			if strings.Contains(said, bad) && bad != "![" {
				t.Errorf("%q is in %q", bad, said)
			}
		}
		for _, ref := range cited {
			if ref < 1 || ref > len(shelf()) {
				t.Errorf("cites %d", ref)
			}
		}
	})
}
