// Package facts holds what is known of one ENI (elastic network interface) and
// where it comes from: the instance metadata service (IMDS), or a JSON file.
//
// Everything from outside passes a door here and becomes a typed value on the
// way in: an address, a prefix, a MAC, a number, or a name of safe characters.
// No other string reaches a template.
package facts

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ENI is one network interface of an instance, as the templates see it. The
// JSON names are the format that "ec2net facts" prints and --facts reads; it
// only ever gains fields.
//
// Lists are never nil. An ENI without IPv4 (an IPv6-only subnet) has no IPv4,
// and a zero Subnet and Gateway.
type ENI struct {
	// Name is the interface's name on this machine: eth1, ens6.
	Name string `json:"name"`
	// Index makes the numbers of this ENI unique on the machine: the number
	// that ends ethN, for other names DeviceNumber + 100 * NetworkCard.
	Index int `json:"index"`
	// MAC is the interface's hardware address, by which IMDS knows it.
	MAC MAC `json:"mac"`
	// ID is the ENI's id: eni-0123456789abcdef0.
	ID string `json:"id"`
	// DeviceNumber is the place on the network card; only the primary has 0.
	DeviceNumber int `json:"device_number"`
	// NetworkCard is the card the ENI sits on; 0 on most instance types.
	NetworkCard int `json:"network_card"`
	// Primary says that this is the ENI the instance was launched with.
	Primary bool `json:"primary"`
	// PrimaryMAC is the address of the primary ENI, so that it is known which
	// one that is when IMDS cannot be asked. Zero if nobody said.
	PrimaryMAC MAC `json:"primary_mac,omitzero"`
	// IPv4 has the private addresses, the ENI's primary one first.
	IPv4 []netip.Addr `json:"ipv4"`
	// Subnet is the IPv4 block of the ENI's subnet.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// Gateway is the VPC router's address in Subnet: its network + 1.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// IPv4Prefixes are delegated to the ENI (prefix delegation, /28 each).
	IPv4Prefixes []netip.Prefix `json:"ipv4_prefixes"`
	// IPv6 has the ENI's IPv6 addresses.
	IPv6 []netip.Addr `json:"ipv6"`
	// IPv6Subnets are the IPv6 blocks of the ENI's subnet.
	IPv6Subnets []netip.Prefix `json:"ipv6_subnets"`
	// IPv6Prefixes are delegated to the ENI (/80 each).
	IPv6Prefixes []netip.Prefix `json:"ipv6_prefixes"`
	// VPCCIDRs are the IPv4 blocks of the whole VPC.
	VPCCIDRs []netip.Prefix `json:"vpc_cidrs"`

	// Table is the id of the ENI's own route table: BASE + Index.
	Table int `json:"table"`
	// Metric is that of the default route in the main table: BASE + Index.
	Metric int `json:"metric"`
	// Priority is that of every ip rule of this ENI: BASE + Index.
	Priority int `json:"priority"`
	// Mark is the fwmark of what comes in by this ENI: BASE + Index.
	Mark Mark `json:"mark"`
	// MarkMask has the bits that ec2net uses of a mark.
	MarkMask Mark `json:"mark_mask"`
}

// HasIPv4 reports whether there is anything to route by IPv4.
func (e ENI) HasIPv4() bool { return e.Subnet.IsValid() }

// FieldError says which field of an ENI cannot be, and why. Field is the JSON
// name, or the IMDS key where the facts came from there.
type FieldError struct {
	Field string
	Why   string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Why) }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Why: fmt.Sprintf(format, args...)}
}

// finish checks what came in by a door and adds what follows from it. The
// fields that follow (Index, Gateway, Table, ...) may be set already: then they
// have to be what would have been computed.
func (e *ENI) finish(n Numbers) error {
	if err := e.check(); err != nil {
		return err
	}
	want, err := n.of(*e)
	if err != nil {
		return err
	}
	if e.HasIPv4() {
		want.Gateway = gatewayOf(e.Subnet)
	}
	if e.Primary {
		want.PrimaryMAC = e.MAC
	}
	for _, d := range []struct {
		field       string
		given, want any
		unset       bool
	}{
		{"index", e.Index, want.Index, e.Index == 0},
		{"gateway", e.Gateway, want.Gateway, !e.Gateway.IsValid()},
		{"table", e.Table, want.Table, e.Table == 0},
		{"metric", e.Metric, want.Metric, e.Metric == 0},
		{"priority", e.Priority, want.Priority, e.Priority == 0},
		{"mark", e.Mark, want.Mark, e.Mark == 0},
		{"mark_mask", e.MarkMask, want.MarkMask, e.MarkMask == 0},
	} {
		if !d.unset && d.given != d.want {
			return fieldErrorf(d.field, "%v, where %v follows from the other fields and the settings (base %d, mark mask %v)",
				d.given, d.want, n.Base, n.MarkMask)
		}
	}
	*e = want
	for _, list := range []*[]netip.Addr{&e.IPv4, &e.IPv6} {
		*list = append([]netip.Addr{}, *list...)
	}
	for _, list := range []*[]netip.Prefix{&e.IPv4Prefixes, &e.IPv6Subnets, &e.IPv6Prefixes, &e.VPCCIDRs} {
		*list = append([]netip.Prefix{}, *list...)
	}
	return nil
}

// gatewayOf is where a VPC's router answers: the subnet's network + 1 (VPC
// user guide, "Subnet CIDR blocks", reserved addresses).
func gatewayOf(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// check says whether the fields can be those of one ENI.
func (e *ENI) check() error {
	if err := CheckName(e.Name); err != nil {
		return &FieldError{Field: "name", Why: err.Error()}
	}
	if e.MAC == (MAC{}) || e.MAC[0]&1 == 1 {
		return fieldErrorf("mac", "%s is not the address of one interface", e.MAC)
	}
	if id, ok := strings.CutPrefix(e.ID, "eni-"); !ok || id == "" || len(id) > 40 || !safe(id) {
		return fieldErrorf("id", "%s is not an ENI id such as eni-0123456789abcdef0", quoted(e.ID))
	}
	if e.DeviceNumber < 0 || e.DeviceNumber > 0xffff {
		return fieldErrorf("device_number", "%d is out of range", e.DeviceNumber)
	}
	if e.NetworkCard < 0 || e.NetworkCard > 99 {
		return fieldErrorf("network_card", "%d is not within 0 and 99", e.NetworkCard)
	}
	if e.PrimaryMAC != (MAC{}) && (e.PrimaryMAC == e.MAC) != e.Primary {
		return fieldErrorf("primary_mac", "%s, where mac is %s and primary is %t", e.PrimaryMAC, e.MAC, e.Primary)
	}
	if e.Primary && e.DeviceNumber != 0 {
		return fieldErrorf("device_number", "%d, where the primary ENI has 0", e.DeviceNumber)
	}
	if !e.Primary && e.DeviceNumber == 0 {
		return fieldErrorf("device_number", "0 is the primary's; IMDS gives it while a new ENI is not yet complete")
	}
	return e.checkAddresses()
}

func (e *ENI) checkAddresses() error {
	if len(e.IPv4) == 0 && e.Subnet.IsValid() {
		return fieldErrorf("ipv4", "no address, although there is a subnet %s", e.Subnet)
	}
	if len(e.IPv4) > 0 && !e.Subnet.IsValid() {
		return fieldErrorf("subnet", "missing, although there is an address %s", quoted(e.IPv4[0].String()))
	}
	// AWS gives /16 to /28. The gateway (network + 1) needs a /30 at least,
	// and less than a /8 can only be a mistake that would swallow routes.
	if s := e.Subnet; s.IsValid() && (!s.Addr().Is4() || s.Bits() < 8 || s.Bits() > 30) {
		return fieldErrorf("subnet", "%s is not an IPv4 block between /8 and /30", s)
	}
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
		for i, p := range l.prefixes {
			if err := checkPrefix(p, l.is4); err != "" {
				return fieldErrorf(l.field, "%s %s", p, err)
			}
			if slices.Contains(l.prefixes[:i], p) {
				return fieldErrorf(l.field, "%s is there twice", p)
			}
		}
	}
	for _, l := range []struct {
		field string
		addrs []netip.Addr
		in    []netip.Prefix
		is4   bool
	}{
		{"ipv4", e.IPv4, []netip.Prefix{e.Subnet}, true},
		{"ipv6", e.IPv6, e.IPv6Subnets, false},
	} {
		for i, a := range l.addrs {
			if err := checkAddr(a, l.is4); err != "" {
				return fieldErrorf(l.field, "%s %s", quoted(a.String()), err)
			}
			if !slices.ContainsFunc(l.in, func(p netip.Prefix) bool { return p.Contains(a) }) {
				return fieldErrorf(l.field, "%s is outside the subnet %s", a, joined(l.in))
			}
			if slices.Contains(l.addrs[:i], a) {
				return fieldErrorf(l.field, "%s is there twice", a)
			}
		}
	}
	for _, p := range e.IPv4Prefixes {
		if !e.Subnet.Contains(p.Addr()) || p.Bits() <= e.Subnet.Bits() {
			return fieldErrorf("ipv4_prefixes", "%s is outside the subnet %s", p, joined([]netip.Prefix{e.Subnet}))
		}
	}
	return nil
}

// checkAddr says what is wrong with a as an address of an ENI. A zone is a
// string of any characters behind the address (fe80::1%zone), so it stays out.
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
		return fmt.Sprintf("has bits behind its length; did you mean %s?", p.Masked())
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
