package hooks

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/render"
)

// Change is one step of a plan. Its text is the command that would do the
// same: "ip rule add pref 1001 ...".
type Change interface {
	fmt.Stringer
	apply(*Netlink) error
	takesAway() bool
}

type addRule struct{ rule render.Rule }

func (c addRule) String() string  { return "ip rule add " + c.rule.String() }
func (c addRule) takesAway() bool { return false }
func (c addRule) apply(n *Netlink) error {
	return n.rule(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.rule)
}

type deleteRule struct{ rule KernelRule }

func (c deleteRule) String() string  { return "ip rule del " + c.rule.String() }
func (c deleteRule) takesAway() bool { return true }
func (c deleteRule) apply(n *Netlink) error {
	if c.rule.Odd {
		return n.handle.RuleDel(&c.rule.raw)
	}
	return n.rule(unix.RTM_DELRULE, 0, c.rule.Rule)
}

type changeAddr struct {
	link Link
	addr netip.Prefix
	add  bool
}

func (c changeAddr) String() string {
	word := "del"
	if c.add {
		word = "add"
	}
	return fmt.Sprintf("ip addr %s %s dev %s", word, c.addr, c.link.Name)
}
func (c changeAddr) takesAway() bool { return !c.add }
func (c changeAddr) apply(n *Netlink) error {
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: c.addr.Addr().AsSlice(), Mask: net.CIDRMask(c.addr.Bits(), 32)}}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: c.link.Name, Index: c.link.Index}}
	if c.add {
		return n.handle.AddrAdd(link, addr)
	}
	return n.handle.AddrDel(link, addr)
}

type setGroup struct {
	link  Link
	group int
}

func (c setGroup) String() string {
	return fmt.Sprintf("ip link set dev %s group %d", c.link.Name, c.group)
}
func (c setGroup) takesAway() bool { return false }
func (c setGroup) apply(n *Netlink) error {
	return n.handle.LinkSetGroup(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: c.link.Name, Index: c.link.Index}}, c.group)
}

type changeRoute struct {
	link   Link
	route  Route
	metric int
	add    bool
}

func (c changeRoute) String() string {
	word := "del"
	if c.add {
		word = "add"
	}
	dst := c.route.Dst.String()
	if c.route.Dst.Bits() == 0 {
		dst = "default"
	}
	return fmt.Sprintf("ip route %s %s dev %s metric %d", word, dst, c.link.Name, c.metric)
}
func (c changeRoute) takesAway() bool { return !c.add }
func (c changeRoute) apply(n *Netlink) error {
	route := c.route.raw
	route.Priority = c.metric
	if c.add {
		return n.handle.RouteAdd(&route)
	}
	return n.handle.RouteDel(&route)
}

// Actual is what the kernel has, as far as a plan looks at it.
type Actual struct {
	Links []Link
	Addrs []Addr
	Rules []KernelRule
	// Routes are those of the main table.
	Routes []Route
}

// Wanted is what one ENI is to have.
type Wanted struct {
	ENI facts.ENI
	// Rules are those of the ENI; none takes them all away.
	Rules []render.Rule
	// Own are the addresses that were the ENI's at the last time, and so may
	// be taken from the interface; Addrs are those that it has now; nil leaves
	// the addresses alone. Lease is that of the DHCP client, which is its own.
	Own, Addrs []netip.Addr
	Lease      netip.Addr
	// Known are the ENIs of this machine as far as known, the primary too.
	Known Known
}

// Known is what is known of all ENIs of the machine.
type Known struct {
	Base    int
	Primary facts.MAC // zero: not known
	MACs    []facts.MAC
	// Numbers are the tables, metrics and priorities of the ENIs other than
	// the primary, by their MACs.
	Numbers map[facts.MAC]int
}

func (k Known) has(number int) bool {
	for _, n := range k.Numbers {
		if n == number {
			return true
		}
	}
	return false
}

// links are the interfaces of the known ENIs. A bridge, bond or VLAN on top of
// an ENI has its MAC too; the ENI was there first, and comes first in the list.
func (k Known) links(all []Link) []Link {
	var found []Link
	for _, l := range all {
		if slices.Contains(k.MACs, l.MAC) && !slices.ContainsFunc(found, func(f Link) bool { return f.MAC == l.MAC }) {
			found = append(found, l)
		}
	}
	return found
}

// plan finds what leads from the actual to the wanted: what is missing before
// what is too much, so that nothing is without a rule in between. Rules and
// addresses of others are not in it.
func plan(actual Actual, want Wanted) []Change {
	changes := planGroups(actual.Links, want.Known)
	changes = append(changes, planAddrs(actual, want)...)
	changes = append(changes, planRoutes(actual, want.Known)...)
	return append(changes, planRules(actual, want)...)
}

func planGroups(links []Link, known Known) []Change {
	var changes []Change
	for _, l := range known.links(links) {
		if l.Group == 0 {
			changes = append(changes, setGroup{l, known.Base})
		}
	}
	return changes
}

func planAddrs(actual Actual, want Wanted) []Change {
	if want.Addrs == nil {
		return nil
	}
	link, ok := linkNamed(actual.Links, want.ENI.Name)
	if !ok {
		return nil
	}
	var there []Addr
	for _, a := range actual.Addrs {
		if a.LinkIndex == link.Index {
			there = append(there, a)
		}
	}
	var add, del []Change
	for _, a := range want.Addrs {
		if a != want.Lease && !slices.ContainsFunc(there, func(t Addr) bool { return t.Prefix.Addr() == a }) {
			// /32: the address does not hang on the leased one, as one of the
			// same network would, and brings no route of its own.
			add = append(add, changeAddr{link, netip.PrefixFrom(a, 32), true})
		}
	}
	for _, t := range there {
		a := t.Prefix.Addr()
		if a != want.Lease && slices.Contains(want.Own, a) && !slices.Contains(want.Addrs, a) {
			del = append(del, changeAddr{link, t.Prefix, false})
		}
	}
	return append(add, del...)
}

// planRoutes puts routes of the other ENIs behind those that the primary has to
// the same place: its subnet, and all the world. On one subnet both have the
// kernel's own route with metric 0, of which the older one wins, so that the
// order turns when the primary's lease is bound anew; and dhcpcd gives the
// primary a metric of its own choice, perhaps above that of the stanza.
func planRoutes(actual Actual, known Known) []Change {
	var changes []Change
	best := make(map[netip.Prefix]int) // the primary's metric
	links := known.links(actual.Links)
	for _, l := range links {
		for _, r := range actual.Routes {
			if l.MAC != known.Primary || r.LinkIndex != l.Index {
				continue
			}
			if m, ok := best[r.Dst]; !ok || r.Metric < m {
				best[r.Dst] = r.Metric
			}
		}
	}
	for _, l := range links {
		number, ours := known.Numbers[l.MAC]
		if !ours {
			continue
		}
		for _, r := range actual.Routes {
			first, shared := best[r.Dst]
			if r.LinkIndex != l.Index || !shared || r.Metric > first {
				continue
			}
			behind := number
			if behind <= first {
				behind = first + number - known.Base
			}
			changes = append(changes, changeRoute{l, r, behind, true}, changeRoute{l, r, r.Metric, false})
		}
	}
	return changes
}

func planRules(actual Actual, want Wanted) []Change {
	var add, del []Change
	var there []render.Rule
	others := false
	group := groupRule(want.Known.Base)
	hasGroup := false
	for _, k := range actual.Rules {
		number := want.ENI.Priority
		switch {
		case k.Priority == number && k.Table == number:
			if k.Odd || !slices.Contains(want.Rules, k.Rule) || slices.Contains(there, k.Rule) {
				del = append(del, deleteRule{k})
			} else {
				there = append(there, k.Rule)
			}
		case k.Priority == k.Table && want.Known.has(k.Table):
			others = true
		case isGroupRule(k, want.Known.Base):
			if k.Rule == group && !hasGroup {
				hasGroup = true
			} else {
				del = append(del, deleteRule{k})
			}
		}
	}
	for _, r := range want.Rules {
		if !slices.Contains(there, r) {
			add = append(add, addRule{r})
		}
	}
	switch {
	case len(want.Rules) > 0 && !hasGroup && groupComplete(actual, want.Known):
		// Before the ENI's own rules, which it goes together with.
		add = append([]Change{addRule{group}}, add...)
	case len(want.Rules) == 0 && hasGroup && !others:
		for _, k := range actual.Rules {
			if k.Rule == group {
				del = append(del, deleteRule{k})
				break
			}
		}
	}
	return append(add, del...)
}

// groupRule takes main's answer when it leads to anything that is not an ENI
// (docker0, a VPN), and leaves the rest to the rules of the ENIs: it drops what
// leads to a member of the group, and default routes, also one in two halves.
func groupRule(base int) render.Rule {
	return render.Rule{Priority: base - 1, Table: unix.RT_TABLE_MAIN, Protocol: render.RuleProtocol,
		SuppressPrefixLength: 1, SuppressGroup: base}
}

// isGroupRule says whether a rule is the group rule, perhaps in another shape.
func isGroupRule(k KernelRule, base int) bool {
	return k.Priority == base-1 && k.Table == unix.RT_TABLE_MAIN && k.SuppressGroup == base
}

// groupComplete says whether every ENI is in the group, or will be by the same
// plan. Without the primary the group rule would lead answers out by it.
func groupComplete(actual Actual, known Known) bool {
	found := false
	for _, l := range known.links(actual.Links) {
		if l.Group != 0 && l.Group != known.Base {
			return false // somebody else's group: respected
		}
		found = found || l.MAC == known.Primary
	}
	return found
}

func linkNamed(links []Link, name string) (Link, bool) {
	for _, l := range links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}
