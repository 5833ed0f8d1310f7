package facts

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// check returns an error for the first field with a value that no ENI could have.
func (e *ENI) check() error {
	for _, check := range []func() error{e.checkIdentity, e.checkPlace, e.checkSubnet, e.checkPrefixes, e.checkAddrs, e.checkReserved} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (e *ENI) checkIdentity() error {
	if err := CheckName(e.Name); err != nil {
		return &FieldError{Field: "name", Why: err.Error()}
	}
	if e.MAC == (MAC{}) || e.MAC[0]&1 == 1 {
		return fieldErrorf("mac", "%s is not the address of one interface", e.MAC)
	}
	if id, ok := strings.CutPrefix(e.ID, "eni-"); !ok || id == "" || len(id) > 40 || !safe(id) {
		return fieldErrorf("id", "%s is not an ENI id such as eni-0123456789abcdef0", quoted(e.ID))
	}
	return nil
}

// checkPlace checks where the ENI is attached: of network card 0 only the primary has
// device 0; of another card any ENI may have it.
func (e *ENI) checkPlace() error {
	switch {
	case e.DeviceNumber < 0 || e.DeviceNumber > 0xffff:
		return fieldErrorf("device_number", "%d is out of range", e.DeviceNumber)
	case e.NetworkCard < 0 || e.NetworkCard > 99:
		return fieldErrorf("network_card", "%d is not within 0 and 99", e.NetworkCard)
	case e.PrimaryMAC != (MAC{}) && (e.PrimaryMAC == e.MAC) != e.Primary:
		return fieldErrorf("primary_mac", "%s, but mac is %s and primary is %t", e.PrimaryMAC, e.MAC, e.Primary)
	case e.Primary && e.DeviceNumber != 0:
		return fieldErrorf("device_number", "%d, but the primary ENI has 0", e.DeviceNumber)
	case !e.Primary && e.DeviceNumber == 0 && e.NetworkCard == 0:
		return fieldErrorf("device_number", "0 is the primary's; IMDS gives it while a new ENI is incomplete")
	}
	return nil
}

func (e *ENI) checkSubnet() error {
	s := e.Subnet
	switch {
	case len(e.IPv4) == 0 && s.IsValid():
		return fieldErrorf("ipv4", "no address, although there is a subnet %s", s)
	case len(e.IPv4) > 0 && !s.IsValid():
		return fieldErrorf("subnet", "missing, although there is an address %s", quoted(e.IPv4[0].String()))
	case s.IsValid() && (!s.Addr().Is4() || s.Bits() < 8 || s.Bits() > 30):
		// AWS gives /16 to /28. The gateway (network + 1) needs at least a /30; anything
		// larger than a /8 is a mistake that would swallow routes.
		return fieldErrorf("subnet", "%s is not an IPv4 block between /8 and /30", s)
	}
	return nil
}

func (e *ENI) checkPrefixes() error {
	for _, l := range []struct {
		field    string
		prefixes []netip.Prefix
		is4      bool
	}{
		{"subnet", slices.DeleteFunc([]netip.Prefix{e.Subnet}, func(p netip.Prefix) bool { return !p.IsValid() }), true},
		{"ipv4_prefixes", e.IPv4Prefixes, true},
		{"ipv6_subnets", e.IPv6Subnets, false},
		{"ipv6_prefixes", e.IPv6Prefixes, false},
		{"vpc_cidrs", e.VPCCIDRs, true},
	} {
		seen := make(map[netip.Prefix]bool)
		for _, p := range l.prefixes {
			if err := checkPrefix(p, l.is4); err != "" {
				return fieldErrorf(l.field, "%s %s", p, err)
			}
			if seen[p] {
				return fieldErrorf(l.field, "%s is listed twice", p)
			}
			seen[p] = true
		}
	}
	for _, p := range e.IPv4Prefixes {
		if !e.Subnet.Contains(p.Addr()) || p.Bits() <= e.Subnet.Bits() {
			return fieldErrorf("ipv4_prefixes", "%s is outside the subnet %s", p, joined([]netip.Prefix{e.Subnet}))
		}
	}
	return nil
}

func (e *ENI) checkAddrs() error {
	for _, l := range []struct {
		field string
		addrs []netip.Addr
		in    []netip.Prefix
		is4   bool
	}{
		{"ipv4", e.IPv4, []netip.Prefix{e.Subnet}, true},
		{"ipv6", e.IPv6, e.IPv6Subnets, false},
	} {
		seen := make(map[netip.Addr]bool)
		for _, a := range l.addrs {
			if err := checkAddr(a, l.is4); err != "" {
				return fieldErrorf(l.field, "%s %s", quoted(a.String()), err)
			}
			if !slices.ContainsFunc(l.in, func(p netip.Prefix) bool { return p.Contains(a) }) {
				return fieldErrorf(l.field, "%s is outside the subnet %s", a, joined(l.in))
			}
			if seen[a] {
				return fieldErrorf(l.field, "%s is listed twice", a)
			}
			seen[a] = true
		}
	}
	return nil
}

func (e *ENI) checkReserved() error {
	for _, a := range e.IPv4 {
		if a == e.Subnet.Addr() || a == gatewayOf(e.Subnet) || a == lastOf(e.Subnet) {
			return fieldErrorf("ipv4", "%s is the network, the gateway or the broadcast address of %s", a, e.Subnet)
		}
	}
	return nil
}

// lastOf returns the broadcast address of an IPv4 block.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// checkAddr says why a cannot be an address of an ENI; empty if it can. It refuses a zone
// (fe80::1%zone), which may have any characters.
func checkAddr(a netip.Addr, is4 bool) string {
	switch {
	case is4 && !a.Is4():
		return "is not an IPv4 address"
	case !is4 && (!a.Is6() || a.Is4In6() || a.Zone() != ""):
		return "is not an IPv6 address"
	case !a.IsGlobalUnicast():
		return "is not an address that an ENI can have"
	}
	return ""
}

func checkPrefix(p netip.Prefix, is4 bool) string {
	switch {
	case is4 && !p.Addr().Is4():
		return "is not an IPv4 block"
	case !is4 && (!p.Addr().Is6() || p.Addr().Is4In6()):
		return "is not an IPv6 block"
	case p != p.Masked():
		return fmt.Sprintf("has bits set beyond its length; did you mean %s?", p.Masked())
	}
	return ""
}

func joined(prefixes []netip.Prefix) string {
	if len(prefixes) == 0 || !prefixes[0].IsValid() {
		return "(none given)"
	}
	words := make([]string, len(prefixes))
	for i, p := range prefixes {
		words[i] = p.String()
	}
	return strings.Join(words, ", ")
}
