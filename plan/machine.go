package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Machine is everything that was gathered: what the kernel has, and what is
// remembered. Each thing was read once, and nothing waits between the readings.
type Machine struct {
	Numbers facts.Numbers
	State   State
	// Known is what is remembered of each interface, sorted by name.
	Known []Known
	// Moved are the addresses that EC2 has moved from one ENI to another.
	Moved []Moved
	// Docker says what becomes of the routes to docker's bridge.
	Docker Docker
}

// Known is what is known under the name of an interface: what is on disk, and
// what an event has brought.
type Known struct {
	Name string
	// Facts are those that IMDS gave last, without a name if it gave none. They
	// may be of another device, which had the name before.
	Facts facts.ENI
	// Fresh says that Facts are IMDS's answer of now.
	Fresh bool
	// Had are the addresses that IMDS gave before this answer.
	Had []netip.Addr
	// Note says as what the interface was brought up since boot, if it was.
	Note Note
	// Lease is what the interface's DHCP client said last since boot.
	Lease Lease
	// Ours says that the interface is one that ec2net configures, or did; Stanza
	// that the file which brings it up is there.
	Ours, Stanza bool
	// Left says why ec2net leaves the interface alone; empty if it does not.
	Left string
	// Coming says that the interface is about to be brought up, Going that it is
	// being taken down.
	Coming, Going bool
}

// Note says as what an interface was brought up: the device, whose index the
// kernel gives no second time, and the number of its table and rules, which they
// keep whatever becomes of settings and facts. The zero Note: it was not.
type Note struct {
	MAC    facts.MAC
	Index  int
	Number int
}

// Of reports whether it was this device that was brought up.
func (n Note) Of(l Link) bool { return n.MAC == l.MAC && n.Index == l.Index && n != (Note{}) }

// Lease is what a DHCP client said last of a device. The zero Lease: nothing.
type Lease struct {
	MAC   facts.MAC
	Index int
	// Addr is the leased address; not valid if the client named none, or if Ended.
	Addr netip.Addr
	// Ended says that the lease is no more.
	Ended bool
}

// Of reports whether the lease is this device's.
func (l Lease) Of(o Link) bool { return l.MAC == o.MAC && l.Index == o.Index && l != (Lease{}) }

// EndedOf reports whether a device's lease is no more.
func (l Lease) EndedOf(o Link) bool { return l.Of(o) && l.Ended }

// Held reports whether a device has a lease of which the address is known.
func (l Lease) Held(o Link) bool { return l.addrOf(o).IsValid() }

// addrOf is the address that a device has leased; not valid if nobody knows.
func (l Lease) addrOf(o Link) netip.Addr {
	if !l.Of(o) || l.Ended {
		return netip.Addr{}
	}
	return l.Addr
}

// Moved says that EC2 has moved an address: IMDS gave it to the ENI To when it had
// given it to From before. What IMDS says of From may lag behind; until it does
// not give the address any more, that counts for nothing.
type Moved struct {
	Addr     netip.Addr
	From, To facts.MAC
}

// Docker says what becomes of the routes to docker's bridge in the ENIs' tables.
type Docker int

// What becomes of the routes.
const (
	DockerAsIs Docker = iota // nobody has said that docker is up, or down
	DockerUp                 // every table has them
	DockerDown               // no table has them
)

// Of gives what is known under a name, and whether anything is.
func (m *Machine) Of(name string) (Known, bool) {
	return find(m.Known, func(k Known) bool { return k.Name == name })
}

// Set replaces what is known under a name.
func (m *Machine) Set(k Known) {
	i, there := slices.BinarySearchFunc(m.Known, k.Name, func(k Known, name string) int { return compare(k.Name, name) })
	if there {
		m.Known[i] = k
		return
	}
	m.Known = slices.Insert(m.Known, i, k)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// FactsOf gives what IMDS said last of this very device, and whether it said anything.
// A cloned machine has other MACs, and so does not inherit facts.
func (k Known) FactsOf(l Link) (facts.ENI, bool) {
	if k.Facts.Name == "" || k.Facts.MAC != l.MAC {
		return facts.ENI{}, false
	}
	return k.Facts, true
}

// ofAnother reports whether what is known is of a device that had the name before. It
// is asked of what is not known to be of the device that has the name now.
func (k Known) ofAnother() bool { return k.Facts.Name != "" || k.Note != (Note{}) }

// Numbers are those that an interface has or may have had: its tables, rules and
// marks go by them.
func (k Known) Numbers(n facts.Numbers) []int {
	var numbers []int
	add := func(number int) {
		if number != 0 && !slices.Contains(numbers, number) {
			numbers = append(numbers, number)
		}
	}
	add(k.Note.Number)
	if k.Facts.Name != "" && (!k.Facts.Primary || n.Primary) {
		add(k.Facts.Number)
	} else if e, err := facts.Bare(k.Name, facts.MAC{}, n); err == nil && k.Facts.Name == "" {
		add(e.Number)
	}
	return numbers
}

// isHere reports whether there is an interface with a MAC.
func (m *Machine) isHere(mac facts.MAC) bool {
	return slices.ContainsFunc(m.State.Links, func(l Link) bool { return l.MAC == mac })
}

// Primary is the MAC of the primary ENI; zero if it is not known. Facts of another
// machine, which an image has brought along, name a device that is not here.
func (m *Machine) Primary() facts.MAC {
	var best facts.MAC
	for _, k := range m.Known {
		mac := k.Facts.PrimaryMAC
		if mac == (facts.MAC{}) || !m.isHere(mac) {
			continue
		}
		if k.Fresh {
			return mac
		}
		if best == (facts.MAC{}) || m.isHere(k.Facts.MAC) {
			best = mac
		}
	}
	return best
}

// MACs are those of the known ENIs that ec2net may touch, the primary first, and of
// those that it may not. Without facts an ENI is known by its lease, or by having
// been brought up. Of several names of one ENI the one counts that it has now.
func (m *Machine) MACs() (ours, left []facts.MAC) {
	add := func(to *[]facts.MAC, mac facts.MAC) {
		if mac != (facts.MAC{}) && !slices.Contains(ours, mac) && !slices.Contains(left, mac) {
			*to = append(*to, mac)
		}
	}
	add(&ours, m.Primary())
	for _, k := range m.Known {
		if l, _ := m.State.LinkNamed(k.Name); k.Left != "" && l.MAC == k.Facts.MAC {
			add(&left, l.MAC)
		}
	}
	for _, k := range m.Known {
		if k.Left != "" {
			continue
		}
		add(&ours, k.Facts.MAC)
		add(&ours, k.Note.MAC)
		if k.Stanza {
			add(&ours, k.Lease.MAC)
		}
	}
	for _, k := range m.Known {
		add(&left, k.Facts.MAC)
	}
	return ours, left
}

// Members are the interfaces that belong into the group of all ENIs: those of the
// known ENIs, and a bridge, bond or VLAN on top of one, which has its MAC too.
func (m *Machine) Members() []Link {
	ours, _ := m.MACs()
	return filter(m.State.Links, func(l Link) bool { return slices.Contains(ours, l.MAC) })
}

// ENILinks are the interfaces of the known ENIs alone, each under the MAC that it
// shares with what is on top of it: it was there before, and comes first in the
// list.
func (m *Machine) ENILinks() []Link { return firstByMAC(m.Members()) }

// ENIsAmong are the links of ENIs with one of these MACs: see ENILinks.
func ENIsAmong(links []Link, macs []facts.MAC) []Link {
	return firstByMAC(filter(links, func(l Link) bool { return slices.Contains(macs, l.MAC) }))
}

func firstByMAC(links []Link) []Link {
	var found []Link
	for _, l := range links {
		if !slices.ContainsFunc(found, func(f Link) bool { return f.MAC == l.MAC }) {
			found = append(found, l)
		}
	}
	return found
}

// CanBeENI reports whether an interface may be an ENI's, or is on top of one and so
// has its MAC. A tunnel may have none, as lo.
func (m *Machine) CanBeENI(l Link) bool {
	ours, _ := m.MACs()
	return l.Device || slices.Contains(ours, l.MAC) || l.MAC != (facts.MAC{}) &&
		slices.ContainsFunc(m.State.Links, func(o Link) bool { return o.Device && o.MAC == l.MAC })
}

// PrimaryUp reports whether the primary has an address, by which IMDS is reached.
// It is true if nobody knows which interface the primary is.
func (m *Machine) PrimaryUp() bool {
	primary := m.Primary()
	if primary == (facts.MAC{}) {
		return true
	}
	return slices.ContainsFunc(m.State.Addrs, func(a Addr) bool {
		l, ok := m.State.LinkAt(a.Link) // perhaps a bridge on top of the primary
		return ok && l.MAC == primary
	})
}

// Scope is what a look has to bring for this machine: the tables that are, were or
// may become an ENI's, and the main table's routes by ENIs and to docker's bridge.
func (m *Machine) Scope(links []Link) Scope {
	with := *m
	with.State.Links = links
	s := Scope{Tables: []int{m.Numbers.Base}}
	for _, k := range m.Known {
		for _, number := range append(k.Numbers(m.Numbers), k.Facts.Number) {
			if number != 0 && !slices.Contains(s.Tables, number) {
				s.Tables = append(s.Tables, number)
			}
		}
	}
	for _, l := range with.Members() {
		s.Main = append(s.Main, l.Index)
	}
	if l, ok := with.State.LinkNamed(Bridge); ok {
		s.Main = append(s.Main, l.Index)
	}
	return s
}

// Bridge is docker's default network.
const Bridge = "docker0"

func filter[T any](all []T, keep func(T) bool) []T {
	var kept []T
	for _, one := range all {
		if keep(one) {
			kept = append(kept, one)
		}
	}
	return kept
}

func without[T any](all []T, drop func(T) bool) []T {
	return filter(all, func(t T) bool { return !drop(t) })
}

// DockerThere reports whether docker's bridge is stable: it has an address, is up,
// and so has its route.
func (m *Machine) DockerThere() bool {
	l, there := m.State.LinkNamed(Bridge)
	return there && slices.ContainsFunc(m.State.Routes, func(r Route) bool {
		return r.Table == iprule.MainTable && r.Link == l.Index && r.always() && !r.Default()
	})
}
