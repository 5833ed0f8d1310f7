package facts

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The keys below network/interfaces/macs/MAC/ that ec2net uses, under the
// names of the EC2 user guide ("Instance metadata categories").
const (
	keyID           = "interface-id"
	keyDeviceNumber = "device-number"
	keyCard         = "network-card"       // on live systems
	keyCardIndex    = "network-card-index" // in the guide
	keyIPv4         = "local-ipv4s"
	keySubnet       = "subnet-ipv4-cidr-block"
	keyIPv4Prefixes = "ipv4-prefix"
	keyIPv6         = "ipv6s"
	keyIPv6Subnets  = "subnet-ipv6-cidr-blocks"
	keyIPv6Prefixes = "ipv6-prefix"
	keyVPCCIDRs     = "vpc-ipv4-cidr-blocks"
)

var used = []string{
	keyID, keyDeviceNumber, keyCard, keyCardIndex, keyIPv4, keySubnet, keyIPv4Prefixes,
	keyIPv6, keyIPv6Subnets, keyIPv6Prefixes, keyVPCCIDRs,
}

// parse makes an ENI from the answers. If the listing is complete, a key without an
// answer means "there is none".
func parse(name string, mac MAC, primaryMAC string, answers map[string]string) (ENI, error) {
	e := ENI{Name: name, MAC: mac}
	if answers[keyID] == "" {
		return e, fmt.Errorf("the listing of %s is incomplete: it has no %s", mac, keyID)
	}
	primary, err := ParseMAC(strings.TrimSpace(primaryMAC))
	if err != nil {
		return e, fmt.Errorf("mac: %w", err)
	}
	e.Primary, e.PrimaryMAC = primary == mac, primary
	e.ID = strings.TrimSpace(answers[keyID])

	card := answers[keyCard]
	if card == "" {
		card = answers[keyCardIndex]
	}
	if card == "" {
		card = "0"
	}
	p := parser{answers: answers}
	e.DeviceNumber = p.number(keyDeviceNumber, answers[keyDeviceNumber])
	e.NetworkCard = p.number(keyCard, card)
	e.IPv4 = each(&p, keyIPv4, netip.ParseAddr)
	e.IPv6 = each(&p, keyIPv6, netip.ParseAddr)
	e.IPv4Prefixes = each(&p, keyIPv4Prefixes, netip.ParsePrefix)
	e.IPv6Subnets = each(&p, keyIPv6Subnets, netip.ParsePrefix)
	e.IPv6Prefixes = each(&p, keyIPv6Prefixes, netip.ParsePrefix)
	e.VPCCIDRs = each(&p, keyVPCCIDRs, netip.ParsePrefix)
	if subnets := each(&p, keySubnet, netip.ParsePrefix); len(subnets) == 1 {
		e.Subnet = subnets[0]
	} else if len(subnets) > 1 {
		p.err = fieldErrorf(keySubnet, "%d blocks, expected one", len(subnets))
	}
	if len(e.IPv4) == 0 && len(e.IPv6) == 0 && p.err == nil {
		p.err = fieldErrorf(keyIPv4, "missing, and so is %s: an ENI has an address", keyIPv6)
	}
	return e, p.err
}

// parser keeps the first error, so that parse reads like a table.
type parser struct {
	answers map[string]string
	err     error
}

func (p *parser) number(key, value string) int {
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 16)
	if err != nil && p.err == nil {
		p.err = fieldErrorf(key, "%s is not a number", quoted(value))
	}
	return int(n)
}

// each reads a value with one address or block a line.
func each[T any](p *parser, key string, read func(string) (T, error)) []T {
	var list []T
	for _, line := range lines(p.answers[key]) {
		v, err := read(line)
		if err != nil {
			if p.err == nil {
				p.err = fieldErrorf(key, "%s is not an address or block", quoted(line))
			}
			return nil
		}
		list = append(list, v)
	}
	return list
}

// lines splits a value at line ends, of Unix or DOS, and drops empty lines.
func lines(value string) []string {
	var found []string
	for line := range strings.SplitSeq(value, "\n") {
		if line = strings.TrimRight(line, " \t\r"); line != "" {
			found = append(found, line)
		}
	}
	return found
}

// imdsTerms replaces the JSON name in a FieldError by IMDS's key, which the reader can
// look up.
func imdsTerms(err error) error {
	var field *FieldError
	if !errors.As(err, &field) {
		return err
	}
	key, ok := map[string]string{
		"id": keyID, "device_number": keyDeviceNumber, "network_card": keyCard,
		"ipv4": keyIPv4, "subnet": keySubnet, "ipv4_prefixes": keyIPv4Prefixes,
		"ipv6": keyIPv6, "ipv6_subnets": keyIPv6Subnets, "ipv6_prefixes": keyIPv6Prefixes,
		"vpc_cidrs": keyVPCCIDRs,
	}[field.Field]
	if !ok {
		return err
	}
	return &FieldError{Field: key, Why: field.Why}
}
