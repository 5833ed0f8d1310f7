package imds

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Removed is the value in ENI.Raw that removes a key.
const Removed = "\x00"

// ENI is one elastic network interface as the service describes it. The facts are
// unchecked strings, so that a test can serve what AWS never would: an invalid CIDR, a
// shell command, an address of another network.
//
// A key whose value would be empty is neither listed nor answered, as on EC2:
// an ENI of an IPv6-only subnet has no local-ipv4s, one just attached has no
// interface-id yet. To serve a listed key with an empty body, use Raw.
type ENI struct {
	MAC          string // served as spelt here, found in any case
	ID           string // interface-id
	DeviceNumber int    // 0 on the primary, and for a while on an ENI just attached
	NetworkCard  int

	// NetworkCardKey is the key that NetworkCard is served under. Empty
	// means network-card, which live systems have; the user guide says
	// network-card-index; "-" leaves it out.
	NetworkCardKey string

	Subnet       string   // subnet-ipv4-cidr-block
	IPv4         []string // local-ipv4s, the primary address first
	VPC          []string // vpc-ipv4-cidr-blocks; the first is vpc-ipv4-cidr-block too
	IPv6         []string // ipv6s
	IPv6Subnets  []string // subnet-ipv6-cidr-blocks
	IPv4Prefixes []string // ipv4-prefix
	IPv6Prefixes []string // ipv6-prefix
	VPCIPv6      []string // vpc-ipv6-cidr-blocks

	// PublicIPv4 is a public address of IPv4[0]. With one there are
	// public-hostname, public-ipv4s and the folder ipv4-associations/, whose
	// listed name ends with a slash.
	PublicIPv4 string

	// Raw has bodies by key, which replace those of the other fields or add to
	// them, byte for byte; Removed takes the key out of the listing and makes
	// it 404. A slash in a key makes a folder. The key "" is the listing of
	// the ENI itself. (For a listed key that is 404, use a Fault.)
	Raw map[string]string
}

// Primary returns the primary ENI of the example VPC, 10.0.0.0/16.
func Primary() ENI {
	return ENI{
		MAC:    "02:00:00:00:00:10",
		ID:     "eni-0aaaaaaaaaaaaaaa0",
		Subnet: "10.0.0.0/24",
		IPv4:   []string{"10.0.0.10"},
		VPC:    []string{"10.0.0.0/16"},
	}
}

// Secondary returns a second ENI of the example VPC: another subnet, two
// addresses.
func Secondary() ENI {
	return ENI{
		MAC:          "02:00:00:00:01:20",
		ID:           "eni-0bbbbbbbbbbbbbbb1",
		DeviceNumber: 1,
		Subnet:       "10.0.1.0/24",
		IPv4:         []string{"10.0.1.20", "10.0.1.21"},
		VPC:          []string{"10.0.0.0/16"},
	}
}

// files returns the bodies of the ENI's keys; a key with a slash is a file in
// a folder.
func (e ENI) files() map[string]string {
	files := map[string]string{
		"device-number":      strconv.Itoa(e.DeviceNumber),
		"local-hostname":     InstanceID + ".ec2.internal",
		"mac":                e.MAC,
		"owner-id":           ownerID,
		"security-group-ids": "sg-0123456789abcdef0",
		"security-groups":    "default",
		"subnet-id":          e.subnetID(),
		"vpc-id":             vpcID,
	}
	set := func(key string, lines ...string) {
		if body := strings.Join(lines, "\n"); body != "" {
			files[key] = body
		}
	}
	set("interface-id", e.ID)
	set("subnet-ipv4-cidr-block", e.Subnet)
	set("local-ipv4s", e.IPv4...)
	set("vpc-ipv4-cidr-blocks", e.VPC...)
	set("ipv6s", e.IPv6...)
	set("subnet-ipv6-cidr-blocks", e.IPv6Subnets...)
	set("ipv4-prefix", e.IPv4Prefixes...)
	set("ipv6-prefix", e.IPv6Prefixes...)
	set("vpc-ipv6-cidr-blocks", e.VPCIPv6...)
	if len(e.VPC) > 0 {
		set("vpc-ipv4-cidr-block", e.VPC[0])
	}
	if len(e.IPv4) > 0 {
		set("local-hostname", e.hostname())
		if e.PublicIPv4 != "" {
			set("public-hostname", "ec2-"+dashed(e.PublicIPv4)+".compute-1.amazonaws.com")
			set("public-ipv4s", e.PublicIPv4)
			set("ipv4-associations/"+e.PublicIPv4, e.IPv4[0])
		}
	}
	switch e.NetworkCardKey {
	case "":
		set("network-card", strconv.Itoa(e.NetworkCard))
	case "-":
	default:
		set(e.NetworkCardKey, strconv.Itoa(e.NetworkCard))
	}

	for key, body := range e.Raw {
		if body == Removed {
			delete(files, key)
		} else {
			files[key] = body
		}
	}
	return files
}

// subnetID makes one name of one subnet, so that two ENIs on it agree.
func (e ENI) subnetID() string {
	sum := fnv.New64a()
	fmt.Fprint(sum, e.Subnet, e.IPv6Subnets)
	return fmt.Sprintf("subnet-0%016x", sum.Sum64())
}

// hostname is the name of an ENI that has an IPv4 address.
func (e ENI) hostname() string { return "ip-" + dashed(e.IPv4[0]) + ".ec2.internal" }

func dashed(address string) string {
	return strings.ReplaceAll(address, ".", "-")
}

// macs is the folder that holds one folder for each ENI.
const macs = "network/interfaces/macs/"

// metadata is everything below meta-data/. It is built once and never
// changed, so a request sees one state of the instance and not a mix.
type metadata struct {
	files      map[string]string
	interfaces []folder
}

type folder struct {
	mac   string
	files map[string]string
}

func newMetadata(enis []ENI) *metadata {
	m := &metadata{files: instance()}
	var names []string
	for _, e := range enis {
		m.interfaces = append(m.interfaces, folder{e.MAC, e.files()})
		names = append(names, e.MAC+"/")
		if _, known := m.files["mac"]; !known && e.DeviceNumber == 0 && e.NetworkCard == 0 {
			m.files["mac"] = e.MAC
			if len(e.IPv4) > 0 {
				m.files["local-hostname"] = e.hostname()
				m.files["local-ipv4"] = e.IPv4[0]
			}
		}
	}
	slices.Sort(names)
	m.files[macs] = strings.Join(names, "\n")
	return m
}

// get returns the body of a path below meta-data/.
func (m *metadata) get(path string) (string, bool) {
	if body, ok := read(m.files, path); ok {
		return body, true
	}
	rest, ok := strings.CutPrefix(path, macs)
	if !ok {
		return "", false
	}
	// This compares the MAC as a prefix, since a test may have put a slash into it.
	for _, f := range m.interfaces {
		n := len(f.mac)
		if len(rest) < n || !strings.EqualFold(rest[:n], f.mac) {
			continue
		}
		if key := rest[n:]; key == "" || key[0] == '/' {
			return read(f.files, strings.TrimPrefix(key, "/"))
		}
	}
	return "", false
}

// read returns the file of that name, or the listing of the folder of that name, with
// or without its slash. A folder exists if a file is in it; a file named like a
// folder, with the slash, is its listing.
func read(files map[string]string, name string) (string, bool) {
	if body, ok := files[name]; ok {
		return body, true
	}
	prefix := strings.TrimSuffix(name, "/") + "/"
	if prefix == "/" {
		prefix = ""
	}
	if body, ok := files[prefix]; ok {
		return body, true
	}
	names := map[string]bool{}
	for file := range files {
		if rest, ok := strings.CutPrefix(file, prefix); ok {
			if first, _, inFolder := strings.Cut(rest, "/"); inFolder {
				rest = first + "/"
			}
			names[rest] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n"), len(names) > 0
}
