package mangle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Unknown stands for the back end if nobody knows which was in use.
const Unknown = "unknown"

// Made is what ec2net made last: the back end, and the state of each chain. iptables need
// not say of a rule what the fragment says, so the state is what iptables said once the
// fragment was loaded. As text it is a line with the back end, and a line for each chain with
// its name and state.
type Made struct {
	backEnd string
	chains  map[string]string
}

// ParseMade parses the text of Made; nil if it is not such a text.
func ParseMade(text []byte) *Made {
	first, rest, ok := strings.Cut(string(text), "\n")
	if !ok {
		return nil
	}
	m := &Made{backEnd: first, chains: make(map[string]string)}
	for line := range strings.Lines(rest) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		m.chains[name] = state
	}
	return m
}

// NothingMade returns a Made without chains, with the back end of now.
func NothingMade(now Saved) *Made { return &Made{backEnd: now.backEnd} }

// Has reports whether a chain was made.
func (m *Made) Has(c Chain) bool { return m != nil && m.chains[c.Name] != "" }

// differs reports whether a chain is not as it was made, or was not made.
func (m *Made) differs(c Chain, now Saved) bool {
	state := now.state(c)
	return state == "" || state != m.chains[c.Name]
}

// Look is what ec2net's chains are and should be, at one moment.
type Look struct {
	Want []Chain
	// Stale reports whether a chain has to go.
	Stale func(name string) bool
	Now   Saved
	// Last is what was made; nil if nobody knows.
	Last *Made
}

// last returns Last, or a Made without chains and with an unknown back end.
func (l *Look) last() *Made {
	if l.Last == nil {
		return &Made{backEnd: Unknown}
	}
	return l.Last
}

// backEnd returns the back end of now. Without any table it is the one in use before, if that is
// known: then there is nothing of ec2net's in it.
func (l *Look) backEnd() string {
	if last := l.last().backEnd; l.Now.backEnd == "" && last != Unknown {
		return last
	}
	return cmp.Or(l.Now.backEnd, Legacy)
}

// Agrees reports whether iptables has every wanted chain as it was made, and none that has
// to go.
func (l *Look) Agrees() bool {
	last := l.last()
	return last.backEnd == l.backEnd() && !slices.ContainsFunc(l.Now.Own(), l.Stale) &&
		!slices.ContainsFunc(l.Want, func(c Chain) bool { return last.differs(c, l.Now) })
}

// Difference is what is wrong with a chain.
type Difference struct {
	// Iface is the interface that the chain is about; empty if it is about all.
	Iface, Why string
}

// Differences returns what is wrong with each chain; nothing if the look [Look.Agrees].
func (l *Look) Differences() (all []Difference) {
	if l.Agrees() {
		return nil
	}
	for _, c := range l.Want {
		if why := l.wrong(c); why != "" {
			all = append(all, Difference{c.Iface, why})
		}
	}
	for _, name := range l.Now.Own() {
		if l.Stale(name) {
			all = append(all, Difference{ifaceOf(name), fmt.Sprintf("the chain %s should not be there", name)})
		}
	}
	if len(all) == 0 {
		all = append(all, Difference{Why: "another back end of iptables may have marks too"})
	}
	return all
}

// wrong says why a chain differs; empty if it does not.
func (l *Look) wrong(c Chain) string {
	_, there := l.Now.rules[c.Name]
	jumps := len(l.Now.jumps(c.Name))
	switch {
	case !l.last().differs(c, l.Now):
		return ""
	case !there && c.Declares():
		return fmt.Sprintf("the chain %s is missing", c.Name)
	case jumps == 0 && c.Declares():
		return fmt.Sprintf("no rule of PREROUTING jumps into the chain %s", c.Name)
	}
	return fmt.Sprintf("the chain %s is not as it was made", c.Name)
}
