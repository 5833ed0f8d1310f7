package facts

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

const eth1JSON = `{"name": "eth1", "mac": "02:00:00:00:01:20", "id": "eni-0123456789abcdef1",
	"device_number": 1, "ipv4": ["10.0.1.20", "10.0.1.21"], "subnet": "10.0.1.0/24"}`

// edited returns eth1JSON with one piece replaced; it fails if eth1JSON has no such piece.
func edited(t *testing.T, old, with string) string {
	t.Helper()
	if !strings.Contains(eth1JSON, old) {
		t.Fatalf("the test's JSON has no %s", old)
	}
	return strings.Replace(eth1JSON, old, with, 1)
}

func TestDecode(t *testing.T) {
	enis, err := Decode(strings.NewReader(eth1JSON), DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	e := enis[0]
	if e.Gateway.String() != "10.0.1.1" || e.Index != 1 || e.Table() != 1001 || e.Metric() != 1001 || e.Priority() != 1001 ||
		e.Mark().String() != "0x3e9" || e.MarkMask.String() != "0x3fff" {
		t.Errorf("derived fields are wrong: %+v", e)
	}
	if e.IPv6 == nil || e.VPCCIDRs == nil {
		t.Error("a list is nil")
	}
}

// --facts reads what "ec2net facts" prints, and prints the same bytes again.
func TestEncodeDecode(t *testing.T) {
	examples, err := Examples(DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	for _, enis := range [][]ENI{examples[:1], examples} {
		var first, second bytes.Buffer
		if err := Encode(&first, enis); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(bytes.NewReader(first.Bytes()), DefaultNumbers)
		if err != nil {
			t.Fatal(err)
		}
		if err := Encode(&second, again); err != nil {
			t.Fatal(err)
		}
		if first.String() != second.String() {
			t.Errorf("%s became %s", first.String(), second.String())
		}
		if lines := strings.Count(first.String(), "\n"); len(enis) > 1 && lines != len(enis) {
			t.Errorf("%d ENIs are %d lines", len(enis), lines)
		}
	}
}

// Facts that were printed under other settings get the numbers of the present ones.
func TestDecodeOtherBase(t *testing.T) {
	enis, err := Decode(strings.NewReader(eth1JSON), Numbers{Base: 10000, MarkMask: 0x7fff})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Encode(&out, enis); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"table": 10001`) {
		t.Errorf("%s", out.String())
	}
	again, err := Decode(&out, DefaultNumbers)
	if err != nil || again[0].Table() != 1001 || again[0].MarkMask != 0x3fff {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	long := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, c := range []struct{ name, json, want string }{
		{"unknown field", edited(t, `"id"`, `"idd"`), `"idd": unknown field`},
		{"other case", edited(t, `"name"`, `"Name"`), `"Name": unknown field`},
		{"twice", edited(t, `"id"`, `"name": "eth2", "id"`), "name: appears twice"},
		{"string for number", edited(t, `1, "ipv4"`, `"1", "ipv4"`), "device_number: \"1\" is not a whole number"},
		{"fraction", edited(t, `1, "ipv4"`, `1.5, "ipv4"`), "device_number: 1.5 is not a whole number"},
		{"null", edited(t, `"eth1"`, `null`), "name: null is not a string"},
		{"string for list", edited(t, `["10.0.1.20", "10.0.1.21"]`, `"10.0.1.20"`), "ipv4: \"10.0.1.20\" is not a list of addresses"},
		{"command in address", edited(t, "10.0.1.21", "10.0.1.21; reboot"), "ipv4: "},
		{"newline in address", edited(t, "10.0.1.21", `10.0.1.21\npost-up id`), "ipv4: "},
		{"zone", edited(t, `"subnet"`, `"ipv6_subnets": ["fe80::/64"], "ipv6": ["fe80::1%$(id)"], "subnet"`), "is not an IPv6 address"},
		{"IPv6 as IPv4", edited(t, "10.0.1.21", "2001:db8::1"), "ipv4: \"2001:db8::1\" is not an IPv4 address"},
		{"mapped", edited(t, "10.0.1.21", "::ffff:10.0.1.21"), "is not an IPv4 address"},
		{"outside", edited(t, "10.0.1.21", "10.0.2.21"), "ipv4: 10.0.2.21 is outside the subnet 10.0.1.0/24"},
		{"same address", edited(t, "10.0.1.21", "10.0.1.20"), "ipv4: 10.0.1.20 is listed twice"},
		{"host bits", edited(t, "10.0.1.0/24", "10.0.1.7/24"), "subnet: 10.0.1.7/24 has bits set beyond its length; did you mean 10.0.1.0/24?"},
		{"whole internet", edited(t, "10.0.1.0/24", "0.0.0.0/0"), "subnet: 0.0.0.0/0 is not an IPv4 block between /8 and /30"},
		{"no gateway", edited(t, "10.0.1.0/24", "10.0.1.20/31"), "between /8 and /30"},
		{"prefix outside", edited(t, `"subnet"`, `"ipv4_prefixes": ["10.9.0.0/28"], "subnet"`), "ipv4_prefixes: 10.9.0.0/28 is outside the subnet"},
		{"no subnet", edited(t, `, "subnet": "10.0.1.0/24"`, ``), "subnet: missing"},
		{"no address", edited(t, `"ipv4": ["10.0.1.20", "10.0.1.21"], `, ``), "ipv4: no address"},
		{"no name", edited(t, `"name": "eth1", `, ``), "name: missing"},
		{"no device number", edited(t, `"device_number": 1, `, ``), "device_number: missing"},
		{"bad name", edited(t, "eth1", "eth1;id"), "name: \"eth1;id\" is not an ENI's name"},
		{"path as name", edited(t, "eth1", "../x"), "name: "},
		{"long name", edited(t, "eth1", "abcdefghijklmnop"), "longer than the 15 characters"},
		{"bad id", edited(t, "eni-0123456789abcdef1", "eni-$(id)"), "id: \"eni-$(id)\" is not an ENI id"},
		{"multicast MAC", edited(t, "02:00", "03:00"), "mac: 03:00:00:00:01:20 is not the address of one interface"},
		{"short MAC", edited(t, "02:00:", ""), "mac: "},
		{"provisional", edited(t, `1, "ipv4"`, `0, "ipv4"`), "device_number: 0 is the primary's"},
		{"not the primary", edited(t, `"ipv4"`, `"primary": true, "ipv4"`), "but the primary ENI has 0"},
		{"another primary", edited(t, `"ipv4"`, `"primary_mac": "02:00:00:00:01:20", "ipv4"`), "primary_mac: 02:00:00:00:01:20, but"},
		{"contradiction", edited(t, `"ipv4"`, `"table": 1002, "metric": 1001, "ipv4"`), "metric: 1001, but table is 1002"},
		{"other index", edited(t, `"ipv4"`, `"index": 0, "ipv4"`), "index: 0, but eth1 has 1"},
		{"no mask", edited(t, `"ipv4"`, `"mark_mask": "0x0", "ipv4"`), "mark_mask: "},
		{"network as address", edited(t, "10.0.1.21", "10.0.1.0"), "is the network, the gateway or the broadcast address"},
		{"gateway as address", edited(t, "10.0.1.21", "10.0.1.1"), "is the network, the gateway or the broadcast address"},
		{"broadcast as address", edited(t, "10.0.1.21", "10.0.1.255"), "is the network, the gateway or the broadcast address"},
		{"other gateway", edited(t, `"ipv4"`, `"gateway": "10.0.1.254", "ipv4"`), "gateway: 10.0.1.254, but the subnet 10.0.1.0/24 has 10.0.1.1"},
		{"index too large", edited(t, "eth1", "eth99999"), "index: 99999 of eth99999 is too large"},
		{"index far too large", edited(t, "eth1", "eth99999999999"), "too large"},
		{"no index of its own", edited(t, `"eth1", "mac": "02:00:00:00:01:20", "id": "eni-0123456789abcdef1",
	"device_number": 1`, `"ens6", "mac": "02:00:00:00:01:20", "id": "eni-0123456789abcdef1", "device_number": 100`), "device_number: 100: only 0 to 99"},
		{"megabyte", edited(t, `"eth1"`, long), "more than 1048576 bytes"},
		{"half a megabyte", edited(t, `"eth1"`, long[:1<<19]+`"`), "name: "},
		{"truncated", eth1JSON[:40], "the JSON ends too early"},
		{"empty", "", "no facts"},
		{"not JSON", "eth1", "not JSON"},
		{"array", "[" + eth1JSON + "]", "expected a JSON object"},
		{"bracket behind", eth1JSON + "]", "other than a JSON object follows"},
		{"same ENI twice", eth1JSON + eth1JSON, "eth1 has facts twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			enis, err := Decode(strings.NewReader(c.json), DefaultNumbers)
			if err == nil {
				t.Fatalf("took it: %+v", enis)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("not one clear line: %q", err)
			}
		})
	}
}

// No input leads to a panic. Facts that Decode accepts are safe, and stay the same when
// encoded and decoded again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(eth1JSON))
	for _, name := range []string{"eth1", "ens6"} {
		data, err := os.ReadFile("examples/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		enis, err := Decode(bytes.NewReader(data), DefaultNumbers)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := Encode(&out, enis); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(bytes.NewReader(out.Bytes()), DefaultNumbers)
		if err != nil {
			t.Fatalf("what facts printed is not read again: %v\n%s", err, out.String())
		}
		if len(again) != len(enis) {
			t.Fatalf("%d ENIs became %d", len(enis), len(again))
		}
		for _, e := range again {
			mustBeSafe(t, e)
		}
	})
}

// The primary's rules have a priority of their own. What version 0.1 printed, with its
// number, is read too.
func TestPrimaryPriority(t *testing.T) {
	for priority, right := range map[int]bool{PrimaryPriority: true, 1000: true, 5: false} {
		text := edited(t, `"device_number": 1`, fmt.Sprintf(`"device_number": 0, "primary": true, "table": 1000, "priority": %d`, priority))
		enis, err := Decode(strings.NewReader(strings.Replace(text, `"eth1"`, `"eth0"`, 1)), DefaultNumbers)
		if (err == nil) != right || right && enis[0].Priority() != PrimaryPriority {
			t.Errorf("priority %d: %+v, %v", priority, enis, err)
		}
	}
}
