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

// What interfaces(5) has, as ifupdown of Debian 12 and 13 reads it.
var (
	outside  = []string{"auto", "no-auto-down", "no-scripts", "source", "source-directory", "rename"}
	families = map[string][]string{
		"inet":  {"loopback", "static", "manual", "dhcp", "bootp", "tunnel", "ppp", "wvdial", "ipv4ll"},
		"inet6": {"auto", "loopback", "static", "manual", "dhcp", "v4tunnel", "6to4"},
	}
	// A stanza may have several of these, and one of every other option.
	commands = []string{"pre-up", "up", "post-up", "pre-down", "down", "post-down"}
)

// checkStanza holds a rendered cfg file to interfaces(5). At a line that it
// cannot read ifupdown drops the rest of the file, and says "unknown interface"
// at the next ifup: so a template that renders such a line must not get as far
// as the disk.
func checkStanza(content []byte, e facts.ENI) error {
	if bytes.IndexByte(content, 0) >= 0 {
		return errors.New("there is a NUL byte in the output")
	}
	s := stanza{name: e.Name}
	for line := range logicalLines(content) {
		if why := s.read(line.text); why != "" {
			return &lineError{line: line.number, text: line.text, why: why,
				hint: "interfaces(5) describes the lines; at one that it cannot read ifupdown drops the rest of the file"}
		}
	}
	if !s.found {
		return fmt.Errorf("there is no stanza \"iface %s ...\"", e.Name)
	}
	return nil
}

// stanza reads the lines of a file, one after the other.
type stanza struct {
	name    string   // the interface that has to have one
	found   bool     // and has
	in      string   // iface or mapping; empty before the first
	options []string // seen in this stanza
}

// read says what is wrong with a line, if anything is.
func (s *stanza) read(line string) string {
	words := blanks(line)
	switch word := words[0]; {
	case word == "iface":
		s.in, s.options = word, nil
		if len(words) != 4 {
			return "iface takes a name, an address family and a method"
		}
		methods, known := families[words[2]]
		if !known || !slices.Contains(methods, words[3]) {
			return fmt.Sprintf("ifupdown has no method %s of the family %s", words[3], words[2])
		}
		s.found = s.found || words[1] == s.name
	case word == "mapping":
		s.in, s.options = word, nil
	case slices.Contains(outside, word) || (strings.HasPrefix(word, "allow-") && word != "allow-"):
		s.in = ""
		if len(words) == 1 {
			return word + " takes a name"
		}
	case s.in == "":
		return "not a line that can stand before a stanza"
	case s.in == "mapping" && word != "script" && word != "map":
		return "a mapping has script and map"
	case len(words) == 1:
		return "an option without a value"
	case s.in == "iface" && !slices.Contains(commands, word) && slices.Contains(s.options, word):
		return "an option that is there already"
	default:
		s.options = append(s.options, word)
	}
	return ""
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
			trimmed := strings.Trim(line, " \t")
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
			if text := strings.Trim(whole, " \t"); text != "" && !yield(textLine{start, text}) {
				return
			}
			whole = ""
		}
		if text := strings.Trim(whole, " \t"); text != "" {
			yield(textLine{start, text})
		}
	}
}

// HasStanza says whether a file of interfaces(5) has a stanza for an interface.
func HasStanza(text []byte, name string) bool {
	for line := range logicalLines(text) {
		if words := blanks(line.text); len(words) > 1 && words[0] == "iface" && words[1] == name {
			return true
		}
	}
	return false
}

// unmanaged is the line by which an administrator keeps ec2net's hands off an
// ENI. It is a comment, since ifupdown cannot read the bare words.
var unmanaged = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*EC2SYNC=no[ \t]*$`)

// Unmanaged says whether a cfg file has the line "# EC2SYNC=no": then nothing
// of its ENI is to be touched.
func Unmanaged(cfg []byte) bool { return unmanaged.Match(cfg) }
