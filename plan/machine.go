package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
)

// Machine is the outcome of a look: what the kernel has, and what is remembered. A look
// reads each thing once, without a wait in between.
type Machine struct {
	Numbers facts.Numbers
	State   State
	// Known is what is remembered of each interface, sorted by name.
	Known []Known
	// Moved are the addresses that EC2 has moved from one ENI to another.
	Moved []Moved
	// Docker says what to do with the routes to docker's bridge.
	Docker Docker
	// NoAddresses says that somebody else gives the ENIs their secondary addresses, and
	// takes them away.
	NoAddresses bool
}

// Known is what is known under the name of an interface, from disk and from the event.
type Known struct {
	Name string
	// Facts are the last facts from IMDS; their Name is empty if there are none. They
	// may be about another device, which had the name before.
	Facts facts.ENI
	// Fresh says that Facts are fresh, not remembered.
	Fresh bool
	// Had are the addresses in the facts before the fresh ones.
	Had []netip.Addr
	// Note says for which device the interface was brought up since boot.
	Note Note
	// Down says which device a person has taken down by ec2net since boot.
	Down Note
	// Lease is what the interface's DHCP client said last since boot.
	Lease Lease
	// Ours says that ec2net configures the interface, or did; Stanza that its cfg file
	// exists.
	Ours, Stanza bool
	// Routes are those that the cfg file adds. Loose says that the cfg file makes the reverse
	// path filter of the interface loose, NoIPv6 that it switches IPv6 off on the interface.
	Routes        []iproute.Route
	Loose, NoIPv6 bool
	// Left says why ec2net leaves the interface alone; empty if it is ec2net's. Try says
	// how to give it to ec2net; it may be empty.
	Left, Try string
	// Port says that the interface is left alone because it has a master.
	Port bool
	// Coming says that ec2net is about to bring the interface up, Going that it is
	// taking it down.
	Coming, Going bool
}

// Note says for which device an interface was brought up, and with which number. The
// kernel never gives an index twice. Table and rules keep the number, even if settings
// and facts change. The zero Note: it was not brought up.
type Note struct {
	MAC    facts.MAC
	Index  int
	Number int
}

// Of reports whether the note is about this device.
func (n Note) Of(l Link) bool { return n.MAC == l.MAC && n.Index == l.Index && n != (Note{}) }

// Lease is the last event of a device's DHCP client. The zero Lease: none.
type Lease struct {
	MAC   facts.MAC
	Index int
	// Addr is the leased address; not valid if the client named none, or if Ended.
	Addr netip.Addr
	// Ended says that the lease has ended.
	Ended bool
}

// Of reports whether the lease is about this device.
func (l Lease) Of(o Link) bool { return l.MAC == o.MAC && l.Index == o.Index && l != (Lease{}) }

// EndedOf reports whether a device's lease has ended.
func (l Lease) EndedOf(o Link) bool { return l.Of(o) && l.Ended }

// Held reports whether a device has a lease with a known address.
func (l Lease) Held(o Link) bool { return l.addrOf(o).IsValid() }

// addrOf returns the leased address of a device; not valid if unknown.
func (l Lease) addrOf(o Link) netip.Addr {
	if !l.Of(o) || l.Ended {
		return netip.Addr{}
	}
	return l.Addr
}

// Moved says that EC2 has moved an address: IMDS listed it for the ENI From, and later,
// as new, for To. IMDS may go on listing it for From for a while, which does not count.
type Moved struct {
	Addr     netip.Addr
	From, To facts.MAC
}

// Docker says what to do with the routes to docker's bridge in the ENIs' tables.
type Docker int

// What to do with the routes.
const (
	DockerAsIs Docker = iota // nobody has said that docker is up, or down
	DockerUp                 // every table has them
	DockerDown               // no table has them
)

// LeavePorts leaves alone what has a master: a port of a bridge or bond, a member of a
// VRF. Its addresses are the master's.
func (m *Machine) LeavePorts() {
	for i, k := range m.Known {
		l, _ := m.State.LinkNamed(k.Name)
		if master, ok := m.State.LinkAt(l.Master); ok && l.Master != 0 && k.Left == "" {
			m.Known[i].Port, m.Known[i].Left = true, "it belongs to "+master.Name
			m.Known[i].Try = fmt.Sprintf("ip link set %s nomaster, and ec2net configures it", k.Name)
		}
	}
}

// Of returns what is known under a name, and reports whether anything is.
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

// FactsOf returns the last facts of this very device, and reports whether there are any.
// A clone of a machine has other MACs, so it does not inherit facts.
func (k Known) FactsOf(l Link) (facts.ENI, bool) {
	if k.Facts.Name == "" || k.Facts.MAC != l.MAC {
		return facts.ENI{}, false
	}
	return k.Facts, true
}

// ofAnother reports whether what is known is about a device that had the name before.
// The caller has already ruled out the device that has the name now.
func (k Known) ofAnother() bool { return k.Facts.Name != "" || k.Note != (Note{}) }

// Numbers returns the numbers that an interface has, or may have had, for its table,
// rules and marks.
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

// isHere reports whether an interface has this MAC.
func (m *Machine) isHere(mac facts.MAC) bool {
	return slices.ContainsFunc(m.State.Links, func(l Link) bool { return l.MAC == mac })
}

// Primary returns the MAC of the primary ENI; zero if it is unknown. It ignores a MAC
// that no interface has: those facts came with an image, from another machine.
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

// PrimaryLink returns the primary's interface, and reports whether it is here and known.
func (m *Machine) PrimaryLink() (Link, bool) {
	mac := m.Primary()
	return find(m.ENILinks(), func(l Link) bool { return l.MAC == mac })
}

// MACs returns the MACs of the known ENIs that ec2net may touch, the primary first, and
// of those that it leaves alone. An ENI without facts is known by its lease or note. If
// an ENI is known under several names, its present name decides.
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

// Members returns the interfaces that belong in the group of all ENIs: those of the
// known ENIs, and a bridge, bond or VLAN on top of one, which shares its MAC.
func (m *Machine) Members() []Link {
	ours, _ := m.MACs()
	return filter(m.State.Links, func(l Link) bool { return slices.Contains(ours, l.MAC) })
}

// ENILinks returns only the known ENIs' own interfaces, without a bridge, bond or VLAN on
// top: of several with one MAC, the ENI's is the oldest and so the first in the list.
func (m *Machine) ENILinks() []Link { return firstByMAC(m.Members()) }

// ENIsAmong returns the ENIs' own links with one of these MACs: see ENILinks.
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
// has its MAC. The zero MAC is no match: a tunnel may have none, as lo has none.
func (m *Machine) CanBeENI(l Link) bool {
	ours, _ := m.MACs()
	return l.Device || slices.Contains(ours, l.MAC) || l.MAC != (facts.MAC{}) &&
		slices.ContainsFunc(m.State.Links, func(o Link) bool { return o.Device && o.MAC == l.MAC })
}

// PrimaryUp reports whether the primary has an address, through which to reach IMDS.
// It reports true if the primary is unknown.
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

// Scope returns the routes that a look at this machine has to read: the tables that are,
// were or may become an ENI's, and main's routes through ENIs and to docker's bridge.
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
	for i, one := range all {
		if !keep(one) {
			continue
		}
		if kept == nil {
			kept = make([]T, 0, len(all)-i)
		}
		kept = append(kept, one)
	}
	return kept
}

func without[T any](all []T, drop func(T) bool) []T {
	return filter(all, func(t T) bool { return !drop(t) })
}

// DockerThere reports whether docker's bridge is stable: it has its route, which the
// kernel adds once the bridge has an address and is up.
func (m *Machine) DockerThere() bool {
	l, there := m.State.LinkNamed(Bridge)
	return there && slices.ContainsFunc(m.State.Routes, func(r Route) bool {
		return r.Table == iprule.MainTable && r.Link == l.Index && r.always() && !r.Default()
	})
}
