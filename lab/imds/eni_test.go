package imds_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ec2net/lab/imds"
)

func TestTree(t *testing.T) {
	public := imds.Primary()
	public.PublicIPv4 = "203.0.113.10"
	full := imds.Secondary()
	full.NetworkCard, full.NetworkCardKey = 1, "network-card-index"
	full.VPC = append(full.VPC, "10.1.0.0/16")
	full.IPv6 = []string{"2001:db8::20"}
	full.IPv6Subnets = []string{"2001:db8::/64"}
	full.VPCIPv6 = []string{"2001:db8::/56"}
	full.IPv4Prefixes = []string{"10.0.1.64/28", "10.0.1.80/28"}
	full.IPv6Prefixes = []string{"2001:db8::1:0:0:0/80"}
	full.Raw = map[string]string{"security-groups": imds.Removed}
	s := imds.New(full, public)

	for path, want := range map[string]string{
		metadata:                                   "instance-id\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\npublic-keys/",
		metadata + "instance-id":                   imds.InstanceID,
		metadata + "mac":                           "02:00:00:00:00:10",
		"/2009-04-04/meta-data/mac":                "02:00:00:00:00:10",
		metadata + "local-hostname":                "ip-10-0-0-10.ec2.internal",
		metadata + "placement/availability-zone":   "us-east-1a",
		metadata + "public-keys/":                  "0=lab",
		metadata + "public-keys/0/":                "openssh-key",
		metadata + "public-keys/0/openssh-key":     imds.PublicKey,
		"/2021-03-23/dynamic/":                     "instance-identity/",
		metadata + "network":                       "interfaces/",
		metadata + "network/interfaces/":           "macs/",
		strings.TrimSuffix(macs, "/"):              "02:00:00:00:00:10/\n02:00:00:00:01:20/",
		macs:                                       "02:00:00:00:00:10/\n02:00:00:00:01:20/",
		primary + "device-number":                  "0",
		primary + "network-card":                   "0",
		primary + "local-hostname":                 "ip-10-0-0-10.ec2.internal",
		primary + "ipv4-associations":              "203.0.113.10",
		primary + "ipv4-associations/":             "203.0.113.10",
		primary + "public-ipv4s":                   "203.0.113.10",
		second + "device-number":                   "1",
		second + "interface-id":                    "eni-0bbbbbbbbbbbbbbb1",
		second + "local-ipv4s":                     "10.0.1.20\n10.0.1.21",
		second + "mac":                             "02:00:00:00:01:20",
		second + "network-card-index":              "1",
		second + "subnet-ipv4-cidr-block":          "10.0.1.0/24",
		second + "vpc-ipv4-cidr-block":             "10.0.0.0/16",
		second + "vpc-ipv4-cidr-blocks":            "10.0.0.0/16\n10.1.0.0/16",
		second + "ipv6s":                           "2001:db8::20",
		second + "subnet-ipv6-cidr-blocks":         "2001:db8::/64",
		second + "vpc-ipv6-cidr-blocks":            "2001:db8::/56",
		second + "ipv4-prefix":                     "10.0.1.64/28\n10.0.1.80/28",
		second + "ipv6-prefix":                     "2001:db8::1:0:0:0/80",
		primary + "ipv4-associations/203.0.113.10": "10.0.0.10",

		strings.TrimSuffix(primary, "/"): `device-number interface-id ipv4-associations/ local-hostname local-ipv4s mac
			network-card owner-id public-hostname public-ipv4s security-group-ids security-groups
			subnet-id subnet-ipv4-cidr-block vpc-id vpc-ipv4-cidr-block vpc-ipv4-cidr-blocks`,
		second: `device-number interface-id ipv4-prefix ipv6-prefix ipv6s local-hostname local-ipv4s mac
			network-card-index owner-id security-group-ids
			subnet-id subnet-ipv4-cidr-block subnet-ipv6-cidr-blocks
			vpc-id vpc-ipv4-cidr-block vpc-ipv4-cidr-blocks vpc-ipv6-cidr-blocks`,
	} {
		if strings.Contains(want, "\t") {
			want = strings.Join(strings.Fields(want), "\n")
		}
		if status, body := get(t, s, path); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	s := imds.New(imds.Primary())
	status, body := get(t, s, "/latest/dynamic/instance-identity/document")
	var document struct{ InstanceID, Region string }
	if err := json.Unmarshal([]byte(body), &document); status != 200 || err != nil ||
		document.InstanceID != imds.InstanceID || document.Region != imds.Region {
		t.Errorf("%d %q %v", status, body, err)
	}
}

func TestNotFound(t *testing.T) {
	s := imds.New(imds.Primary(), imds.Secondary())
	for _, path := range []string{
		"/", "/latest", "/latest/meta-datamac", "/1.0/meta-data/mac", "/latest/user-data",
		"/latest/dynamic/nothing", metadata + "nothing",
		macs + "02:00:00:00:00:1", macs + "02:00:00:00:00:100", macs + "02:00:00:00:00:11/",
		primary + "nothing", primary + "ipv6s", primary + "ipv4-prefix", primary + "ipv4-associations/",
	} {
		w := direct(s, request(t, "GET", path, tokenHeader, token(t, s, 60)))
		if w.Code != 404 || !strings.Contains(w.Body.String(), "<title>404 - Not Found</title>") {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
	if w := direct(s, request(t, "POST", primary+"mac", tokenHeader, token(t, s, 60))); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestHostileAndMissingValues(t *testing.T) {
	hostile := imds.ENI{
		MAC:            "../$(reboot)/X",
		NetworkCardKey: "-",
		Subnet:         "0.0.0.0/0; reboot",
		IPv4:           []string{"", "10.0.1.20"},
		Raw:            map[string]string{"local-ipv4s": "", "extra": "\r\nx\xff", "deep/er": "down"},
	}
	s := imds.New(hostile)
	base := macs + "../$(reboot)/x/"
	for path, want := range map[string]string{
		macs:                            hostile.MAC + "/",
		metadata + "mac":                hostile.MAC,
		base + "subnet-ipv4-cidr-block": hostile.Subnet,
		base + "local-ipv4s":            "",
		base + "extra":                  "\r\nx\xff",
		base + "deep":                   "er",
	} {
		r := request(t, "GET", "/", tokenHeader, token(t, s, 60))
		r.URL.Path = path
		if w := direct(s, r); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", path, w.Code, w.Body, want)
		}
	}
	for _, key := range []string{"network-card", "interface-id", "vpc-ipv4-cidr-block"} {
		if status, _ := get(t, s, base+key); status != 404 {
			t.Errorf("%s: %d, want 404", key, status)
		}
	}

	listed := imds.Primary()
	listed.Raw = map[string]string{"": "mac\nno-such-key"}
	s.Set(listed)
	if _, body := get(t, s, primary); body != "mac\nno-such-key" {
		t.Errorf("listing is %q", body)
	}
}
