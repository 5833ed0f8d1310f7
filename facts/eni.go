// Package facts holds what is known of one ENI (elastic network interface), and
// gets it from the instance metadata service (IMDS) or from a JSON file.
//
// Whatever comes from outside becomes a typed value here: an address, a prefix, a
// MAC, a number, or a name of safe characters. No other string reaches a template.
package facts

import (
	"fmt"
	"net/netip"

	"ec2net/fault"
)

// ENI is one network interface of an instance, as the templates see it. "ec2net
// facts" prints it, and --facts reads it, under the JSON names; that format only
// ever gains fields.
//
// Lists are never nil. An ENI without IPv4 (an IPv6-only subnet) has no IPv4,
// and a zero Subnet and Gateway.
type ENI struct {
	// Name is the interface's name on this machine: eth1, ens6.
	Name string `json:"name"`
	// Index makes the numbers of this ENI unique on the machine: the N of ethN; for
	// other names DeviceNumber + 100 * NetworkCard.
	Index int `json:"index"`
	// MAC is the interface's hardware address, by which IMDS knows it.
	MAC MAC `json:"mac"`
	// ID is the ENI's id: eni-0123456789abcdef0.
	ID string `json:"id"`
	// DeviceNumber is the ENI's place on the network card; the primary has 0 of card 0.
	DeviceNumber int `json:"device_number"`
	// NetworkCard is the card that the ENI is on; 0 on most instance types.
	NetworkCard int `json:"network_card"`
	// Primary is true for the ENI that the instance was launched with.
	Primary bool `json:"primary"`
	// PrimaryMAC is the MAC of the primary ENI, which identifies the primary when IMDS
	// does not answer. Zero if unknown.
	PrimaryMAC MAC `json:"primary_mac,omitzero"`
	// IPv4 has the private addresses, the ENI's primary one first.
	IPv4 []netip.Addr `json:"ipv4"`
	// Subnet is the IPv4 block of the ENI's subnet.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// Gateway is the VPC router's address in Subnet: its network + 1.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// IPv4Prefixes are the prefixes delegated to the ENI (/28 each).
	IPv4Prefixes []netip.Prefix `json:"ipv4_prefixes"`
	// IPv6 has the ENI's IPv6 addresses.
	IPv6 []netip.Addr `json:"ipv6"`
	// IPv6Subnets are the IPv6 blocks of the ENI's subnet.
	IPv6Subnets []netip.Prefix `json:"ipv6_subnets"`
	// IPv6Prefixes are the prefixes delegated to the ENI (/80 each).
	IPv6Prefixes []netip.Prefix `json:"ipv6_prefixes"`
	// VPCCIDRs are the IPv4 blocks of the whole VPC.
	VPCCIDRs []netip.Prefix `json:"vpc_cidrs"`

	// Number is BASE + Index: the ENI's route table, metric, fwmark and, but for the
	// primary, rule priority. It is unique on the machine. See [Numbers].
	Number int `json:"-"`
	// MarkMask has the bits of a mark that ec2net uses.
	MarkMask Mark `json:"-"`
	// Routed says that the ENI has its own table and rules: every ENI but the primary
	// does, and the primary too, unless the settings say otherwise.
	Routed bool `json:"-"`
}

// Table is the id of the ENI's own route table.
func (e ENI) Table() int { return e.Number }

// Metric is the metric of the ENI's default route in the main table.
func (e ENI) Metric() int { return e.Number }

// Priority is the priority of every ip rule of the ENI.
func (e ENI) Priority() int {
	if e.Primary {
		return PrimaryPriority
	}
	return e.Number
}

// Mark is the fwmark of packets that come in by the ENI.
func (e ENI) Mark() Mark { return Mark(e.Number) }

// HasIPv4 reports whether the ENI has IPv4 addresses.
func (e ENI) HasIPv4() bool { return e.Subnet.IsValid() }

// FieldError says which field of an ENI is wrong, and why. Field is the JSON name,
// or the key of IMDS if the facts came from there.
type FieldError struct {
	Field string
	Why   string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Why) }

// Status is the status of unusable facts.
func (*FieldError) Status() fault.Status { return fault.Facts }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Why: fmt.Sprintf(format, args...)}
}

// finish checks the facts, and adds what follows from them: the index, the gateway and
// the numbers.
func (e *ENI) finish(n Numbers) error {
	if err := e.check(); err != nil {
		return err
	}
	whole, err := n.of(*e)
	if err != nil {
		return err
	}
	if e.HasIPv4() {
		whole.Gateway = gatewayOf(e.Subnet)
	}
	if e.Primary {
		whole.PrimaryMAC = e.MAC
	}
	*e = whole.Clone()
	return nil
}

// Clone returns a copy that shares no list with e. Its lists are never nil.
func (e ENI) Clone() ENI {
	for _, list := range []*[]netip.Addr{&e.IPv4, &e.IPv6} {
		*list = append([]netip.Addr{}, *list...)
	}
	for _, list := range []*[]netip.Prefix{&e.IPv4Prefixes, &e.IPv6Subnets, &e.IPv6Prefixes, &e.VPCCIDRs} {
		*list = append([]netip.Prefix{}, *list...)
	}
	return e
}

// gatewayOf returns the address of the VPC's router: the subnet's network + 1 (VPC
// user guide, "Subnet CIDR blocks", reserved addresses).
func gatewayOf(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }
