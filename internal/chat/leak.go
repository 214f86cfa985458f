package chat

import (
	"slices"
	"strings"
	"sync"
	"unicode"
)

// leakWindow is how many letters and digits in a row must be the instructions' for
// them to count as told: five to seven words.
const leakWindow = 32

// instructions returns every window of the instructions, forwards and backwards,
// in lower case and without anything but letters and digits: neither spaces
// between letters nor punctuation nor case hides them.
var instructions = sync.OnceValue(func() map[string]bool {
	letters := []rune(strings.Map(bare, promptText))
	windows := make(map[string]bool, 2*len(letters))
	for range 2 {
		for i := range len(letters) - leakWindow + 1 {
			windows[string(letters[i:i+leakWindow])] = true
		}
		slices.Reverse(letters)
	}
	return windows
})

func bare(r rune) rune {
	if unicode.IsLetter(r) || unicode.IsDigit(r) {
		return unicode.ToLower(r)
	}
	return -1
}

// leakGuard looks for the instructions in what is said. At most a window of them
// has been said when it sees them.
type leakGuard struct{ window []rune }

// pass reports whether the text, after all that came before, may be said.
func (g *leakGuard) pass(text string) bool {
	for _, r := range text {
		if r = bare(r); r < 0 {
			continue
		}
		if len(g.window) == leakWindow {
			copy(g.window, g.window[1:])
			g.window = g.window[:leakWindow-1]
		}
		g.window = append(g.window, r)
		if len(g.window) == leakWindow && instructions()[string(g.window)] {
			return false
		}
	}
	return true
}
