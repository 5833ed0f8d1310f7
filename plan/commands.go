package plan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// Commands returns the lines that make each change if root types them into a shell, in
// the order of the changes. s is the state that they begin with: a deletion hits the
// first thing that has all that it names, so that may take more than one line. A comment
// stands for a change that no command makes.
func Commands(s State, changes []Change) [][]string {
	all := make([][]string, len(changes))
	for i, c := range changes {
		all[i] = commands(s, c)
		s.Apply(c)
	}
	return all
}

func commands(s State, c Change) []string {
	switch c := c.(type) {
	case DelRule:
		return c.commands(s)
	case AddRoute:
		if _, ok := extraText(c.Route.Extra, c.Link); !ok {
			return unspeakable(c)
		}
	case DelRoute:
		if !canName(s, c.Route) {
			return unspeakable(c)
		}
	case MoveRoute:
		to := c.Route
		to.Metric = c.Metric
		if _, ok := extraText(c.Route.Extra, c.Link); !ok || !canName(s, c.Route) {
			return unspeakable(c)
		} else if slices.Contains(s.Routes, to) {
			return []string{routeText("del", c.Link, c.Route)}
		}
	}
	return []string{c.String()}
}

// unspeakable is the comment for a change that no command makes.
func unspeakable(c Change) []string {
	return []string{"# no command of ip(8) says this exactly; ec2net does it at its next event: " + c.String()}
}

// commands deletes a rule. Those earlier rules that the command hits first come back
// behind it: ip(8) cannot add their copies before, as package kernel does.
func (c DelRule) commands(s State) []string {
	at := slices.Index(s.Rules, c.Rule)
	if c.Rule.Odd() || at < 0 {
		return unspeakable(c)
	}
	lines := []string{c.String()}
	for _, o := range s.Rules[:at] {
		if o.Is6() != c.Rule.Is6() || !names(c.Rule.named(), o.String()) {
			continue
		}
		if o.Odd() {
			return unspeakable(c)
		}
		lines = append(append([]string{c.String()}, lines...), AddRule{Rule: o.Rule}.String())
	}
	return lines
}

// named is the text of a rule without what names nothing to the kernel.
func (r Rule) named() string {
	return strings.NewReplacer(" from all", "", " protocol 0", "").Replace(r.String())
}

// canName reports whether the command that deletes a route hits no earlier one.
func canName(s State, r Route) bool {
	l, _ := s.LinkAt(r.Link)
	for _, o := range s.Routes {
		switch {
		case o == r:
			return true
		case o.Table == r.Table && o.TOS == r.TOS && o.Link == r.Link && o.Dst == r.Dst && names(routeWords(l, r), routeWords(l, o)):
			return false
		}
	}
	return true
}

// names reports whether a command that names what is in a text, as pairs of words, hits
// what another text describes.
func names(text, other string) bool {
	other = " " + other + " "
	for pair := range slices.Chunk(strings.Fields(text), 2) {
		if !strings.Contains(other, " "+strings.Join(pair, " ")+" ") {
			return false
		}
	}
	return true
}

// extraText spells the attributes of a route by a link that plan has no fields for. It
// reports false if it has no words for one of them.
func extraText(extra string, l Link) (text string, ok bool) {
	var b strings.Builder
	ok = eachAttribute(extra, func(attr int, value string) bool {
		switch {
		case attr == attrNexthop && len(value) == 4:
			fmt.Fprintf(&b, " nhid %d", number(value))
			return true
		case attr == attrGateways:
			text, ok := gatewaysText(value, l)
			b.WriteString(text)
			return ok
		case attr == attrMetrics:
			text, ok := metricsText(value)
			b.WriteString(text)
			return ok
		}
		return false
	})
	return b.String(), ok
}

// namesHops reports whether the words of a route's attributes name its gateways and
// interfaces, by a nexthop object or one by one.
func namesHops(text string) bool {
	return strings.HasPrefix(text, " nhid ") || strings.Contains(text, " nexthop ")
}

// gatewaysText spells the gateways of a route by a link: RTA_MULTIPATH of rtnetlink(7), which
// has a struct rtnexthop and attributes for each. It reports false if it has no words for
// them.
func gatewaysText(hops string, l Link) (text string, ok bool) {
	const header = 8
	for len(hops) >= header {
		length := int(binary.NativeEndian.Uint16([]byte(hops)))
		if length < header || length > len(hops) {
			return text, false
		}
		text += " nexthop"
		if !eachAttribute(hops[header:length], func(attr int, value string) bool {
			gateway, ok := netip.AddrFromSlice([]byte(value))
			text += " via " + gateway.String()
			return ok && attr == attrGateway
		}) {
			return text, false
		}
		if l.Index == 0 {
			return text + " dev ...", false // the gateways have several interfaces
		}
		text += fmt.Sprintf(" dev %s weight %d", nameWord(l.Name), int(hops[3])+1)
		if hops[2] != 0 {
			text += " onlink"
		}
		hops = hops[min(len(hops), (length+3)/4*4):]
	}
	return text, true
}

// metricsText spells the metrics of a route, such as its MTU. It reports false if it has no
// words for one of them.
func metricsText(metrics string) (text string, ok bool) {
	var locked uint32
	eachAttribute(metrics, func(metric int, value string) bool {
		if metric == metricLock && len(value) == 4 {
			locked = number(value)
		}
		return true
	})
	ok = eachAttribute(metrics, func(metric int, value string) bool {
		word, known := metricWords[metric]
		switch {
		case len(value) != 4 || !known && metric != metricLock:
			return false
		case known && locked&(1<<metric) != 0:
			text += fmt.Sprintf(" %s lock %d", word, number(value))
			locked &^= 1 << metric
		case known:
			text += fmt.Sprintf(" %s %d", word, number(value))
		}
		return true
	})
	return text, ok && locked == 0
}

// nameWord returns the name of an interface as a word of a shell. Linux allows nearly all
// characters in it.
func nameWord(name string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.@+,%=", r))
	}
	if strings.TrimLeftFunc(name, plain) == "" {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// RTA_GATEWAY, RTA_METRICS, RTA_MULTIPATH, RTA_NH_ID and RTAX_LOCK of linux/rtnetlink.h.
const (
	attrGateway  = 5
	attrMetrics  = 8
	attrGateways = 9
	attrNexthop  = 30
	metricLock   = 1 // a bit for each metric that path MTU discovery and TCP leave alone
)

// metricWords are the words of ip-route(8) for the RTAX_ of linux/rtnetlink.h that are
// plain numbers.
var metricWords = map[int]string{2: "mtu", 3: "window", 6: "ssthresh", 8: "advmss", 9: "reordering",
	10: "hoplimit", 11: "initcwnd", 14: "initrwnd", 15: "quickack"}

func number(value string) uint32 { return binary.NativeEndian.Uint32([]byte(value)) }

// eachAttribute calls a function for each attribute of a netlink message, as long as that
// returns true. It reports false if the function does, or if the text is no attributes.
func eachAttribute(text string, each func(attr int, value string) bool) bool {
	const header, align, flags = 4, 4, 0xc000 // NLA_F_NESTED, NLA_F_NET_BYTEORDER
	for len(text) > 0 {
		if len(text) < header {
			return false
		}
		length := int(binary.NativeEndian.Uint16([]byte(text)))
		attr := int(binary.NativeEndian.Uint16([]byte(text[2:]))) &^ flags
		if length < header || length > len(text) || !each(attr, text[header:length]) {
			return false
		}
		text = text[min(len(text), (length+align-1)/align*align):]
	}
	return true
}
