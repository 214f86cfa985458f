package chat

import (
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

//go:embed policies/*.md
var policyFiles embed.FS

// Policy is a section of one of the shop's rules.
type Policy struct {
	Name    string // of the rule, for example "returns"
	Title   string // of the rule and the section, for example "Returns: Exchanges"
	Text    string // plain text
	name    string // stems of the name, the heading, and of everything
	heading string
	words   string
}

// policies are all sections, in the order of the files.
var policies = sync.OnceValue(func() []Policy {
	files, err := fs.Glob(policyFiles, "policies/*.md")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	var all []Policy
	for _, file := range files {
		text, err := policyFiles.ReadFile(file)
		if err != nil {
			panic(fmt.Sprintf("read embedded %s: %v", file, err))
		}
		all = append(all, sections(strings.TrimSuffix(path.Base(file), ".md"), string(text))...)
	}
	return all
})

// sections splits a rule at its headings of the second level.
func sections(name, markdown string) []Policy {
	var all []Policy
	title, heading := name, ""
	var body []string
	end := func() {
		if text := strings.Join(body, " "); text != "" {
			p := Policy{Name: name, Title: title, Text: text}
			if heading != "" {
				p.Title += ": " + heading
			}
			p.name, p.heading, p.words = stems(name), stems(heading), stems(p.Title+" "+text)
			all = append(all, p)
		}
		body = nil
	}
	for line := range strings.Lines(markdown) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "# "):
			title = strings.TrimPrefix(line, "# ")
		case strings.HasPrefix(line, "## "):
			end()
			heading = strings.TrimPrefix(line, "## ")
		case line != "":
			body = append(body, line)
		}
	}
	end()
	return all
}

// PolicyNames returns the names of the shop's rules.
func PolicyNames() []string {
	var names []string
	for _, p := range policies() {
		if !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// FindPolicies returns up to limit sections of the shop's rules that fit a
// question, the best first; none when nothing fits. Words count by how few
// sections have them, more in a heading, and most in the rule's name.
func FindPolicies(question string, limit int) []Policy {
	type scored struct {
		Policy

		score float64
	}
	words := strings.Fields(stems(question))
	slices.Sort(words)
	words = slices.Compact(words)
	var found []scored
	for _, p := range policies() {
		var score float64
		for _, word := range words {
			weight := 1 / float64(1+sectionsWith(word))
			if contains(p.words, word) {
				score += weight
			}
			if contains(p.heading, word) {
				score += 2 * weight
			}
			if contains(p.name, word) {
				score += 6 * weight
			}
		}
		if score > 0 {
			found = append(found, scored{p, score})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	best := make([]Policy, 0, limit)
	for _, p := range found[:min(limit, len(found))] {
		if p.score*4 >= found[0].score {
			best = append(best, p.Policy)
		}
	}
	return best
}

func sectionsWith(word string) int {
	n := 0
	for _, p := range policies() {
		if contains(p.words, word) {
			n++
		}
	}
	return n
}

// stems folds a text and cuts its words down so that "returned" finds "returns".
func stems(text string) string {
	var kept []string
	for word := range strings.FieldsSeq(fold(text)) {
		if slices.Contains(commonWords, word) {
			continue
		}
		for _, ending := range []string{"ing", "ies", "ed", "es", "s", "y"} {
			if cut, ok := strings.CutSuffix(word, ending); ok && len(cut) >= 3 {
				word = cut
				break
			}
		}
		kept = append(kept, strings.TrimSuffix(word, "e"))
	}
	return " " + strings.Join(kept, " ") + " "
}

var commonWords = strings.Fields(`a an and are as at be book books but by can could do does for from get give has have how i if in is it its like long many may me money much my
	not of on or our please shop should so tell that the their them then there they this to want was we what when where which who why will with would you your`)
