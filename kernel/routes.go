package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/plan"
)

const nextHop = 30 // RTA_NH_ID of linux/rtnetlink.h

// selection passes on those routes of a list that are in a scope. It relies on the
// kernel, which lists the routes to one destination one after the other.
type selection struct {
	scope plan.Scope
	each  func(plan.Route)
	// together are main's routes to the current destination; wanted says that one of
	// them is in the scope, and so all of them are.
	together []plan.Route
	wanted   bool
}

func (s *selection) add(r plan.Route) {
	if slices.Contains(s.scope.Tables, r.Table) {
		s.each(r)
		return
	}
	if r.Table != iprule.MainTable || r.Kind != iproute.Unicast {
		return
	}
	if len(s.together) > 0 && s.together[0].Dst != r.Dst {
		s.end()
	}
	s.together = append(s.together, r)
	s.wanted = s.wanted || slices.Contains(s.scope.Main, r.Link) || s.scope.To.IsValid() && r.Dst.Contains(s.scope.To)
}

// end passes on the routes to the current destination, if they are wanted.
func (s *selection) end() {
	for _, r := range s.together {
		if s.wanted {
			s.each(r)
		}
	}
	s.together, s.wanted = s.together[:0], false
}

// routes lists the unicast routes with one interface and those of other kinds, in the
// kernel's order; those of a scope, or all if scope is nil. Outside of main it also lists the
// routes with several interfaces, whose Link is 0, and as hops the routes by each of these.
func (k *Kernel) routes(family int, scope *plan.Scope) (all, hops []plan.Route, err error) {
	listed, _, err := list(k, "routes", func(each func(listed)) error {
		pass := func(r plan.Route) { each(listed{Route: r}) }
		s := selection{each: pass}
		if scope != nil {
			s.scope, pass = *scope, s.add
		}
		err := k.dumpRoutes(family, 0, 0, func(o listed) {
			if !o.hop {
				pass(o.Route)
			} else if scope == nil || slices.Contains(scope.Tables, o.Table) {
				each(o)
			}
		})
		s.end()
		return err
	})
	for _, o := range listed {
		if o.hop {
			hops = append(hops, o.Route)
		} else {
			all = append(all, o.Route)
		}
	}
	return all, hops, err
}

// listed is a route of a list, or a hop: one gateway of a route with several interfaces, as
// a route. A request that names the hop may delete the route.
type listed struct {
	plan.Route
	hop bool
}

// dumpRoutes lists the routes of a table through a link. A table of 0 is every table, a
// link of 0 every link.
func (k *Kernel) dumpRoutes(family, table, link int, each func(listed)) error {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = byte(family)
	req := request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header)
	if k.route.strict {
		if table != 0 {
			addNumber(req, unix.RTA_TABLE, table)
		}
		if link != 0 {
			addNumber(req, unix.RTA_OIF, link)
		}
	}
	asked := func(o listed) {
		if link == 0 || o.Link == link {
			each(o)
		}
	}
	err := k.route.do(req, func(data []byte) {
		switch r, ok := route(data); {
		case table != 0 && r.Table != table:
		case ok:
			asked(listed{Route: r})
		default:
			several(r, int(data[0]), asked)
		}
	})
	if table != 0 && errors.Is(err, unix.ENOENT) || link != 0 && errors.Is(err, unix.ENODEV) {
		return nil // there is no such table, or no such interface
	}
	return err
}

// route reads a message of RTM_NEWROUTE: struct rtmsg and RTA_ attributes. Attributes
// that plan.Route has no field for go into Extra as they are. So do several gateways, of
// which the first becomes the route's if they have one interface. route reports false for a
// unicast route with several interfaces, for local, broadcast and multicast ones, and for one
// that depends on the source.
func route(data []byte) (plan.Route, bool) {
	r, ok := routeHeader(data)
	if !ok {
		return plan.Route{}, false
	}
	var extra, hops []byte
	dst := netip.IPv4Unspecified()
	if data[0] == unix.AF_INET6 {
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
			r.Gateway, _ = netip.AddrFromSlice(value[min(2, len(value)):])
		case unix.RTA_PRIORITY:
			r.Metric = number(value)
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(value)
		case unix.RTA_TABLE:
			r.Table = number(value)
		case unix.RTA_MULTIPATH:
			hops = value
		case unix.RTA_CACHEINFO: // counters
		default:
			if attr == unix.RTA_PREF && number(value) == 0 {
				continue // medium, the default of every IPv6 route
			}
			extra = append(extra, nl.NewRtAttr(int(attr), value).Serialize()...)
		}
	}
	if hops != nil {
		hops, r.Link, r.Gateway = gateways(hops)
	}
	if hops != nil && !namesHops(extra) { // with a nexthop object they are the object's
		extra = append(extra, nl.NewRtAttr(unix.RTA_MULTIPATH, hops).Serialize()...)
	}
	r.Dst, r.Extra = netip.PrefixFrom(dst, int(data[1])), string(extra)
	return r, (r.Link != 0) == (r.Kind == iproute.Unicast) && r.Dst.IsValid()
}

// routeHeader reads struct rtmsg. It reports false for a kind of route that plan does not
// know, and for one that depends on the source or is cached.
func routeHeader(data []byte) (plan.Route, bool) {
	if len(data) < unix.SizeofRtMsg {
		return plan.Route{}, false
	}
	kind, known := kindOf(data[7])
	flags := binary.NativeEndian.Uint32(data[8:])
	r := plan.Route{Kind: kind, Table: int(data[4]), Protocol: int(data[5]), Scope: int(data[6]), OnLink: flags&unix.RTNH_F_ONLINK != 0, TOS: int(data[3])}
	return r, known && data[2] == 0 && flags&unix.RTM_F_CLONED == 0
}

// gateways reads RTA_MULTIPATH: struct rtnexthop and attributes for each gateway. It returns
// the gateways with the configured flags alone (not, for example, that a link is down), their
// interface, and the first gateway; no interface and no gateway if they have several
// interfaces.
func gateways(value []byte) (plain []byte, link int, first netip.Addr) {
	plain = slices.Clone(value)
	several := false
	for rest := plain; len(rest) >= unix.SizeofRtNexthop; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtNexthop || length > len(rest) {
			return nil, 0, netip.Addr{}
		}
		rest[2] &= unix.RTNH_F_ONLINK
		index := number(rest[4:8])
		if len(rest) == len(plain) {
			link = index
			first, _ = netip.AddrFromSlice(attribute(rest[unix.SizeofRtNexthop:length], unix.RTA_GATEWAY))
		}
		several = several || index != link
		rest = rest[min(aligned(length), len(rest)):]
	}
	if several {
		return plain, 0, netip.Addr{}
	}
	return plain, link, first
}

// several passes a unicast route with several interfaces to each: outside of main the route
// itself, with Link 0, and everywhere the hops by which a request would delete it. Those are
// the first gateway of an IPv4 route, and every gateway of an IPv6 route: fib_nh_match of
// net/ipv4/fib_semantics.c, ip6_route_del of net/ipv6/route.c. No request that names an
// interface deletes a route that uses a nexthop object.
func several(r plan.Route, family int, each func(listed)) {
	if r.Kind != iproute.Unicast || r.Link != 0 || !namesHops([]byte(r.Extra)) {
		return
	}
	if r.Table != iprule.MainTable {
		each(listed{Route: r})
	}
	var extra, rest []byte
	for attr, value := range attributes([]byte(r.Extra)) {
		if attr == unix.RTA_MULTIPATH {
			rest = value
		} else {
			extra = append(extra, nl.NewRtAttr(int(attr), value).Serialize()...)
		}
	}
	for r.Extra = string(extra); len(rest) >= unix.SizeofRtNexthop; {
		length := int(binary.NativeEndian.Uint16(rest)) // gateways has checked it
		r.Link, r.Gateway = number(rest[4:8]), netip.Addr{}
		for attr, value := range attributes(rest[unix.SizeofRtNexthop:length]) {
			if attr == unix.RTA_GATEWAY {
				r.Gateway, _ = netip.AddrFromSlice(value)
			} else if attr == unix.RTA_VIA && len(value) > 2 {
				r.Gateway, _ = netip.AddrFromSlice(value[2:])
			}
		}
		if each(listed{r, true}); family == unix.AF_INET {
			return
		}
		rest = rest[min(aligned(length), len(rest)):]
	}
}

// kindOf returns the kind of a route's type. known is false for the types that plan has no
// kind for.
func kindOf(kind byte) (k iproute.Kind, known bool) {
	switch kind {
	case unix.RTN_UNICAST:
		return iproute.Unicast, true
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return iproute.Kind(kind), true
	}
	return 0, false
}

func typeOf(r plan.Route) byte {
	if r.Kind == iproute.Unicast {
		return unix.RTN_UNICAST
	}
	return byte(r.Kind)
}

// addRoute adds a route unless there is one to the same destination with the same
// metric; with Append, it adds the route behind those.
func (k *Kernel) addRoute(c plan.AddRoute) error {
	flags := unix.NLM_F_CREATE | unix.NLM_F_EXCL
	if c.Append {
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	return k.change(c, routeRequest(unix.RTM_NEWROUTE, flags, c.Route))
}

// routeRequest makes a request to add or delete a route. It names all attributes of the
// route: RTM_DELROUTE deletes the first route that has those in the request.
func routeRequest(command, flags int, r plan.Route) *nl.NetlinkRequest {
	own := 0
	if r.OnLink {
		own = unix.RTNH_F_ONLINK
	}
	header := append([]byte{byte(familyOf(r.Dst.Addr())), byte(r.Dst.Bits()), 0, byte(r.TOS),
		unix.RT_TABLE_UNSPEC, byte(r.Protocol), byte(r.Scope), typeOf(r)}, uint32s(own)...)
	req := request(command, flags|unix.NLM_F_ACK, header)
	if r.Dst.Bits() > 0 {
		add(req, unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	addNumber(req, unix.RTA_TABLE, r.Table)
	if !namesHops([]byte(r.Extra)) && r.Kind == iproute.Unicast {
		addNumber(req, unix.RTA_OIF, r.Link)
		addGateway(req, r)
	}
	if r.Source.IsValid() {
		add(req, unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.Metric != 0 {
		addNumber(req, unix.RTA_PRIORITY, r.Metric)
	}
	req.AddRawData([]byte(r.Extra))
	return req
}

// namesHops reports whether attributes of a route name its gateways and interfaces, by a
// nexthop object or by RTA_MULTIPATH. The kernel refuses a request that also has RTA_OIF or
// RTA_GATEWAY.
func namesHops(extra []byte) bool {
	for attr := range attributes(extra) {
		if attr == nextHop || attr == unix.RTA_MULTIPATH {
			return true
		}
	}
	return false
}

func addGateway(req *nl.NetlinkRequest, r plan.Route) {
	switch {
	case !r.Gateway.IsValid():
	case familyOf(r.Gateway) == familyOf(r.Dst.Addr()):
		add(req, unix.RTA_GATEWAY, r.Gateway.AsSlice())
	default:
		family := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(r.Gateway)))
		add(req, unix.RTA_VIA, append(family, r.Gateway.AsSlice()...)) // struct rtvia
	}
}
