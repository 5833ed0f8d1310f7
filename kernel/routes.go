package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ec2net/iprule"
	"ec2net/plan"
)

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
	var routes []plan.Route
	err := k.again("routes", func() error {
		routes = nil
		return k.dumpRoutes(family, 0, 0, func(r plan.Route, _ []byte) {
			if wanted == nil || wanted(r) {
				routes = append(routes, r)
			}
		})
	})
	return routes, err
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
	if table != 0 && err == unix.ENOENT {
		return nil // there is no such table
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
