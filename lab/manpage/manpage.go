// Package manpage reads manual pages, man(7), so that tests can compare them with
// the code.
package manpage

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// A Section is the lines below a heading, .SH or .SS, up to the next.
type Section struct {
	Name, Sub string // Sub is empty before the first .SS
	lines     []string
}

// Read reads a page.
func Read(t testing.TB, path string) []Section {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sections := []Section{{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		last := &sections[len(sections)-1]
		if name, ok := strings.CutPrefix(line, ".SH "); ok {
			sections = append(sections, Section{Name: name})
		} else if sub, ok := strings.CutPrefix(line, ".SS "); ok {
			sections = append(sections, Section{Name: last.Name, Sub: plain(sub)})
		} else {
			last.lines = append(last.lines, line)
		}
	}
	return sections
}

// Find returns the section of this name.
func Find(t testing.TB, page []Section, name, sub string) Section {
	t.Helper()
	for _, s := range page {
		if s.Name == name && s.Sub == sub {
			return s
		}
	}
	t.Fatalf("the page has no section %s %s", name, sub)
	return Section{}
}

// Tags returns the tags of the paragraphs that have one, .TP.
func (s Section) Tags() []string {
	var tags []string
	for i, line := range s.lines {
		if i > 0 && s.lines[i-1] == ".TP" {
			tags = append(tags, plain(line))
		}
	}
	return tags
}

// Bold returns the words of the lines that are bold as a whole.
func (s Section) Bold() []string {
	var words []string
	for _, line := range s.lines {
		if strings.HasPrefix(line, ".B ") {
			words = append(words, strings.Fields(plain(line))...)
		}
	}
	return words
}

// Examples returns the texts between .EX and .EE.
func (s Section) Examples() []string {
	var examples []string
	inside := false
	for _, line := range s.lines {
		switch {
		case line == ".EX":
			examples, inside = append(examples, ""), true
		case line == ".EE":
			inside = false
		case inside:
			examples[len(examples)-1] += plain(line) + "\n"
		}
	}
	return examples
}

var (
	font     = regexp.MustCompile(`^\.(B|I|BI|BR|IB|IR|RB|RI) `)
	argument = regexp.MustCompile(`"[^"]*"|\S+`)
	escapes  = strings.NewReplacer(`\-`, "-", `\~`, " ", `\(dq`, `"`, `\fR`, "", `\fI`, "", `\fB`, "")
)

// plain is a line without its fonts.
func plain(line string) string {
	if macro := font.FindString(line); macro != "" {
		words := argument.FindAllString(line[len(macro):], -1)
		for i, w := range words {
			words[i] = strings.Trim(w, `"`)
		}
		between := ""
		if len(macro) == len(".B ") {
			between = " "
		}
		line = strings.Join(words, between)
	}
	return escapes.Replace(line)
}
