package hooks

import (
	"fmt"
	"net/netip"

	"ec2net/iprule"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Change is one step of a plan. Its text is the command that would do the
// same: "ip rule add pref 1001 ...".
type Change interface {
	fmt.Stringer
	apply(*Netlink) error
	takesAway() bool
}

type addRule struct{ rule iprule.Rule }

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
	addr := &netlink.Addr{IPNet: toIPNet(c.addr)}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: c.link.Name, Index: c.link.Index}}
	if c.add {
		return n.handle.AddrAdd(link, addr)
	}
	return n.handle.AddrDel(link, addr)
}

// dropFlows makes conntrack forget the connections with an ENI's mark. What a
// container still sends in them would leave by another ENI, in the name of one
// that is gone.
type dropFlows struct{ mark, mask uint32 }

func (c dropFlows) String() string  { return fmt.Sprintf("conntrack -D --mark %#x/%#x", c.mark, c.mask) }
func (c dropFlows) takesAway() bool { return true }
func (c dropFlows) apply(*Netlink) error {
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, c)
	return err
}

// MatchConntrackFlow is how netlink asks.
func (c dropFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Mark&c.mask == c.mark
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
	table  int // 0: the one that it is in
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
	if c.route.raw.Gw != nil {
		dst += " via " + c.route.raw.Gw.String()
	}
	text := fmt.Sprintf("ip route %s %s dev %s", word, dst, c.link.Name)
	if c.metric != 0 {
		text += fmt.Sprintf(" metric %d", c.metric)
	}
	if c.table != 0 {
		text += fmt.Sprintf(" table %d", c.table)
	}
	return text
}
func (c changeRoute) takesAway() bool { return !c.add }
func (c changeRoute) apply(n *Netlink) error {
	route := c.route.raw
	route.Flags = 0 // "linkdown" of an interface without carrier is no input
	route.Priority = c.metric
	if c.table != 0 {
		route.Table = c.table
	}
	if c.add {
		return n.handle.RouteAdd(&route)
	}
	return n.handle.RouteDel(&route)
}
