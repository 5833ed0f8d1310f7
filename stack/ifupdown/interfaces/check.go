package interfaces

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ec2net/lines"
)

// The words of interfaces(5), as ifupdown of Debian 12 and 13 reads it.
var (
	outside  = []string{"auto", "no-auto-down", "no-scripts", "source", "source-directory", "rename"}
	families = map[string][]string{
		"inet":  {"loopback", "static", "manual", "dhcp", "bootp", "tunnel", "ppp", "wvdial", "ipv4ll"},
		"inet6": {"auto", "loopback", "static", "manual", "dhcp", "v4tunnel", "6to4"},
	}
	// A stanza may repeat these options, and no other.
	commands = []string{"pre-up", "up", "post-up", "pre-down", "down", "post-down"}
)

// Check checks the cfg file of an interface by interfaces(5), more strictly than
// ifupdown. At a line that it cannot read, ifupdown drops the rest of the file, and
// says "unknown interface" at the next ifup: so such a line must not reach the disk.
func Check(cfg []byte, name string) error {
	if bytes.IndexByte(cfg, 0) >= 0 {
		return errors.New("there is a NUL byte in the output")
	}
	s := stanza{name: name}
	for line := range Lines(cfg) {
		if why := s.read(line.words()); why != "" {
			return &lines.Error{Number: line.Number, Text: line.Text, Why: why,
				Try: "interfaces(5) describes the lines; ifupdown drops the rest of a file at a line that it cannot read"}
		}
	}
	if !s.found {
		return fmt.Errorf("there is no stanza \"iface %s ...\"", name)
	}
	return nil
}

// stanza reads the lines of a file, one after the other.
type stanza struct {
	name    string   // the interface that needs a stanza
	found   bool     // it has one
	in      string   // iface or mapping; empty before the first
	options []string // seen in this stanza
}

// read says what is wrong with a line, if anything is.
func (s *stanza) read(words []string) string {
	switch word := words[0]; {
	case word == "iface":
		return s.iface(words)
	case word == "mapping":
		s.in, s.options = word, nil
	case slices.Contains(outside, word) || (strings.HasPrefix(word, "allow-") && word != "allow-"):
		s.in = ""
		if len(words) == 1 {
			return word + " takes a name"
		}
	default:
		return s.option(words)
	}
	return ""
}

func (s *stanza) iface(words []string) string {
	s.in, s.options = "iface", nil
	if len(words) != 4 {
		return "iface takes a name, an address family and a method"
	}
	methods, known := families[words[2]]
	if !known || !slices.Contains(methods, words[3]) {
		return fmt.Sprintf("ifupdown has no method %s of the family %s", words[3], words[2])
	}
	s.found = s.found || words[1] == s.name
	return ""
}

func (s *stanza) option(words []string) string {
	word := words[0]
	switch {
	case s.in == "":
		return "not allowed outside a stanza"
	case s.in == "mapping" && word != "script" && word != "map":
		return "a mapping has only script and map"
	case len(words) == 1:
		return "an option without a value"
	case s.in == "iface" && !slices.Contains(commands, word) && slices.Contains(s.options, word):
		return "this option appears twice"
	}
	s.options = append(s.options, word)
	return ""
}
