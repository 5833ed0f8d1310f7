package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/iprule"
	"ec2net/plan"
)

const nextHop = 30 // RTA_NH_ID of linux/rtnetlink.h

// within reports which routes are in a scope.
func within(s plan.Scope) func(plan.Route) bool {
	return func(r plan.Route) bool {
		if slices.Contains(s.Tables, r.Table) {
			return true
		}
		return r.Table == iprule.MainTable &&
			(slices.Contains(s.Main, r.Link) || s.To.IsValid() && r.Dst.Contains(s.To))
	}
}

// routes lists the unicast routes that lead to one interface, in the kernel's
// order; those that are wanted, or all with nil.
func (k *Kernel) routes(family int, wanted func(plan.Route) bool) ([]plan.Route, error) {
	all, _, err := list(k, "routes", func(each func(plan.Route)) error {
		return k.dumpRoutes(family, 0, 0, func(r plan.Route, _ []byte) {
			if wanted == nil || wanted(r) {
				each(r)
			}
		})
	})
	return all, err
}

// dumpRoutes lists the routes of a table that lead to an interface; of all tables,
// to any, with 0. each gets the kernel's message as well.
func (k *Kernel) dumpRoutes(family, table, link int, each func(plan.Route, []byte)) error {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = byte(family)
	req := request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header)
	if k.route.strict {
		header[7] = unix.RTN_UNICAST
		if table != 0 {
			addNumber(req, unix.RTA_TABLE, table)
		}
		if link != 0 {
			addNumber(req, unix.RTA_OIF, link)
		}
	}
	err := k.route.do(req, func(data []byte) {
		r, ok := route(data)
		if ok && (table == 0 || r.Table == table) && (link == 0 || r.Link == link) {
			each(r, data)
		}
	})
	if table != 0 && errors.Is(err, unix.ENOENT) || link != 0 && errors.Is(err, unix.ENODEV) {
		return nil // there is no such table, or no such interface
	}
	return err
}

// route reads a message of RTM_NEWROUTE: struct rtmsg and RTA_ attributes. It is
// false for what is no unicast route to one interface, and for one that depends on
// the type of service.
func route(data []byte) (plan.Route, bool) {
	if len(data) < unix.SizeofRtMsg {
		return plan.Route{}, false
	}
	family, length, tos, kind := data[0], int(data[1]), data[3], data[7]
	flags := binary.NativeEndian.Uint32(data[8:])
	if kind != unix.RTN_UNICAST || tos != 0 || flags&unix.RTM_F_CLONED != 0 {
		return plan.Route{}, false
	}
	r := plan.Route{Table: int(data[4]), Protocol: int(data[5]), Scope: int(data[6]), OnLink: flags&unix.RTNH_F_ONLINK != 0}
	dst := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for attr, value := range attributes(data[unix.SizeofRtMsg:]) {
		switch attr {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			r.Link = number(value)
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(value)
		case unix.RTA_VIA: // a gateway of the other family: struct rtvia
			if len(value) > 2 {
				r.Gateway, _ = netip.AddrFromSlice(value[2:])
			}
		case unix.RTA_PRIORITY:
			r.Metric = number(value)
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(value)
		case unix.RTA_TABLE:
			r.Table = number(value)
		}
	}
	r.Dst = netip.PrefixFrom(dst, length)
	return r, r.Link != 0 && r.Dst.IsValid()
}

// routeRequest is a request to add a route.
func routeRequest(r plan.Route) *nl.NetlinkRequest {
	flags := 0
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	header := append([]byte{byte(familyOf(r.Dst.Addr())), byte(r.Dst.Bits()), 0, 0,
		unix.RT_TABLE_UNSPEC, byte(r.Protocol), byte(r.Scope), unix.RTN_UNICAST}, uint32s(flags)...)
	req := request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, header)
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
		family := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(r.Gateway)))
		add(req, unix.RTA_VIA, append(family, r.Gateway.AsSlice()...)) // struct rtvia
	}
	if r.Source.IsValid() {
		add(req, unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.Metric != 0 {
		addNumber(req, unix.RTA_PRIORITY, r.Metric)
	}
	return req
}

// routeAgain sends a route back to the kernel as the kernel has sent it, with a
// metric.
func routeAgain(command, flags int, message []byte, metric int) *nl.NetlinkRequest {
	header := slices.Clone(message[:unix.SizeofRtMsg])
	// Others, such as "linkdown" of an interface without carrier, are no input.
	own := binary.NativeEndian.Uint32(header[8:]) & unix.RTNH_F_ONLINK
	binary.NativeEndian.PutUint32(header[8:], own)
	req := request(command, flags|unix.NLM_F_ACK, header)
	byNumber := false // a nexthop object, whose interface and gateway are listed too
	for attr := range attributes(message[unix.SizeofRtMsg:]) {
		byNumber = byNumber || attr == nextHop
	}
	for attr, value := range attributes(message[unix.SizeofRtMsg:]) {
		switch attr {
		case unix.RTA_PRIORITY, unix.RTA_CACHEINFO:
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA:
			if !byNumber {
				add(req, int(attr), value)
			}
		case unix.RTA_METRICS:
			add(req, unix.RTA_METRICS|unix.NLA_F_NESTED, value)
		default:
			add(req, int(attr), value)
		}
	}
	if metric != 0 {
		addNumber(req, unix.RTA_PRIORITY, metric)
	}
	return req
}
