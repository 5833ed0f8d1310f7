// Package interfaces parses interfaces(5) as ifupdown of Debian 11, 12 and 13 does:
// lines, stanzas, and the files that a file sources. It does not touch the disk.
package interfaces

import (
	"iter"
	"regexp"
	"slices"
	"strings"
)

// Main is the file with which ifupdown begins.
const Main = "/etc/network/interfaces"

// Folder is where ec2net's stanzas are.
const Folder = "/etc/network/interfaces.d"

// Path is the cfg file of an interface: /etc/network/interfaces.d/eth1.cfg.
func Path(name string) string { return Folder + "/" + name + ".cfg" }

// blanks are the spaces of isspace(3), which ifupdown uses.
const blanks = " \t\n\v\f\r"

// Line is one line to ifupdown.
type Line struct {
	Number int // of its first line in the file; 1 is the first
	Text   string
}

// words splits a line at blanks, as ifupdown does.
func (l Line) words() []string {
	return strings.FieldsFunc(l.Text, func(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' })
}

// Lines yields the lines, without empty ones and comments. A line that ends in a
// backslash is joined with the next one, unless it is a comment.
func Lines(text []byte) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		all := strings.Split(string(text), "\n")
		for i := 0; i < len(all); i++ {
			line := Line{Number: i + 1, Text: strings.TrimLeft(all[i], blanks)}
			if strings.HasPrefix(line.Text, "#") {
				continue
			}
			for strings.HasSuffix(line.Text, `\`) {
				line.Text = line.Text[:len(line.Text)-1]
				if i+1 < len(all) {
					i++
					line.Text += all[i]
				}
			}
			// ifupdown looks for the first word where the line begins.
			line.Text = strings.TrimRight(line.Text, blanks)
			if line.Text != "" && !yield(line) {
				return
			}
		}
	}
}

// stanzas yields the words of the iface lines of an interface.
func stanzas(text []byte, name string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for line := range Lines(text) {
			if words := line.words(); len(words) > 1 && words[0] == "iface" && words[1] == name && !yield(words) {
				return
			}
		}
	}
}

// Has reports whether a file has a stanza for an interface.
func Has(text []byte, name string) bool {
	for range stanzas(text, name) {
		return true
	}
	return false
}

// DHCP reports whether a file has a stanza by which a DHCP client gives an
// interface its IPv4 address.
func DHCP(text []byte, name string) bool {
	for words := range stanzas(text, name) {
		if len(words) > 3 && slices.Equal(words[2:4], []string{"inet", "dhcp"}) {
			return true
		}
	}
	return false
}

// UpCommands returns the commands that ifup runs once an interface is up, in their order.
func UpCommands(text []byte, name string) []string { return commandsOf(text, name, "up", "post-up") }

// commandsOf returns the commands of an interface's stanzas at some moments, such as
// "post-up", in their order.
func commandsOf(text []byte, name string, moments ...string) []string {
	var commands []string
	in := false
	for line := range Lines(text) {
		words := line.words()
		switch word := words[0]; {
		case word == "iface":
			in = len(words) > 1 && words[1] == name
		case word == "mapping" || slices.Contains(outside, word) || strings.HasPrefix(word, "allow-"):
			in = false
		case in && slices.Contains(moments, word):
			commands = append(commands, strings.TrimLeft(strings.TrimPrefix(line.Text, word), blanks))
		}
	}
	return commands
}

// Loose reports whether ifup sets the interface's rp_filter to 2 (loose), and to nothing
// else: by the line of the built-in template.
func Loose(text []byte, name string) bool {
	return only(UpCommands(text, name), "echo 2 >/proc/sys/net/ipv4/conf/"+name+"/rp_filter",
		func(command string) bool { return strings.Contains(command, "rp_filter") })
}

// NoIPv6 reports whether ifup switches IPv6 off on the interface, by the line of the
// built-in template, and the stanza has nothing else of IPv6.
func NoIPv6(text []byte, name string) bool {
	for words := range stanzas(text, name) {
		if len(words) > 2 && words[2] == "inet6" {
			return false
		}
	}
	return only(commandsOf(text, name, "pre-up", "up", "post-up"), "echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6",
		func(command string) bool {
			return strings.Contains(command, "ipv6") || strings.Contains(command, "ip6") || slices.Contains(strings.Fields(command), "-6")
		})
}

// only reports whether one command, perhaps with "|| true", is among commands, and no other
// one is about the same.
func only(commands []string, one string, about func(string) bool) bool {
	there := false
	for _, command := range commands {
		if !about(command) {
			continue
		}
		if strings.TrimSuffix(command, " || true") != one {
			return false
		}
		there = true
	}
	return there
}

// ports are the options that name the ports of the stanza's interface:
// bridge-utils-interfaces(5) and ifenslave's.
var ports = []string{"bridge_ports", "bridge-ports", "bond-slaves", "bond_slaves", "slaves"}

// Master returns the interface whose stanza has this one as a port of its bridge or
// bond; empty if there is none.
func Master(text []byte, name string) string {
	in := ""
	for line := range Lines(text) {
		words := line.words()
		switch {
		case words[0] == "iface" && len(words) > 1:
			in = words[1]
		case in != "" && slices.Contains(ports, words[0]) && names(words[1:], name):
			return in
		}
	}
	return ""
}

// names reports whether the words of such an option name an interface. "all" is every
// ethN and the like; after "regex" words are regular expressions, up to "noregex".
func names(words []string, name string) bool {
	regex := false
	for _, word := range words {
		switch {
		case word == "regex", word == "noregex":
			regex = word == "regex"
		case regex:
			if re, err := regexp.Compile("^(?:" + word + ")$"); err == nil && re.MatchString(name) {
				return true
			}
		case word == name, word == "all" && allPorts.MatchString(name):
			return true
		}
	}
	return false
}

// allPorts are the interfaces that bridge-utils takes for "all".
var allPorts = regexp.MustCompile("^(eth|em|p[0-9]+p|en|wlan|ath|usb)[^.:]*$")
