package hooks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
)

// Addr is an IPv4 address of an interface.
type Addr struct {
	LinkIndex int
	Prefix    netip.Prefix // the address, and the length of its network
}

// KernelRule is an IPv4 rule as the kernel has it.
type KernelRule struct {
	iprule.Rule
	// Odd says that the rule looks at something that iprule.Rule does not
	// have (a port, a user, ...): then it is none that ec2net has made.
	Odd bool
	raw netlink.Rule
}

// Route is an IPv4 route to one interface.
type Route struct {
	Table     int
	LinkIndex int
	Dst       netip.Prefix // 0.0.0.0/0: the default route
	Metric    int
	raw       netlink.Route
}

// Kernel is the part of the running system that hooks read and change. Each
// method but Source is one netlink request (rtnetlink(7)), and a list again if it
// changed meanwhile.
type Kernel interface {
	Links() ([]Link, error)
	Addrs() ([]Addr, error)
	Rules() ([]KernelRule, error)
	Routes() ([]Route, error)
	Apply(Change) error
	// Source is the address that would be sent from to another one; not valid if
	// there is no way.
	Source(to netip.Addr) netip.Addr
}

// Netlink is the kernel of the network namespace that it was opened in.
type Netlink struct {
	handle *netlink.Handle
	// sockets is for the requests that the handle does not have.
	sockets map[int]*nl.SocketHandle
	// isENI says whether a veth counts as an ENI.
	isENI func(*netlink.LinkAttrs) bool
}

// OpenNetlink opens the sockets that all requests use.
func OpenNetlink() (*Netlink, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE) // to no group: a plain socket
	if err != nil {
		h.Close()
		return nil, err
	}
	return &Netlink{h, map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, udevCounts}, nil
}

// Close closes the sockets.
func (n *Netlink) Close() {
	n.handle.Close()
	n.sockets[unix.NETLINK_ROUTE].Close()
}

func (n *Netlink) rule(command, flags int, r iprule.Rule) error {
	req := ruleRequest(command, flags, r)
	req.Sockets = n.sockets
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// dump asks again when the kernel's list changed while it was read: the answer
// may lack entries then, which would look like entries to add.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 10
	for try := 1; ; try++ {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == tries {
			return all, err
		}
	}
}

// Links lists the interfaces.
func (n *Netlink) Links() ([]Link, error) {
	all, err := dump(n.handle.LinkList)
	if err != nil {
		return nil, err
	}
	links := make([]Link, len(all))
	for i, l := range all {
		a := l.Attrs()
		links[i] = Link{Name: a.Name, Index: a.Index, Group: int(a.Group), Up: a.RawFlags&unix.IFF_UP != 0,
			Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0}
		kind := l.Type()
		links[i].Device = kind == "device" || (kind == "veth" && a.MasterIndex == 0 && n.isENI(a))
		if len(a.HardwareAddr) == len(facts.MAC{}) {
			links[i].MAC = facts.MAC(a.HardwareAddr)
		}
	}
	return links, nil
}

// udevCounts says whether udev's database has the property of ENIs for an
// interface. A container's veth has not.
func udevCounts(l *netlink.LinkAttrs) bool {
	properties, err := os.ReadFile(fmt.Sprintf("/run/udev/data/n%d", l.Index))
	return err == nil && slices.Contains(strings.Split(string(properties), "\n"), "E:EC2NET_ENI=1")
}

// Addrs lists the IPv4 addresses of all interfaces.
func (n *Netlink) Addrs() ([]Addr, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return n.handle.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, err
	}
	addrs := make([]Addr, 0, len(all))
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			length, _ := a.Mask.Size()
			addrs = append(addrs, Addr{LinkIndex: a.LinkIndex, Prefix: netip.PrefixFrom(ip, length)})
		}
	}
	return addrs, nil
}

// Rules lists the IPv4 rules.
func (n *Netlink) Rules() ([]KernelRule, error) {
	all, err := dump(func() ([]netlink.Rule, error) { return n.handle.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return nil, err
	}
	rules := make([]KernelRule, len(all))
	for i, r := range all {
		rules[i] = fromNetlink(r)
	}
	return rules, nil
}

// Routes lists the IPv4 routes, of all tables, that lead to one interface.
func (n *Netlink) Routes() ([]Route, error) {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	all, err := dump(func() ([]netlink.Route, error) {
		return n.handle.RouteListFiltered(netlink.FAMILY_V4, every, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	var routes []Route
	for _, r := range all {
		if r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
			continue
		}
		dst := fromIPNet(r.Dst)
		if !dst.IsValid() {
			dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		routes = append(routes, Route{Table: r.Table, LinkIndex: r.LinkIndex, Dst: dst, Metric: r.Priority, raw: r})
	}
	return routes, nil
}

// Source has the kernel look for the way by all rules and tables; a UDP socket
// that is connected has sent nothing.
func (n *Netlink) Source(to netip.Addr) netip.Addr {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 80)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// Apply makes one change. What is there already, or is gone already, is no
// error: somebody else was quicker.
func (n *Netlink) Apply(c Change) error {
	err := c.apply(n)
	if c.takesAway() {
		// ENOENT: no such rule. EADDRNOTAVAIL: no such address. ESRCH: no such route.
		for _, gone := range []error{unix.ENOENT, unix.EADDRNOTAVAIL, unix.ESRCH} {
			if errors.Is(err, gone) {
				return nil
			}
		}
		return err
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
