package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
)

// Change is one step from what the kernel has to what it should have. It is plain
// data: String returns the command of ip(8) that would do the same, and package
// kernel applies it.
type Change interface {
	fmt.Stringer
	// Removes reports whether the change removes something.
	Removes() bool
	// Of returns the interface that the change is about; empty for the whole machine.
	Of() string
}

// AddRule adds a rule for the ENI with this name.
type AddRule struct {
	ENI  string
	Rule iprule.Rule
}

func (c AddRule) String() string { return ip(c.Rule.Is6()) + "rule add " + c.Rule.String() }

// Removes is false.
func (AddRule) Removes() bool { return false }

// Of is the ENI.
func (c AddRule) Of() string { return c.ENI }

// DelRule deletes a rule.
type DelRule struct {
	ENI  string
	Rule Rule
}

func (c DelRule) String() string { return ip(c.Rule.Is6()) + "rule del " + c.Rule.String() }

// Removes is true.
func (DelRule) Removes() bool { return true }

// Of is the ENI.
func (c DelRule) Of() string { return c.ENI }

// AddAddr gives an interface an address.
type AddAddr struct {
	Link Link
	Addr netip.Prefix
}

func (c AddAddr) String() string {
	return fmt.Sprintf("ip addr add %s dev %s", c.Addr, nameWord(c.Link.Name))
}

// Removes is false.
func (AddAddr) Removes() bool { return false }

// Of is the interface.
func (c AddAddr) Of() string { return c.Link.Name }

// DelAddr removes an address from an interface.
type DelAddr struct {
	Link Link
	Addr netip.Prefix
}

func (c DelAddr) String() string {
	return fmt.Sprintf("ip addr del %s dev %s", c.Addr, nameWord(c.Link.Name))
}

// Removes is true.
func (DelAddr) Removes() bool { return true }

// Of is the interface.
func (c DelAddr) Of() string { return c.Link.Name }

// SetGroup puts an interface into an interface group.
type SetGroup struct {
	Link  Link
	Group int
}

func (c SetGroup) String() string {
	return fmt.Sprintf("ip link set dev %s group %d", nameWord(c.Link.Name), c.Group)
}

// Removes is false.
func (SetGroup) Removes() bool { return false }

// Of is the interface.
func (c SetGroup) Of() string { return c.Link.Name }

// SetLoose makes the reverse path filter of an interface loose: net.ipv4.conf.NAME.rp_filter
// is 2 then.
type SetLoose struct{ Link Link }

func (c SetLoose) String() string {
	return fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", nameWord(c.Link.Name))
}

// Removes is false.
func (SetLoose) Removes() bool { return false }

// Of is the interface.
func (c SetLoose) Of() string { return c.Link.Name }

// DisableIPv6 switches IPv6 off on an interface, by net.ipv6.conf.NAME.disable_ipv6=1. The
// kernel drops the IPv6 addresses and routes of the interface, and lets nobody add one.
type DisableIPv6 struct{ Link Link }

func (c DisableIPv6) String() string {
	return fmt.Sprintf("sysctl -w net.ipv6.conf.%s.disable_ipv6=1", nameWord(c.Link.Name))
}

// Removes is false.
func (DisableIPv6) Removes() bool { return false }

// Of is the interface.
func (c DisableIPv6) Of() string { return c.Link.Name }

// AddRoute adds a route through an interface, or one that needs none.
type AddRoute struct {
	ENI   string
	Link  Link
	Route Route
	// Append adds the route behind others with the same destination and metric.
	// Without Append nothing is added if there is one.
	Append bool
}

func (c AddRoute) String() string {
	if c.Append {
		return routeText("append", c.Link, c.Route)
	}
	return routeText("add", c.Link, c.Route)
}

// Removes is false.
func (AddRoute) Removes() bool { return false }

// Of is the ENI.
func (c AddRoute) Of() string { return c.ENI }

// DelRoute deletes a route.
type DelRoute struct {
	ENI   string
	Link  Link
	Route Route
}

func (c DelRoute) String() string { return routeText("del", c.Link, c.Route) }

// Removes is true.
func (DelRoute) Removes() bool { return true }

// Of is the ENI.
func (c DelRoute) Of() string { return c.ENI }

// MoveRoute gives a route another metric. The kernel cannot change a metric, so this
// adds the new route and then deletes the old one: there is always one. If adding
// fails, the old one stays.
type MoveRoute struct {
	ENI    string
	Link   Link
	Route  Route // as it is
	Metric int   // as it should be
}

func (c MoveRoute) String() string {
	to := c.Route
	to.Metric = c.Metric
	return routeText("append", c.Link, to) + " && " + routeText("del", c.Link, c.Route)
}

// Removes is false: the deleted route has a replacement.
func (MoveRoute) Removes() bool { return false }

// Of is the ENI.
func (c MoveRoute) Of() string { return c.ENI }

// DropFlows makes conntrack forget the connections with an ENI's mark. A container may
// still send in them; its packets would leave by another ENI, from an address of the
// one that is gone.
type DropFlows struct {
	ENI        string
	Mark, Mask facts.Mark
}

func (c DropFlows) String() string { return fmt.Sprintf("conntrack -D --mark %v/%v", c.Mark, c.Mask) }

// Removes is true.
func (DropFlows) Removes() bool { return true }

// Of is the ENI.
func (c DropFlows) Of() string { return c.ENI }

// ip returns the command, with the family if it has to be named.
func ip(six bool) string {
	if six {
		return "ip -6 "
	}
	return "ip "
}

func routeText(verb string, l Link, r Route) string {
	dst := r.Dst.String()
	if r.Default() {
		dst = "default"
	}
	kind := ""
	if r.Kind != iproute.Unicast {
		kind = r.Kind.String() + " "
	}
	return fmt.Sprintf("%sroute %s %s%s%s", ip(r.Dst.Addr().Is6()), verb, kind, dst, routeWords(l, r))
}

// routeWords spells a route without its destination.
func routeWords(l Link, r Route) string {
	var b strings.Builder
	word := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	more, _ := extraText(r.Extra, l)
	if r.TOS != 0 {
		word("tos %#x", r.TOS)
	}
	if !namesHops(more) {
		if r.Gateway.IsValid() && r.Gateway.Is6() != r.Dst.Addr().Is6() {
			word("via inet6 %s", r.Gateway)
		} else if r.Gateway.IsValid() {
			word("via %s", r.Gateway)
		}
		if r.Kind == iproute.Unicast {
			word("dev %s", nameWord(l.Name))
		}
	}
	if r.Source.IsValid() {
		word("src %s", r.Source)
	}
	if r.Metric != 0 {
		word("metric %d", r.Metric)
	}
	if r.Table != iprule.MainTable {
		word("table %d", r.Table)
	}
	if name, ok := protocolNames[r.Protocol]; ok {
		word("proto %s", name)
	} else if r.Protocol != 0 && r.Protocol != protocolBoot {
		word("proto %d", r.Protocol)
	}
	if usual := usualScope(r, more); r.Scope != usual {
		word("scope %s", cmp.Or(scopeNames[r.Scope], strconv.Itoa(r.Scope)))
	}
	if r.OnLink {
		word("onlink")
	}
	return b.String() + more
}

// usualScope returns the scope that ip(8) gives a route without the word scope. more are the
// words of its Extra.
func usualScope(r Route, more string) int {
	if r.Kind == iproute.Unicast && r.Dst.Addr().Is4() && !r.Gateway.IsValid() && !namesHops(more) {
		return scopeLink
	}
	return scopeUniverse
}

var scopeNames = map[int]string{scopeUniverse: "global", 200: "site", scopeLink: "link", 254: "host"}

// protocolNames are the names that ip(8) has for protocols. Boot is the one that it gives
// a route.
var protocolNames = map[int]string{protocolKernel: "kernel", protocolStatic: "static", protocolRA: "ra", protocolDHCP: "dhcp"}
