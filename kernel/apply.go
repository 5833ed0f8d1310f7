package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// Apply makes one change. To add a thing that exists, or delete one that is gone, is
// no error: somebody else was quicker.
func (k *Kernel) Apply(c plan.Change) error {
	switch c := c.(type) {
	case plan.AddRule:
		return k.addRule(c)
	case plan.DelRule:
		return k.delRule(c)
	case plan.AddAddr:
		return k.change(c, addrRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.Link, c.Addr))
	case plan.DelAddr:
		return k.change(c, addrRequest(unix.RTM_DELADDR, 0, c.Link, c.Addr))
	case plan.SetGroup:
		return k.change(c, groupRequest(c.Link, c.Group))
	case plan.SetLoose:
		return k.change(c, looseRequest(c.Link))
	case plan.DisableIPv6:
		return k.disableIPv6(c)
	case plan.AddRoute:
		return k.addRoute(c)
	case plan.DelRoute:
		return k.delRoute(c)
	case plan.MoveRoute:
		return k.moveRoute(c)
	case plan.DropFlows:
		if err := k.before(c.String()); err != nil {
			return err
		}
		return dropFlows(c)
	}
	return fmt.Errorf("the kernel cannot make a change of type %T", c)
}

// change makes a change, or a part of one, with one request.
func (k *Kernel) change(c plan.Change, req *nl.NetlinkRequest) error {
	if err := k.before(c.String()); err != nil {
		return err
	}
	err := k.route.do(req, nil)
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

func groupRequest(l plan.Link, group int) *nl.NetlinkRequest {
	req := request(unix.RTM_SETLINK, unix.NLM_F_ACK, linkHeader(l.Index))
	addNumber(req, unix.IFLA_GROUP, group)
	return req
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
