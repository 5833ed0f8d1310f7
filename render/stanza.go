package render

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"ec2net/facts"
)

// outside are the words that begin a line outside of a stanza: interfaces(5).
// "allow-" may have anything behind it.
var outside = []string{"auto", "no-auto-down", "no-scripts", "source", "source-directory", "rename", "template"}

// checkStanza holds a rendered cfg file to interfaces(5). One line that
// ifupdown cannot read makes it refuse every interface of the machine, so a
// template that renders such a line must not get as far as the disk.
func checkStanza(content []byte, e facts.ENI) error {
	stanza, found := "", false
	for line := range logicalLines(content) {
		words := strings.Fields(line.text)
		refuse := func(why string) error {
			return &lineError{line: line.number, text: line.text, why: why,
				hint: "interfaces(5) describes the lines; ifupdown refuses to bring up any interface if it cannot read one"}
		}
		switch word := words[0]; {
		case word == "iface":
			if len(words) < 2 || (len(words) != 4 && !slices.Contains(words, "inherits")) {
				return refuse("iface takes a name, an address family and a method")
			}
			stanza = word
			found = found || words[1] == e.Name
		case word == "mapping":
			stanza = word
		case slices.Contains(outside, word) || strings.HasPrefix(word, "allow-"):
			stanza = ""
		case stanza == "":
			return refuse("not a line that can stand before a stanza")
		case len(words) == 1:
			return refuse("an option without a value")
		}
	}
	if !found {
		return fmt.Errorf("there is no stanza \"iface %s ...\"", e.Name)
	}
	if bytes.IndexByte(content, 0) >= 0 {
		return errors.New("there is a NUL byte in the output")
	}
	return nil
}

type textLine struct {
	number int
	text   string
}

// logicalLines gives the lines that say something: no comments, no empty
// ones, and continued ones as one.
func logicalLines(content []byte) func(func(textLine) bool) {
	return func(yield func(textLine) bool) {
		var whole string
		start := 0
		for i, line := range strings.Split(string(content), "\n") {
			trimmed := strings.TrimSpace(line)
			if whole == "" {
				if trimmed == "" || trimmed[0] == '#' {
					continue
				}
				start = i + 1
			}
			body, continued := strings.CutSuffix(line, `\`)
			whole += body
			if continued {
				continue
			}
			if strings.TrimSpace(whole) != "" && !yield(textLine{start, strings.TrimSpace(whole)}) {
				return
			}
			whole = ""
		}
		if strings.TrimSpace(whole) != "" {
			yield(textLine{start, strings.TrimSpace(whole)})
		}
	}
}

// unmanaged is the line by which an administrator keeps ec2net's hands off an
// ENI. It is a comment, since ifupdown cannot read the bare words.
var unmanaged = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*EC2SYNC=no[ \t]*$`)

// Unmanaged says whether a cfg file has the line "# EC2SYNC=no": then nothing
// of its ENI is to be touched.
func Unmanaged(cfg []byte) bool { return unmanaged.Match(cfg) }
