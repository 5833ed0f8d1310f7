// Package iprule has an ip rule as a value and as text, and parses the ip-rule script
// that a template renders: ip-rule(8).
package iprule

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ec2net/facts"
	"ec2net/lines"
)

// Rule is one ip rule. It is comparable. String spells it as ip-rule(8) does.
type Rule struct {
	Priority int
	// IPv6 says that a rule without an address is one of IPv6.
	IPv6     bool
	From, To netip.Prefix // not valid: all
	Mark     facts.Mark
	MarkMask facts.Mark // 0: the rule does not look at the mark
	IIF, OIF string     // empty: any
	Table    int
	Protocol int
	// SuppressPrefixLength ignores a route whose prefix has at most this length; -1: none.
	SuppressPrefixLength int
	// SuppressGroup ignores a route to an interface in this group; -1: none. Only the
	// group rules have it, no script.
	SuppressGroup int
}

// Protocol is on every ip rule of ec2net, so that "ip rule" shows which are ec2net's. It
// never changes; 0xEC is free in /etc/iproute2/rt_protos.
const Protocol = 236

// MainTable is RT_TABLE_MAIN of linux/rtnetlink.h.
const MainTable = 254

// Is6 reports whether this is an IPv6 rule.
func (r Rule) Is6() bool { return r.IPv6 || r.From.Addr().Is6() || r.To.Addr().Is6() }

func (r Rule) String() string {
	var b strings.Builder
	word := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	word("pref %d from %s", r.Priority, network(r.From))
	if r.To.IsValid() {
		word(" to %s", network(r.To))
	}
	if r.MarkMask != 0 {
		word(" fwmark %v/%v", r.Mark, r.MarkMask)
	}
	if r.IIF != "" {
		word(" iif %s", r.IIF)
	}
	if r.OIF != "" {
		word(" oif %s", r.OIF)
	}
	if r.Table == MainTable {
		word(" lookup main")
	} else {
		word(" lookup %d", r.Table)
	}
	if r.SuppressPrefixLength >= 0 {
		word(" suppress_prefixlength %d", r.SuppressPrefixLength)
	}
	if r.SuppressGroup >= 0 {
		word(" suppress_ifgroup %d", r.SuppressGroup)
	}
	word(" protocol %d", r.Protocol)
	return b.String()
}

// network spells a block as ip does: a single address without a length.
func network(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// Parse reads the ip-rule script of an ENI: lines "rule add ..." for "ip -batch",
// comments and empty lines. The script alone decides which rules the ENI should have, so
// Parse accepts only rules that ec2net can compare with the kernel's, and that have the
// priority and the table of this ENI.
func Parse(script []byte, e facts.ENI) ([]Rule, error) {
	text := strings.Split(string(script), "\n")
	rules := make([]Rule, 0, len(text))
	seen := make(map[Rule]bool, len(text))
	for i, line := range text {
		code, _, _ := strings.Cut(line, "#")
		words := lines.Words(code)
		if len(words) == 0 {
			continue
		}
		rule, err := parseRule(words, e)
		if err == nil && seen[rule] {
			err = errors.New("the rule appears twice")
		}
		if err != nil {
			return nil, &lines.Error{Number: i + 1, Text: line, Why: err.Error(),
				Try: fmt.Sprintf(`a line is "rule add pref %d ... lookup %d", with any of from, to, fwmark, iif, oif, protocol and suppress_prefixlength`,
					e.Number, e.Number)}
		}
		seen[rule] = true
		rules = append(rules, rule)
	}
	return rules, nil
}

func parseRule(words []string, e facts.ENI) (Rule, error) {
	r := Rule{Protocol: Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
	if len(words) < 2 || words[0] != "rule" || words[1] != "add" {
		return r, errors.New(`not a line of "rule add"`)
	}
	given := make([]string, 0, 8)
	for words = words[2:]; len(words) > 0; words = words[2:] {
		keyword := words[0]
		read, ok := ruleKeywords[keyword]
		switch {
		case !ok:
			return r, fmt.Errorf("%q is not a keyword that ec2net can compare with the kernel's rules", lines.Clip(keyword))
		case slices.Contains(given, keyword):
			return r, fmt.Errorf("%s appears twice", keyword)
		case len(words) == 1:
			return r, fmt.Errorf("nothing follows %s", keyword)
		}
		given = append(given, keyword)
		if err := read(&r, words[1]); err != nil {
			return r, fmt.Errorf("%s: %w", keyword, err)
		}
	}
	switch {
	case !slices.Contains(given, "pref"):
		return r, errors.New("no pref: the kernel would choose the priority")
	case r.Priority != e.Priority():
		return r, fmt.Errorf("pref %d, but the priority of %s is %d", r.Priority, e.Name, e.Priority())
	case r.Table != e.Number:
		return r, fmt.Errorf("lookup %d, but the table of %s is %d", r.Table, e.Name, e.Number)
	}
	return r, nil
}

// ruleKeywords has the keywords of ip-rule(8) that a script may use.
var ruleKeywords = map[string]func(*Rule, string) error{
	"pref":                  func(r *Rule, s string) error { return readInt(&r.Priority, s, 0) },
	"from":                  func(r *Rule, s string) error { return readNetwork(&r.From, s) },
	"to":                    func(r *Rule, s string) error { return readNetwork(&r.To, s) },
	"fwmark":                readFwmark,
	"iif":                   func(r *Rule, s string) error { return readDevice(&r.IIF, s) },
	"oif":                   func(r *Rule, s string) error { return readDevice(&r.OIF, s) },
	"lookup":                func(r *Rule, s string) error { return readInt(&r.Table, s, 0) },
	"protocol":              readProtocol,
	"suppress_prefixlength": func(r *Rule, s string) error { return readInt(&r.SuppressPrefixLength, s, 32) },
}

func readInt(to *int, s string, most int) error {
	n, err := strconv.ParseUint(s, 10, 31)
	// ip(8) reads a number that begins with 0 as octal.
	if err != nil || (most > 0 && n > uint64(most)) || (len(s) > 1 && s[0] == '0') {
		return fmt.Errorf("%q is not a valid number", lines.Clip(s))
	}
	*to = int(n)
	return nil
}

func readProtocol(r *Rule, s string) error {
	if err := readInt(&r.Protocol, s, 255); err != nil || r.Protocol == Protocol {
		return err
	}
	return fmt.Errorf("%d, but ec2net's number is %d", r.Protocol, Protocol)
}

func readNetwork(to *netip.Prefix, s string) error {
	if s == "all" {
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil || p != p.Masked():
		return fmt.Errorf("%q is not an address, a block or all", lines.Clip(s))
	case !p.Addr().Is4():
		return fmt.Errorf("%s is IPv6, which ec2net does not route", p)
	}
	// To the kernel 0.0.0.0/0 is "all".
	if p.Bits() > 0 {
		*to = p
	}
	return nil
}

func readFwmark(r *Rule, s string) (err error) {
	mark, mask, hasMask := strings.Cut(s, "/")
	r.MarkMask = ^facts.Mark(0)
	if r.Mark, err = facts.ParseMark(mark); err != nil || !hasMask {
		return err
	}
	if r.MarkMask, err = facts.ParseMark(mask); err == nil && (r.MarkMask == 0 || r.Mark&^r.MarkMask != 0) {
		err = fmt.Errorf("%v has bits outside the mask %v", r.Mark, r.MarkMask)
	}
	return err
}

func readDevice(to *string, s string) error {
	*to = s
	if !deviceName.MatchString(s) {
		return fmt.Errorf("%q is not an interface's name", lines.Clip(s))
	}
	return nil
}

// deviceName matches the name of any interface, bridges and VLANs included.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}$`)
