package unit

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ec2net/iproute"
)

// static is the protocol of networkd's routes: one with another protocol that is there already
// does not keep networkd from adding its own.
const static = 4

// Routes returns the IPv4 routes of a file that have a table of their own, by its number. It
// skips what it cannot know: a gateway of the DHCP server's, the name of a table.
func Routes(text []byte, iface string) []iproute.Route {
	all, _ := Parse(text) // networkd skips what it cannot read, too
	var routes []iproute.Route
	at := 0 // the section that the last route is of
	known := true
	for _, a := range all {
		if a.Section != "Route" {
			continue
		}
		if a.At != at {
			routes = whole(routes, known)
			routes, at, known = append(routes, iproute.Route{Dev: iface, Protocol: static}), a.At, true
		}
		known = set(&routes[len(routes)-1], a) && known
	}
	return whole(routes, known)
}

// whole drops the last route unless it is known and has a table.
func whole(routes []iproute.Route, known bool) []iproute.Route {
	if len(routes) == 0 {
		return nil
	}
	r := &routes[len(routes)-1]
	if !r.Dst.IsValid() {
		r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	if r.Kind != iproute.Unicast {
		r.Dev = ""
	}
	if !known || r.Table == 0 || !r.Dst.Addr().Is4() {
		return routes[:len(routes)-1]
	}
	return routes
}

var types = map[string]iproute.Kind{"unicast": iproute.Unicast, "blackhole": iproute.Blackhole,
	"unreachable": iproute.Unreachable, "prohibit": iproute.Prohibit, "throw": iproute.Throw}

// The words for a boolean: systemd.syntax(7).
var (
	yes = []string{"1", "yes", "y", "true", "t", "on"}
	no  = []string{"0", "no", "n", "false", "f", "off"}
)

// set reads a line of [Route]. It reports whether ec2net knows what the line means.
func set(r *iproute.Route, a Assignment) (ok bool) {
	switch a.Key {
	case "Destination":
		p, err := netip.ParsePrefix(a.Value)
		if one, wrong := netip.ParseAddr(a.Value); wrong == nil {
			p, err = netip.PrefixFrom(one, one.BitLen()), nil
		}
		r.Dst = p.Masked()
		return err == nil
	case "Gateway":
		return address(&r.Gateway, a.Value)
	case "PreferredSource":
		return address(&r.Source, a.Value)
	case "Metric":
		return number(&r.Metric, a.Value)
	case "Table":
		return number(&r.Table, a.Value)
	case "GatewayOnLink":
		r.OnLink = slices.Contains(yes, strings.ToLower(a.Value))
		return r.OnLink || slices.Contains(no, strings.ToLower(a.Value))
	case "Type":
		r.Kind, ok = types[a.Value]
		return ok
	case "Scope":
		return true
	}
	return false
}

func address(to *netip.Addr, s string) bool {
	a, err := netip.ParseAddr(s)
	*to = a
	return err == nil && a.Is4()
}

func number(to *int, s string) bool {
	n, err := strconv.ParseUint(s, 10, 31)
	*to = int(n)
	return err == nil
}
