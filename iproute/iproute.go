// Package iproute has the kinds of routes, and parses the routes that the stanza of an
// ENI adds to its table: ip-route(8).
package iproute

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a route does with a packet.
type Kind int

// Kinds, by their numbers in rtnetlink(7), but 0 for unicast. Only a unicast route has an
// interface; the others end the way of a packet, or of the search in their table (throw).
const (
	Unicast     Kind = 0
	Blackhole   Kind = 6
	Unreachable Kind = 7
	Prohibit    Kind = 8
	Throw       Kind = 9
)

var kinds = map[string]Kind{"unicast": Unicast, "blackhole": Blackhole, "unreachable": Unreachable, "prohibit": Prohibit, "throw": Throw}

// String is the word of ip(8).
func (k Kind) String() string {
	for word, kind := range kinds {
		if k == kind {
			return word
		}
	}
	return strconv.Itoa(int(k))
}

// Route is an IPv4 route that a command adds. It is comparable.
type Route struct {
	Kind    Kind
	Table   int
	Dst     netip.Prefix // of length 0: the default route
	Gateway netip.Addr   // not valid: none
	// Dev is the interface; empty: the command leaves it to the kernel, by the gateway.
	Dev    string
	Source netip.Addr // preferred; not valid: none
	Metric int
	OnLink bool
	// Protocol is who makes it, by its number; 0: ip(8) without "proto".
	Protocol int
}

// Parse returns the routes that commands of a shell add, in their order:
//
//	ip route add|replace [KIND] DST [via ADDR] [dev NAME] [src ADDR] [metric N] [onlink] table N
//
// perhaps with "|| true" behind it. Parse skips every other command, such as one with a
// variable. Of two routes that cannot stand beside each other it returns the one that
// the commands end with.
func Parse(commands []string) []Route {
	var routes []Route
	for _, command := range commands {
		r, replaces, ok := parse(command)
		if !ok {
			continue
		}
		at := slices.IndexFunc(routes, func(o Route) bool {
			return o.Table == r.Table && o.Dst == r.Dst && o.Metric == r.Metric
		})
		switch {
		case at < 0:
			routes = append(routes, r)
		case replaces:
			routes[at] = r
		}
	}
	return routes
}

var (
	optional = regexp.MustCompile(`[ \t]*(2>[ \t]*/dev/null[ \t]*)?(\|\|[ \t]*(true|:)[ \t]*)?$`)
	// literal matches words that the shell does not change.
	literal = regexp.MustCompile(`^[A-Za-z0-9./:_@ \t-]+$`)
)

// parse reads one command. ok is false for what ec2net does not know.
func parse(command string) (r Route, replaces, ok bool) {
	command = command[:optional.FindStringIndex(command)[0]]
	words := strings.Fields(command)
	if !literal.MatchString(command) || len(words) == 0 || words[0] != "ip" {
		return r, false, false
	}
	if words = words[1:]; len(words) > 0 && words[0] == "-4" {
		words = words[1:]
	}
	if len(words) < 3 || words[0] != "route" || words[1] != "add" && words[1] != "replace" {
		return r, false, false
	}
	replaces, words = words[1] == "replace", words[2:]
	if kind, is := kinds[words[0]]; is {
		r.Kind, words = kind, words[1:]
	}
	return r, replaces, r.read(words) && r.whole()
}

// read reads the destination and the words behind it.
func (r *Route) read(words []string) bool {
	if len(words) == 0 || !network(&r.Dst, words[0]) {
		return false
	}
	var given []string
	for words = words[1:]; len(words) > 0; words = words[1:] {
		keyword := words[0]
		if slices.Contains(given, keyword) {
			return false
		}
		given = append(given, keyword)
		if keyword == "onlink" {
			r.OnLink = true
			continue
		}
		if words = words[1:]; len(words) == 0 || !r.set(keyword, words[0]) {
			return false
		}
	}
	return true
}

func (r *Route) set(keyword, value string) (ok bool) {
	switch keyword {
	case "via":
		return address(&r.Gateway, value)
	case "dev":
		r.Dev = value
		return true
	case "src":
		return address(&r.Source, value)
	case "metric":
		return number(&r.Metric, value)
	case "table":
		return number(&r.Table, value)
	}
	return false
}

// whole reports whether ip(8) and the kernel have all that they need, and no more.
func (r *Route) whole() bool {
	switch {
	case r.Table == 0:
		return false
	case r.Kind != Unicast:
		return !r.Gateway.IsValid() && r.Dev == "" && !r.Source.IsValid() && !r.OnLink
	case r.OnLink:
		return r.Gateway.IsValid() && r.Dev != ""
	}
	return r.Gateway.IsValid() || r.Dev != ""
}

func network(to *netip.Prefix, s string) bool {
	if s == "default" {
		*to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		return true
	}
	p, err := netip.ParsePrefix(s)
	if a, wrong := netip.ParseAddr(s); wrong == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	*to = p
	return err == nil && p.Addr().Is4() && p == p.Masked()
}

func address(to *netip.Addr, s string) bool {
	a, err := netip.ParseAddr(s)
	*to = a
	return err == nil && a.Is4() && !a.IsUnspecified()
}

// number reads a positive number. ip(8) reads one that begins with 0 as octal.
func number(to *int, s string) bool {
	n, err := strconv.ParseUint(s, 10, 31)
	*to = int(n)
	return err == nil && s[0] != '0'
}
