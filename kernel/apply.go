package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// Apply makes one change. What is there already, or is gone already, is no
// error: somebody else was quicker.
func (k *Kernel) Apply(c plan.Change) error {
	if err := k.before(c.String()); err != nil {
		return err
	}
	return settled(c, k.apply(c))
}

func (k *Kernel) apply(c plan.Change) error {
	switch c := c.(type) {
	case plan.AddRule:
		return k.change(ruleRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, plan.Rule{Rule: c.Rule}))
	case plan.DelRule:
		return k.change(ruleRequest(unix.RTM_DELRULE, 0, c.Rule))
	case plan.AddAddr:
		return k.change(addrRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.Link, c.Addr))
	case plan.DelAddr:
		return k.change(addrRequest(unix.RTM_DELADDR, 0, c.Link, c.Addr))
	case plan.SetGroup:
		return k.setGroup(c)
	case plan.AddRoute:
		return k.change(routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.Route))
	case plan.DelRoute:
		return k.change(routeRequest(unix.RTM_DELROUTE, 0, c.Route))
	case plan.MoveRoute:
		return k.moveRoute(c)
	case plan.DropFlows:
		return dropFlows(c)
	}
	return fmt.Errorf("%T is no change that the kernel can make", c)
}

func (k *Kernel) change(req *nl.NetlinkRequest) error { return k.route.do(req, nil) }

// settled forgets an error that says that a change has been made already.
func settled(c plan.Change, err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	if !c.Removes() && errno == unix.EEXIST {
		return nil
	}
	// ENOENT: no such rule. EADDRNOTAVAIL: no such address. ESRCH: no such route.
	// ENODEV: no such interface.
	if c.Removes() && (errno == unix.ENOENT || errno == unix.EADDRNOTAVAIL || errno == unix.ESRCH || errno == unix.ENODEV) {
		return nil
	}
	return err
}

func addrRequest(command, flags int, l plan.Link, a netip.Prefix) *nl.NetlinkRequest {
	req := request(command, flags|unix.NLM_F_ACK, addrHeader(familyOf(a.Addr()), a.Bits(), l.Index))
	add(req, unix.IFA_LOCAL, a.Addr().AsSlice())
	add(req, unix.IFA_ADDRESS, a.Addr().AsSlice())
	return req
}

func (k *Kernel) setGroup(c plan.SetGroup) error {
	header := make([]byte, unix.SizeofIfInfomsg)
	copy(header[4:], uint32s(c.Link.Index))
	req := request(unix.RTM_SETLINK, unix.NLM_F_ACK, header)
	addNumber(req, unix.IFLA_GROUP, c.Group)
	return k.change(req)
}

func routeRequest(command, flags int, r plan.Route) *nl.NetlinkRequest {
	header := []byte{byte(familyOf(r.Dst.Addr())), byte(r.Dst.Bits()), 0, 0,
		unix.RT_TABLE_UNSPEC, byte(r.Protocol), byte(r.Scope), unix.RTN_UNICAST}
	own := 0
	if r.OnLink {
		own = unix.RTNH_F_ONLINK
	}
	req := request(command, flags|unix.NLM_F_ACK, append(header, uint32s(own)...))
	if r.Dst.Bits() > 0 {
		add(req, unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	addNumber(req, unix.RTA_TABLE, r.Table)
	addNumber(req, unix.RTA_OIF, r.Link)
	switch {
	case !r.Gateway.IsValid():
	case familyOf(r.Gateway) == familyOf(r.Dst.Addr()):
		add(req, unix.RTA_GATEWAY, r.Gateway.AsSlice())
	default:
		via := append([]byte{byte(familyOf(r.Gateway)), 0}, r.Gateway.AsSlice()...) // struct rtvia, below 256
		add(req, unix.RTA_VIA, via)
	}
	if r.Source.IsValid() {
		add(req, unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.Metric != 0 {
		addNumber(req, unix.RTA_PRIORITY, r.Metric)
	}
	return req
}

func (k *Kernel) moveRoute(c plan.MoveRoute) error {
	to := c.Route
	to.Metric = c.Metric
	err := k.change(routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, to))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return settled(plan.DelRoute{Route: c.Route}, k.change(routeRequest(unix.RTM_DELROUTE, 0, c.Route)))
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
