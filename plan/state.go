// Package plan decides, on plain data, what a machine's network should be: judge says
// what to do with each interface, want what the machine should have, diff which
// changes lead there. It does no I/O and has no clock. Its types are the same for
// IPv4 and IPv6.
package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
)

// State is what the kernel has, as far as a plan needs it.
type State struct {
	Links  []Link
	Addrs  []Addr
	Rules  []Rule
	Routes []Route
}

// Link is an interface as the kernel has it.
type Link struct {
	Name  string
	Index int
	MAC   facts.MAC // zero if it has none of six octets
	Group int
	Up    bool
	// Device is true for a card's own interface, and for a veth, which a rule of udev
	// may make an ENI; false for bridges, tunnels and other virtual interfaces.
	Device bool
	// Loopback is true for lo.
	Loopback bool
	// Strict says that the kernel drops a packet that comes in by another interface
	// than the answer would leave by: rp_filter is 1, the link's or that of all.
	Strict bool
	// Forwards says that the machine forwards IPv4 packets that come in by the link.
	Forwards bool
	// NoIPv6 says that IPv6 is off on the link: its disable_ipv6 is 1, or the kernel has
	// no IPv6 for it.
	NoIPv6 bool
	// Master is the index of the bridge, bond, team or VRF that the link belongs
	// to; 0 without one.
	Master int
}

// Is reports whether two looks at a name saw the same device: the kernel never gives
// an index twice.
func (l Link) Is(o Link) bool { return l.MAC == o.MAC && l.Index == o.Index }

// Addr is an address of an interface.
type Addr struct {
	Link   int          // its index
	Prefix netip.Prefix // the address, and the prefix length of its network
}

// Rule is a rule as the kernel has it.
type Rule struct {
	iprule.Rule
	// Extra are attributes of the rule that iprule has no words for (a port, a
	// user, an inverted match), in the kernel's encoding. ec2net makes no rule with
	// any. To delete such a rule the kernel has to be told them, else it would delete
	// another one.
	Extra string
}

// Odd reports whether a rule has attributes that ec2net's rules never have.
func (r Rule) Odd() bool { return r.Extra != "" }

// Route is a unicast route to one interface, or a route of another kind, which has no
// interface. It is comparable.
type Route struct {
	Kind     iproute.Kind
	Table    int
	Link     int          // the interface's index; 0 if Kind has none, or Extra names several
	Dst      netip.Prefix // of length 0: the default route
	Gateway  netip.Addr   // not valid: none
	Source   netip.Addr   // preferred; not valid: none
	Metric   int
	Protocol int  // rtnetlink(7): 2 kernel, 3 boot, 4 static, 16 DHCP
	Scope    int  // rtnetlink(7): 0 universe, 253 link
	OnLink   bool // the gateway is reached although no route leads to it
	TOS      int  // the type of service that the route is for; 0: any
	// Extra are attributes that plan has no fields for (an MTU, a congestion control),
	// in the kernel's encoding. A copy of the route has them too.
	Extra string
}

// Default reports whether the route is a default route.
func (r Route) Default() bool { return r.Dst.Bits() == 0 }

// always reports whether the route is for packets of every type of service.
func (r Route) always() bool { return r.TOS == 0 }

// Values of a route's protocol and scope: rtnetlink(7).
const (
	protocolKernel = 2
	protocolBoot   = 3
	protocolStatic = 4
	protocolRA     = 9
	protocolDHCP   = 16
	scopeUniverse  = 0
	scopeLink      = 253
)

// Scope says which routes a look reads: a machine may have hundreds of thousands, and
// a plan needs few.
type Scope struct {
	// Tables are the route tables to read whole.
	Tables []int
	// Main are the indexes of links. A look reads main's unicast routes through them,
	// and main's other unicast routes to the same destinations.
	Main []int
	// To is an address: a look also reads main's routes that lead to it, through any
	// link. Not valid: none.
	To netip.Addr
}

// Forwards reports whether the machine forwards IPv4 packets that come in by some link.
func (s State) Forwards() bool {
	return slices.ContainsFunc(s.Links, func(l Link) bool { return l.Forwards })
}

// LinkNamed finds a link by its name.
func (s State) LinkNamed(name string) (Link, bool) {
	return find(s.Links, func(l Link) bool { return l.Name == name })
}

// LinkAt finds a link by its index.
func (s State) LinkAt(index int) (Link, bool) {
	return find(s.Links, func(l Link) bool { return l.Index == index })
}

// Has reports whether an interface has an address, with any prefix length.
func (s State) Has(index int, a netip.Addr) bool {
	_, ok := find(s.Addrs, func(h Addr) bool { return h.Link == index && h.Prefix.Addr() == a })
	return ok
}

func find[T any](all []T, is func(T) bool) (found T, ok bool) {
	for _, one := range all {
		if is(one) {
			return one, true
		}
	}
	return found, false
}
