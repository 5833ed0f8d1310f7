package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Verdict says what to do with an interface, and by what facts.
type Verdict struct {
	Name string
	// Link is the interface; its Index is 0 if none has the name.
	Link Link
	Do   Do
	// Facts are the facts to serve, without the addresses that have moved to another
	// ENI. If only the lease is known, they have nothing but the number.
	Facts facts.ENI
	// Lease is the leased address; not valid if unknown.
	Lease netip.Addr
	// Had are the addresses that IMDS once listed, so that ec2net may remove them. Unless it
	// serves the interface, it removes them all.
	Had []netip.Addr
	// Spare says which unwanted rules of the ENI stay.
	Spare Spare
	// Old says that the interface went some time ago: a rule at its numbers without
	// ec2net's protocol may be somebody else's by now.
	Old bool
	// Table is the table of an interface to clear that is to be empty; 0: none.
	Table int
	// Unlisted are the addresses on the interface of the primary, if it has no facts. Subnet
	// is their subnet.
	Unlisted []netip.Addr
	Subnet   netip.Prefix
	// Numbers are those that the interface has or had. Clear removes the rules at all
	// of them, except at one that another interface has now.
	Numbers []int
}

// Do is what ec2net does about an interface.
type Do int

// What ec2net does, from the least to the most.
const (
	// Leave: nothing. The interface has another owner, or nothing is known of it.
	Leave Do = iota
	// Rest: leave its rules as they are. It was brought up and somebody has set it down
	// since; or what it should have is not known; or another ENI has its number.
	Rest
	// Clear: it should have no rules. Its lease has ended, it is gone or being taken
	// down, or another device has the name now.
	Clear
	// Serve: it should have its addresses, and its rules if it has a table.
	Serve
)

// Spare says which unwanted rules of an ENI stay: the less is known, the more.
type Spare int

// What stays, from the least to the most.
const (
	// SpareNone: none. The facts are fresh.
	SpareNone Spare = iota
	// SpareLive: the rules of addresses that the interface has. The facts are
	// remembered, and EC2 may have added the address since.
	SpareLive
	// SpareAll: all. Only the leased address is known.
	SpareAll
)

// Judge returns a verdict for each known interface, in the order of m.Known.
func (m *Machine) Judge() []Verdict {
	verdicts := make([]Verdict, 0, len(m.Known))
	for _, k := range m.Known {
		v := m.judge(k)
		if v.Do == Clear {
			v.Table = k.tableLeft(v.Link)
		}
		verdicts = append(verdicts, v)
	}
	m.restrict(verdicts)
	return verdicts
}

// restrict lets one ENI serve each number: two would delete each other's rules. It
// prefers the primary, then the one that was brought up, then the one with a lease. An
// ENI that only its rules make live comes last: the rules may be the other's.
func (m *Machine) restrict(verdicts []Verdict) {
	rank := func(v *Verdict) int {
		k, _ := m.Of(v.Name)
		switch {
		case v.Facts.Primary:
			return 3
		case k.Note.Of(v.Link):
			return 2
		case k.Lease.Of(v.Link):
			return 1
		}
		return 0
	}
	owners := make(map[int]*Verdict)
	for i := range verdicts {
		v := &verdicts[i]
		if v.Do != Serve {
			continue
		}
		owner, taken := owners[v.Facts.Number]
		switch {
		case !taken:
		case rank(owner) >= rank(v):
			v.Do = Rest
			continue
		default:
			owner.Do = Rest
		}
		owners[v.Facts.Number] = v
	}
}

func (m *Machine) judge(k Known) Verdict {
	l, there := m.State.LinkNamed(k.Name)
	v := Verdict{Name: k.Name, Link: l, Numbers: k.Numbers(m.Numbers), Lease: k.Lease.addrOf(l)}
	e, known := k.FactsOf(l)
	switch {
	case k.Left != "" && m.letsGo(k, l):
		v.Do, v.Old = Clear, true
		if k.Port {
			v.Had = e.IPv4
		}
	case k.Left != "", !k.Ours:
		v.Do = Leave
	case k.Going, !there, k.Lease.EndedOf(l):
		v.Do, v.Old = Clear, !k.Going && !there
	case !known:
		return m.judgeUnknown(v, k)
	case e.Primary, m.live(k, l) && l.MAC != m.Primary():
		return m.serve(v, k, e)
	case k.Note.Of(l), k.Coming:
		v.Do = Rest
		if k.Fresh { // once the facts are remembered, nothing tells what it had
			v.Had = without(k.Had, func(a netip.Addr) bool { return slices.Contains(e.IPv4, a) })
		}
	default:
		v.Do = Leave // not brought up, or not by ec2net
	}
	return v
}

// tableLeft returns the table that an interface leaves behind: the one that ec2net has
// brought it up with since boot, once the device is gone, or is being taken down. A table
// of an earlier boot may be somebody else's by now. 0: none.
func (k Known) tableLeft(l Link) int {
	switch {
	case k.Left != "" && l.Index != 0:
		return 0 // somebody else's device has the name, and may use the table
	case k.Going, l.Index == 0, !k.Note.Of(l):
		return k.Note.Number
	}
	return 0
}

// letsGo reports whether ec2net takes away what it has made for an interface that it
// leaves alone now: because the device that it has brought up has gone, or has a master.
func (m *Machine) letsGo(k Known, l Link) bool {
	if k.Note.Of(l) || k.Facts.Primary && k.Facts.MAC == l.MAC {
		return k.Port
	}
	return k.Note != (Note{})
}

// judgeUnknown judges a device without facts.
func (m *Machine) judgeUnknown(v Verdict, k Known) Verdict {
	l := v.Link
	switch {
	case l.MAC == m.Primary() && k.ofAnother():
		v.Do = Clear
	case l.MAC == m.Primary():
		return m.servePrimary(v)
	case k.Stanza && k.Lease.Held(l):
		return m.serveLease(v, k)
	case k.Note.Of(l), k.Lease.Of(l), k.Coming:
		v.Do = Rest
	case k.ofAnother():
		v.Do = Clear
	default:
		v.Do = Leave // nothing is known, so remove nothing
	}
	return v
}

// live reports whether an ENI is up, and ec2net has brought it up: its note or its
// lease says so. Without a note and a lease its rules say so; but not with the note of
// another device, whose rules they may be.
func (m *Machine) live(k Known, l Link) bool {
	if !l.Up || k.Coming {
		return false
	}
	if k.Note.Of(l) || (k.Stanza && k.Lease.Of(l)) {
		return true
	}
	return k.Stanza && k.Note == (Note{}) && k.Lease == (Lease{}) && m.hasRules(k.Facts.Number)
}

// ofENI reports whether a rule is ec2net's for some ENI.
func ofENI(r Rule) bool { return atENI(r) && r.Protocol == iprule.Protocol }

// atENI reports whether a rule has the priority and table of some ENI. Others than ec2net
// may have a rule at the primary's priority.
func atENI(r Rule) bool {
	return r.Priority == r.Table || r.Priority == facts.PrimaryPriority && r.Protocol == iprule.Protocol
}

func (m *Machine) serve(v Verdict, k Known, e facts.ENI) Verdict {
	v.Do, v.Spare = Serve, SpareLive
	if k.Fresh {
		v.Spare = SpareNone
	}
	v.Had = slices.Concat(k.Had, e.IPv4)
	e.IPv4 = slices.DeleteFunc(slices.Clone(e.IPv4), func(a netip.Addr) bool { return m.MovedFrom(e.MAC, a) })
	e.Routed = m.hasTable(e)
	v.Facts = e
	v.Lease = m.leaseOf(k, v.Link, e)
	if !v.Lease.IsValid() && e.Routed {
		v.Spare = SpareAll // any rule may be that of the leased address
	}
	return v
}

// serveLease serves the leased address alone, for a device without facts. Without a
// number it cannot, and the interface rests.
func (m *Machine) serveLease(v Verdict, k Known) Verdict {
	e, ok := m.bare(k, v.Link)
	if !ok {
		v.Do = Rest
		return v
	}
	v.Do, v.Spare, v.Facts = Serve, SpareAll, e
	return v
}

// servePrimary serves the primary without facts, by the addresses on its interface: if no
// DHCP client with a hook configures it, ec2net may never ask IMDS about it. Only addresses
// in the subnet of the first one count, since the others cannot be the ENI's.
func (m *Machine) servePrimary(v Verdict) Verdict {
	addrs := filter(m.State.Addrs, func(a Addr) bool { return a.Link == v.Link.Index && a.Prefix.Addr().IsGlobalUnicast() })
	if first, ok := find(addrs, func(a Addr) bool { return !a.Prefix.IsSingleIP() }); ok {
		v.Subnet = first.Prefix.Masked()
	}
	for _, a := range addrs {
		if v.Subnet.Contains(a.Prefix.Addr()) {
			v.Unlisted = append(v.Unlisted, a.Prefix.Addr())
		}
	}
	e := m.barePrimary(v.Link)
	primary, _ := m.PrimaryLink() // v may be of an interface on top of it, with its MAC
	if len(v.Unlisted) == 0 || !m.hasTable(e) || v.Link.Index != primary.Index {
		v.Do = Rest
		return v
	}
	v.Do, v.Spare, v.Facts = Serve, SpareLive, e
	return v
}

// barePrimary returns the primary without facts but its number.
func (m *Machine) barePrimary(l Link) facts.ENI {
	e, err := facts.Bare(l.Name, l.MAC, m.Numbers)
	if err != nil { // its name has no number, and device 0 of card 0 has BASE
		e = facts.ENI{Name: l.Name, MAC: l.MAC, Number: m.Numbers.Base, MarkMask: m.Numbers.MarkMask}.Clone()
	}
	e.Primary, e.PrimaryMAC, e.Routed = true, l.MAC, m.Numbers.Primary
	return e
}

// hasTable reports whether an ENI is to have a table and rules of its own. The primary has
// them only while another ENI is up: alone it needs none.
func (m *Machine) hasTable(e facts.ENI) bool { return e.Routed && (!e.Primary || m.othersUp(e.MAC)) }

// othersUp reports whether an ENI other than the primary is up, or about to come up, so
// that main may lead to its subnet through it.
func (m *Machine) othersUp(primary facts.MAC) bool {
	return m.leftUp() || slices.ContainsFunc(m.Known, func(k Known) bool {
		l, here := m.State.LinkNamed(k.Name)
		// Its link is down while ifup begins.
		up := (k.Note.Of(l) || k.Stanza && k.Lease.Of(l)) && !k.Lease.EndedOf(l)
		return here && l.MAC != primary && k.Left == "" && !k.Going && (k.Coming || up)
	})
}

// bare returns an ENI without facts but its number: the one in its note, else the one
// of its name. It reports false if there is neither.
func (m *Machine) bare(k Known, l Link) (facts.ENI, bool) {
	if k.Note.Of(l) && k.Note.Number != 0 {
		e := facts.ENI{Name: k.Name, MAC: l.MAC, Number: k.Note.Number, MarkMask: m.Numbers.MarkMask, Routed: true}
		return e.Clone(), true
	}
	e, err := facts.Bare(k.Name, l.MAC, m.Numbers)
	return e, err == nil
}

// leaseOf returns the leased address of a device. Without a lease it guesses: an address
// with the prefix length of a subnet, which ec2net never gives, else the ENI's first.
func (m *Machine) leaseOf(k Known, l Link, e facts.ENI) netip.Addr {
	if k.Lease.Of(l) {
		return k.Lease.Addr
	}
	if !e.HasIPv4() {
		return netip.Addr{}
	}
	var found netip.Addr
	for _, a := range m.State.Addrs {
		if a.Link == l.Index && !a.Prefix.IsSingleIP() && e.Subnet.Contains(a.Prefix.Addr()) {
			found = a.Prefix.Addr()
		}
	}
	if !found.IsValid() && len(e.IPv4) > 0 {
		found = e.IPv4[0]
	}
	return found
}

// MovedFrom reports whether EC2 has moved an address away from an ENI.
func (m *Machine) MovedFrom(mac facts.MAC, a netip.Addr) bool {
	return slices.ContainsFunc(m.Moved, func(v Moved) bool { return v.Addr == a && v.From == mac })
}

// Marked returns the ENIs whose marks the answers of containers and guests get: those
// with a table of their own that are up or about to be, also if they have another owner
// now, so that connections that came in marked still get answers. With them the primary is
// marked, which alone is not. But names an ENI that does not count. An ENI without facts has
// only its number.
func (m *Machine) Marked(but string) []facts.ENI {
	var marked []facts.ENI
	others := false
	for _, k := range m.Known {
		l, there := m.State.LinkNamed(k.Name)
		e, known := k.FactsOf(l)
		noted := k.Note.Of(l) || k.Coming
		switch {
		case !there, k.Name == but:
		case known && e.Routed && (e.Primary || noted || (l.Up && m.hasRules(e.Number))):
			marked = append(marked, e)
			others = others || !e.Primary
		case !known && noted && k.Note.Number != 0:
			e, _ = m.bare(k, l)
			marked = append(marked, e)
			others = true
		}
	}
	if !others {
		return nil
	}
	return marked
}

// hasRules reports whether ec2net's rules exist at a number.
func (m *Machine) hasRules(number int) bool {
	return slices.ContainsFunc(m.State.Rules, func(r Rule) bool { return r.Table == number && ofENI(r) })
}
