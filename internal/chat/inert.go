package chat

import (
	"regexp"
	"strings"
	"unicode"
)

// inert makes a stranger's text one that can only be read as text. It drops what
// cannot be seen (controls, zero-width and bidirectional marks, tags, private
// use), writes full-width letters in the usual width, and takes apart what models
// or this package give a meaning: role markers, templates of chats, fences,
// headings and marks such as [1].
//
// That is no protection against being told things in plain words; see
// docs/processes/chat.md for what is.
func inert(text string) string {
	text = strings.Map(visible, text)
	text = blankLines.ReplaceAllString(text, "\n")
	text = roleMarker.ReplaceAllString(text, "$1$2 -")
	text = marks.ReplaceAllString(text, "($1)")
	text = templateTag.ReplaceAllString(text, "($1)")
	return strings.TrimSpace(delimiters.Replace(text))
}

func visible(r rune) rune {
	switch {
	case r == '\n':
		return r
	case r == '\t', r == '\u3000':
		return ' '
	case r >= '\uff01' && r <= '\uff5e': // full width
		return r - 0xfee0
	case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Variation_Selector):
		return -1
	}
	return r
}

var (
	blankLines  = regexp.MustCompile(`\n\s*\n\s*`)
	roleMarker  = regexp.MustCompile(`(?im)^([\s>*#"'-]*)(system|assistant|user|human|developer|tool|function|bookseller|shopper)(?:\s*\([^)\n]{0,30}\))?\s*:`)
	marks       = regexp.MustCompile(`\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]`)
	templateTag = regexp.MustCompile(`(?i)\[\s*(/?\s*(?:inst|sys|system|user|assistant))\s*\]`)
	delimiters  = strings.NewReplacer("<|", "< ", "|>", " >", "<<", "< <", ">>", "> >", "```", "'''", "\n#", "\n", "===", "-", "---", "-", "![", "[")
)
