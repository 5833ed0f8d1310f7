package plan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/plan"
)

// machine is a machine read from text; testdata/README.md has the syntax.
type machine struct {
	plan.Machine
	// templates has the rules that an administrator's templates add to an ENI's; an
	// interface in plain has none of the built-in rules.
	templates map[string][]iprule.Rule
	plain     map[string]bool
	// then is what was known when a question to IMDS began.
	then []plan.Known
	// asked has the questions of a case. With any, its changes are not printed.
	asked [][]string
}

// word is the first word of a line: when to read the line, and how.
type word struct {
	when int
	read func(*machine, []string) error
	// one is the number of words that a line shares with the one that it replaces; 0
	// if it replaces none.
	one int
}

// Settings come first, then what other lines refer to, and the fresh facts last.
const (
	asSetting = iota
	asLink
	asFacts
	asState
	asNews
)

var vocabulary = map[string]word{
	"base":          {asSetting, (*machine).base, 1},
	"primary-table": {asSetting, (*machine).primaryTable, 1},
	"addresses":     {asSetting, (*machine).addresses, 1},
	"link":          {asLink, (*machine).link, 2},
	"facts":         {asFacts, (*machine).facts, 2},
	"then":          {asFacts, (*machine).past, 2},
	"addr":          {asState, (*machine).addr, 0},
	"rule":          {asState, (*machine).rule, 0},
	"route":         {asState, (*machine).route, 0},
	"note":          {asState, (*machine).note, 2},
	"taken-down":    {asState, (*machine).takenDown, 1},
	"lease":         {asState, (*machine).lease, 2},
	"stanza":        {asState, (*machine).stanza, 2},
	"script":        {asState, (*machine).script, 2},
	"left":          {asState, (*machine).left, 2},
	"moved":         {asState, (*machine).moved, 0},
	"docker":        {asState, (*machine).docker, 1},
	"coming":        {asState, (*machine).coming, 2},
	"going":         {asState, (*machine).going, 2},
	"makes":         {asState, (*machine).makes, 0},
	"loose":         {asState, (*machine).loose, 2},
	"no-ipv6":       {asState, (*machine).noIPv6, 2},
	"template":      {asState, (*machine).template, 0},
	"answer":        {asNews, (*machine).answer, 0},
	"ask":           {asNews, (*machine).ask, 0},
}

// read makes a machine from the shared lines of its file and those of a case.
func read(shared, own string) (*machine, error) {
	lines, err := merge(wordsOf(shared), wordsOf(own))
	if err != nil {
		return nil, err
	}
	m := &machine{templates: map[string][]iprule.Rule{}, plain: map[string]bool{}}
	m.Numbers = facts.DefaultNumbers
	defer m.LeavePorts()
	m.Numbers.Primary = false // a line says otherwise
	slices.SortStableFunc(lines, func(a, b []string) int { return vocabulary[a[0]].when - vocabulary[b[0]].when })
	for _, line := range lines {
		if err := vocabulary[line[0]].read(m, line[1:]); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(line, " "), err)
		}
	}
	return m, nil
}

// merge adds the lines of a case to those of its machine, or removes some.
func merge(lines, own [][]string) ([][]string, error) {
	for _, line := range own {
		if line[0] == "without" {
			line = line[1:]
			before := len(lines)
			lines = slices.DeleteFunc(lines, func(l []string) bool { return begins(l, line) })
			if len(lines) == before {
				return nil, fmt.Errorf("without %s: there is no such line", strings.Join(line, " "))
			}
			continue
		}
		if n := vocabulary[line[0]].one; n > 0 {
			lines = slices.DeleteFunc(lines, func(l []string) bool { return begins(l, line[:min(n, len(line))]) })
		}
		lines = append(lines, line)
	}
	for _, line := range lines {
		if _, ok := vocabulary[line[0]]; !ok {
			return nil, fmt.Errorf("%q begins no line", line[0])
		}
	}
	return lines, nil
}

func begins(line, words []string) bool {
	return len(line) >= len(words) && slices.Equal(line[:len(words)], words)
}

// wordsOf returns the words of each line that is neither empty nor a comment.
func wordsOf(text string) [][]string {
	var lines [][]string
	for line := range strings.Lines(text) {
		code, _, _ := strings.Cut(line, "#")
		if words := strings.Fields(code); len(words) > 0 {
			lines = append(lines, words)
		}
	}
	return lines
}

func (m *machine) base(words []string) (err error) {
	m.Numbers.Base, err = strconv.Atoi(words[0])
	return errors.Join(err, m.Numbers.Check())
}

func (m *machine) primaryTable([]string) error {
	m.Numbers.Primary = true
	return nil
}

func (m *machine) addresses(words []string) error {
	m.NoAddresses = words[0] == "no"
	return nil
}

// link NAME INDEX MAC [up] [group N] [strict] [no-ipv6] [master NAME] [virtual] [loopback]
func (m *machine) link(words []string) (err error) {
	l := plan.Link{Name: words[0], Device: true}
	if l.Index, err = strconv.Atoi(words[1]); err != nil {
		return err
	}
	if words[2] != "none" {
		if l.MAC, err = facts.ParseMAC(words[2]); err != nil {
			return err
		}
	}
	for words = words[3:]; len(words) > 0; words = words[1:] {
		switch words[0] {
		case "up":
			l.Up = true
		case "strict":
			l.Strict = true
		case "no-ipv6":
			l.NoIPv6 = true
		case "virtual":
			l.Device = false
		case "loopback":
			l.Loopback = true
		case "master":
			words = words[1:]
			master, err := m.named(words[0])
			if err != nil {
				return err
			}
			l.Master = master.Index
		case "group":
			words = words[1:]
			if l.Group, err = strconv.Atoi(words[0]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q is no word of a link", words[0])
		}
	}
	m.State.Links = append(m.State.Links, l)
	return nil
}

// named returns the link with a name; it is an error if there is none.
func (m *machine) named(name string) (plan.Link, error) {
	l, ok := m.State.LinkNamed(name)
	if !ok {
		return l, fmt.Errorf("there is no link %s", name)
	}
	return l, nil
}

// addr NAME PREFIX
func (m *machine) addr(words []string) error {
	l, err := m.named(words[0])
	if err != nil {
		return err
	}
	p, err := netip.ParsePrefix(words[1])
	m.State.Addrs = append(m.State.Addrs, plan.Addr{Link: l.Index, Prefix: p})
	return err
}

// rule WORDS, those of ip-rule(8)
func (m *machine) rule(words []string) error {
	r, err := ruleOf(words)
	m.State.Rules = append(m.State.Rules, r)
	return err
}

func ruleOf(words []string) (plan.Rule, error) {
	r := plan.Rule{Rule: iprule.Rule{SuppressPrefixLength: -1, SuppressGroup: -1}}
	for ; len(words) > 0; words = words[1:] {
		var err error
		keyword := words[0]
		if keyword == "odd" {
			r.Extra = "a port"
			continue
		}
		if words = words[1:]; len(words) == 0 {
			return r, fmt.Errorf("nothing follows %s", keyword)
		}
		value := words[0]
		switch keyword {
		case "pref":
			r.Priority, err = strconv.Atoi(value)
		case "from":
			r.From, err = network(value)
		case "to":
			r.To, err = network(value)
		case "fwmark":
			mark, mask, _ := strings.Cut(value, "/")
			r.Mark, err = facts.ParseMark(mark)
			if err == nil {
				r.MarkMask, err = facts.ParseMark(mask)
			}
		case "iif":
			r.IIF = value
		case "lookup":
			r.Table, err = number(value, map[string]int{"main": iprule.MainTable})
		case "suppress_prefixlength":
			r.SuppressPrefixLength, err = strconv.Atoi(value)
		case "suppress_ifgroup":
			r.SuppressGroup, err = strconv.Atoi(value)
		case "protocol":
			r.Protocol, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("%q is no word of a rule", keyword)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// network reads an address, a prefix, all or default.
func network(s string) (netip.Prefix, error) {
	switch s {
	case "all":
		return netip.Prefix{}, nil
	case "default":
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen()), err
}

func number(s string, names map[string]int) (int, error) {
	if n, ok := names[s]; ok {
		return n, nil
	}
	return strconv.Atoi(s)
}

// route [KIND] DST [tos N] [via GATEWAY] dev NAME [src ADDRESS] [metric N] [table N]
// [proto NAME] [onlink], as ip(8) has it, [extra WORD]
func (m *machine) route(words []string) (err error) {
	r := plan.Route{Table: iprule.MainTable, Protocol: 3}
	for _, kind := range []iproute.Kind{iproute.Unreachable, iproute.Blackhole} {
		if words[0] == kind.String() {
			r.Kind, words = kind, words[1:]
		}
	}
	if r.Dst, err = network(words[0]); err != nil {
		return err
	}
	for words = words[1:]; len(words) > 0; words = words[1:] {
		keyword := words[0]
		if keyword == "onlink" {
			r.OnLink = true
			continue
		}
		if words = words[1:]; len(words) == 0 {
			return fmt.Errorf("nothing follows %s", keyword)
		}
		value := words[0]
		switch keyword {
		case "via":
			r.Gateway, err = netip.ParseAddr(value)
		case "dev":
			var l plan.Link
			l, err = m.named(value)
			r.Link = l.Index
		case "src":
			r.Source, err = netip.ParseAddr(value)
		case "tos":
			var tos uint64
			tos, err = strconv.ParseUint(value, 0, 8)
			r.TOS = int(tos)
		case "extra":
			r.Extra = value
		case "metric":
			r.Metric, err = strconv.Atoi(value)
		case "table":
			r.Table, err = strconv.Atoi(value)
		case "proto":
			r.Protocol, err = number(value, map[string]int{"kernel": 2, "boot": 3, "static": 4, "dhcp": 16})
		default:
			err = fmt.Errorf("%q is no word of a route", keyword)
		}
		if err != nil {
			return err
		}
	}
	if !r.Gateway.IsValid() && r.Kind == iproute.Unicast {
		r.Scope = 253
	}
	m.State.Routes = append(m.State.Routes, r)
	return nil
}

// known returns what is known under a name, with the name set.
func (m *machine) known(name string) plan.Known {
	k, _ := m.Of(name)
	k.Name = name
	return k
}

// The primary's MAC on every machine here.
const primaryMAC = "02:00:00:00:00:10"

// eni NAME ID MAC [primary] [ADDRESS|PREFIX ...] [subnet PREFIX] [device N]
// [primary-mac MAC]: facts, checked as those of a JSON file.
func (m *machine) eni(words []string) (facts.ENI, error) {
	device, _ := strconv.Atoi(strings.TrimPrefix(words[1], "eni-"))
	document := map[string]any{"name": words[0], "id": words[1], "mac": words[2], "device_number": device, "primary_mac": primaryMAC}
	lists := map[string][]string{}
	for words = words[3:]; len(words) > 0; words = words[1:] {
		a, notAddr := netip.ParseAddr(words[0])
		switch {
		case words[0] == "primary":
			document["primary"], document["device_number"] = true, 0
			delete(document, "primary_mac")
		case words[0] == "subnet":
			words = words[1:]
			document["subnet"] = words[0]
		case words[0] == "device":
			words = words[1:]
			document["device_number"], _ = strconv.Atoi(words[0])
		case words[0] == "primary-mac":
			words = words[1:]
			if document["primary_mac"] = words[0]; words[0] == "unknown" {
				delete(document, "primary_mac")
			}
		case notAddr != nil:
			lists["ipv4_prefixes"] = append(lists["ipv4_prefixes"], words[0])
		case a.Is4():
			lists["ipv4"] = append(lists["ipv4"], words[0])
			if _, given := document["subnet"]; !given {
				document["subnet"] = netip.PrefixFrom(a, 24).Masked().String()
			}
		default:
			lists["ipv6"] = append(lists["ipv6"], words[0])
			lists["ipv6_subnets"] = []string{netip.PrefixFrom(a, 64).Masked().String()}
		}
	}
	for field, list := range lists {
		document[field] = list
	}
	text, err := json.Marshal(document)
	if err != nil {
		return facts.ENI{}, err
	}
	enis, err := facts.Decode(strings.NewReader(string(text)), m.Numbers)
	if err != nil {
		return facts.ENI{}, err
	}
	return enis[0], nil
}

func (m *machine) facts(words []string) error {
	e, err := m.eni(words)
	k := m.known(words[0])
	k.Facts, k.Ours = e, true
	m.Set(k)
	return err
}

func (m *machine) past(words []string) error {
	e, err := m.eni(words)
	m.then = append(m.then, plan.Known{Name: words[0], Facts: e})
	slices.SortFunc(m.then, func(a, b plan.Known) int { return strings.Compare(a.Name, b.Name) })
	return err
}

func (m *machine) answer(words []string) error {
	e, err := m.eni(words)
	if err != nil {
		return err
	}
	m.Learn(e)
	k := m.known(e.Name)
	k.Ours = true
	m.Set(k)
	return nil
}

// note NAME [number N] [of MAC INDEX]
func (m *machine) note(words []string) error {
	k := m.known(words[0])
	k.Ours = true
	l, _ := m.State.LinkNamed(k.Name)
	k.Note = plan.Note{MAC: l.MAC, Index: l.Index, Number: k.Facts.Number}
	if e, err := facts.Bare(k.Name, l.MAC, m.Numbers); err == nil && k.Note.Number == 0 {
		k.Note.Number = e.Number
	}
	words = words[1:]
	if len(words) >= 2 && words[0] == "number" {
		k.Note.Number, _ = strconv.Atoi(words[1])
		words = words[2:]
	}
	mac, index, err := of(words, k.Note.MAC, k.Note.Index)
	k.Note.MAC, k.Note.Index = mac, index
	m.Set(k)
	return err
}

// taken-down NAME
func (m *machine) takenDown(words []string) error {
	k := m.known(words[0])
	l, _ := m.State.LinkNamed(k.Name)
	k.Down, k.Lease, k.Note = plan.Note{MAC: l.MAC, Index: l.Index}, plan.Lease{}, plan.Note{}
	m.Set(k)
	return nil
}

// lease NAME ADDRESS|unknown|ended [of MAC INDEX]
func (m *machine) lease(words []string) error {
	k := m.known(words[0])
	l, _ := m.State.LinkNamed(k.Name)
	mac, index, err := of(words[2:], l.MAC, l.Index)
	k.Lease = plan.Lease{MAC: mac, Index: index}
	switch words[1] {
	case "ended":
		k.Lease.Ended = true
	case "unknown":
	default:
		var wrong error
		k.Lease.Addr, wrong = netip.ParseAddr(words[1])
		err = errors.Join(err, wrong)
	}
	m.Set(k)
	return err
}

// of MAC INDEX: another device than the one that has the name now.
func of(words []string, mac facts.MAC, index int) (facts.MAC, int, error) {
	if len(words) == 0 {
		return mac, index, nil
	}
	if len(words) != 3 || words[0] != "of" {
		return mac, index, fmt.Errorf("%q is not: of MAC INDEX", words)
	}
	mac, err := facts.ParseMAC(words[1])
	index, wrong := strconv.Atoi(words[2])
	return mac, index, errors.Join(err, wrong)
}

func (m *machine) stanza(words []string) error {
	k := m.known(words[0])
	k.Stanza, k.Ours = true, true
	m.Set(k)
	return nil
}

func (m *machine) script(words []string) error {
	k := m.known(words[0])
	k.Ours = true
	m.Set(k)
	return nil
}

func (m *machine) left(words []string) error {
	k := m.known(words[0])
	k.Left = strings.Join(words[1:], " ")
	m.Set(k)
	return nil
}

// moved ADDRESS from NAME to NAME
func (m *machine) moved(words []string) error {
	a, err := netip.ParseAddr(words[0])
	v := plan.Moved{Addr: a, From: m.known(words[2]).Facts.MAC, To: m.known(words[4]).Facts.MAC}
	m.Moved = append(m.Moved, v)
	return err
}

func (m *machine) docker(words []string) error {
	m.Docker = map[string]plan.Docker{"up": plan.DockerUp, "down": plan.DockerDown}[words[0]]
	return nil
}

func (m *machine) coming(words []string) error {
	k := m.known(words[0])
	k.Coming, k.Ours = true, true
	m.Set(k)
	return nil
}

func (m *machine) going(words []string) error {
	k := m.known(words[0])
	k.Going, k.Ours = true, true
	m.Set(k)
	return nil
}

// makes NAME COMMAND: ifup runs the command
func (m *machine) makes(words []string) error {
	k := m.known(words[0])
	k.Stanza, k.Ours = true, true
	k.Routes = append(k.Routes, iproute.Parse([]string{strings.Join(words[1:], " ")})...)
	m.Set(k)
	return nil
}

// loose NAME: ifup makes its reverse path filter loose
func (m *machine) loose(words []string) error {
	k := m.known(words[0])
	k.Loose = true
	m.Set(k)
	return nil
}

// no-ipv6 NAME: ifup switches IPv6 off on it
func (m *machine) noIPv6(words []string) error {
	k := m.known(words[0])
	k.NoIPv6 = true
	m.Set(k)
	return nil
}

// template NAME nothing | RULE: an administrator's template.
func (m *machine) template(words []string) error {
	if words[1] == "nothing" {
		m.plain[words[0]] = true
		return nil
	}
	r, err := ruleOf(words[1:])
	m.templates[words[0]] = append(m.templates[words[0]], r.Rule)
	return err
}

func (m *machine) ask(words []string) error {
	m.asked = append(m.asked, words)
	return nil
}

// rendered returns the rules that the built-in template has for an ENI.
func rendered(e facts.ENI) []iprule.Rule {
	if !e.Routed || !e.HasIPv4() {
		return nil
	}
	plain := iprule.Rule{Priority: e.Priority(), Table: e.Number, Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
	var rules []iprule.Rule
	from := func(p netip.Prefix) {
		r := plain
		r.From = p
		rules = append(rules, r)
	}
	for _, a := range e.IPv4 {
		from(netip.PrefixFrom(a, 32))
	}
	for _, p := range e.IPv4Prefixes {
		from(p)
	}
	plain.Mark, plain.MarkMask = e.Mark(), e.MarkMask
	return append(rules, plain)
}

// rules returns the rendered rules of each ENI.
func (m *machine) rules(verdicts []plan.Verdict) plan.RulesOf {
	return func(name string) []iprule.Rule {
		var rules []iprule.Rule
		for _, v := range verdicts {
			if v.Name == name && !m.plain[name] {
				rules = rendered(v.Facts)
			}
		}
		return append(rules, m.templates[name]...)
	}
}

// want returns what the machine should have.
func (m *machine) want() ([]plan.Verdict, plan.Want) {
	verdicts := m.Judge()
	return verdicts, m.Want(verdicts, m.rules(verdicts))
}
