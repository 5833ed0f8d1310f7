package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Verdict is what is to become of an interface, and why.
type Verdict struct {
	Name string
	// Link is the interface; its Index is 0 if there is none of the name.
	Link Link
	Do   Do
	// Facts are those that Serve goes by, without the addresses that have moved to
	// another ENI; its numbers alone if the lease is all that is known.
	Facts facts.ENI
	// Lease is the address that the DHCP client has; not valid if nobody knows.
	Lease netip.Addr
	// Had are the addresses that IMDS gave at one time, and so ec2net may take
	// away.
	Had []netip.Addr
	// Spare says what of the ENI's own rules stays although it is not wanted.
	Spare Spare
	// Old says that nobody is at work on the interface: what has no protocol of
	// ec2net's at its numbers may be somebody else's by now.
	Old bool
	// Numbers are those that the interface has or had. With Clear nothing of them is
	// left, unless another interface has the number now.
	Numbers []int
}

// Do is what ec2net does about an interface.
type Do int

// What ec2net does, from the least to the most.
const (
	// Leave: nothing. Somebody else has the interface, or nothing is known of it.
	Leave Do = iota
	// Rest: it was brought up and is down now, by somebody who knows why; or what it
	// should have is not known; or another one has its number. What there is stays.
	Rest
	// Clear: it should have no rules. Its lease has ended, it is gone or going, or the
	// name is another device's now.
	Clear
	// Serve: it should have its addresses, and its rules if it has a table.
	Serve
)

// Spare is what of an ENI's own rules stays although it is not wanted: the less is
// known, the more.
type Spare int

// What stays, from the least to the most.
const (
	// SpareNone: nothing. IMDS has just said what the ENI has.
	SpareNone Spare = iota
	// SpareLive: rules of addresses that the interface has. The facts are old, and
	// the address may have been given since.
	SpareLive
	// SpareAll: all. Only the leased address is known.
	SpareAll
)

// Judge says for each interface what is to become of it, in the order of m.Known.
func (m *Machine) Judge() []Verdict {
	verdicts := make([]Verdict, 0, len(m.Known))
	for _, k := range m.Known {
		verdicts = append(verdicts, m.judge(k))
	}
	m.restrict(verdicts)
	return verdicts
}

// restrict lets one ENI have a number: two would take each other's rules away. It is
// the primary, else the one that was brought up, else the one with a lease: where
// rules alone say that an ENI is up, they may be the other's.
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
	default:
		v.Do = Leave // not brought up yet, or by somebody else
	}
	return v
}

// judgeUnknown judges a device of which IMDS has said nothing.
func (m *Machine) judgeUnknown(v Verdict, k Known) Verdict {
	l := v.Link
	switch {
	case l.MAC == m.Primary():
		v.Do = Rest
		if k.ofAnother() {
			v.Do = Clear
		}
	case k.Stanza && k.Lease.Held(l):
		return m.serveLease(v, k)
	case k.Note.Of(l), k.Lease.Of(l), k.Coming:
		v.Do = Rest
	case k.ofAnother():
		v.Do = Clear
	default:
		v.Do = Leave // nothing is known, so nothing is taken away
	}
	return v
}

// live reports whether an ENI is up by ec2net's doing: it was brought up since boot, or
// its DHCP client has said so. Where nothing is remembered since boot, its rules tell:
// with a note of another device they may be that one's.
func (m *Machine) live(k Known, l Link) bool {
	if !l.Up || k.Coming {
		return false
	}
	if k.Note.Of(l) || (k.Stanza && k.Lease.Of(l)) {
		return true
	}
	return k.Stanza && k.Note == (Note{}) && k.Lease == (Lease{}) && m.hasRules(k.Facts.Number)
}

// ofENI reports whether a rule is one of ec2net's for an ENI, whichever.
func ofENI(r Rule) bool { return r.Priority == r.Table && r.Protocol == iprule.Protocol }

func (m *Machine) serve(v Verdict, k Known, e facts.ENI) Verdict {
	v.Do, v.Spare = Serve, SpareLive
	if k.Fresh {
		v.Spare = SpareNone
	}
	v.Had = slices.Concat(k.Had, e.IPv4)
	e.IPv4 = slices.DeleteFunc(slices.Clone(e.IPv4), func(a netip.Addr) bool { return m.movedFrom(e.MAC, a) })
	v.Facts = e
	v.Lease = m.leaseOf(k, v.Link, e)
	if !v.Lease.IsValid() {
		v.Spare = SpareAll // the rule of the lease may be any of them
	}
	return v
}

// serveLease makes do with the leased address, where IMDS has said nothing of the
// device. Without a number it has no rules.
func (m *Machine) serveLease(v Verdict, k Known) Verdict {
	e, ok := m.bare(k, v.Link)
	if !ok {
		v.Do = Rest
		return v
	}
	v.Do, v.Spare, v.Facts = Serve, SpareAll, e
	return v
}

// bare is an ENI of which no facts are known, with the number that it was brought up
// with, or that of its name. It is false without either.
func (m *Machine) bare(k Known, l Link) (facts.ENI, bool) {
	if k.Note.Of(l) && k.Note.Number != 0 {
		e := facts.ENI{Name: k.Name, MAC: l.MAC, Number: k.Note.Number, MarkMask: m.Numbers.MarkMask, Routed: true}
		return e.Clone(), true
	}
	e, err := facts.Bare(k.Name, l.MAC, m.Numbers)
	return e, err == nil
}

// leaseOf is the address that a device has by DHCP. Where no client has said so,
// it is the address that the interface has with the length of its subnet, which
// ec2net gives none, else the ENI's first.
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

// movedFrom reports whether EC2 has moved an address away from an ENI.
func (m *Machine) movedFrom(mac facts.MAC, a netip.Addr) bool {
	return slices.ContainsFunc(m.Moved, func(v Moved) bool { return v.Addr == a && v.From == mac })
}

// Marked are the ENIs whose marks the answers of containers get back: those with a
// table of their own that are up, whoever has them now. What came in marked goes on
// being answered. An ENI whose facts are lost has its number alone.
func (m *Machine) Marked() []facts.ENI {
	var marked []facts.ENI
	for _, k := range m.Known {
		l, there := m.State.LinkNamed(k.Name)
		e, known := k.FactsOf(l)
		noted := k.Note.Of(l)
		switch {
		case !there:
		case known && e.Routed && (e.Primary || noted || (l.Up && m.hasRules(e.Number))):
			marked = append(marked, e)
		case !known && noted && k.Note.Number != 0:
			e, _ = m.bare(k, l)
			marked = append(marked, e)
		}
	}
	return marked
}

// hasRules reports whether rules of ec2net's are there at a number.
func (m *Machine) hasRules(number int) bool {
	return slices.ContainsFunc(m.State.Rules, func(r Rule) bool { return r.Priority == number && ofENI(r) })
}
