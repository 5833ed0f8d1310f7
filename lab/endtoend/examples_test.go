package endtoend

import (
	"os"
	"path/filepath"
	"testing"

	"ec2net/lab"
)

// With each of the examples eth1 comes up, answers at every address and goes away; and
// the example takes effect.
func TestExamples(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the lab needs root")
	}
	there := map[string]string{
		"post-up-line":   "ip link show dev eth1 | grep -qw 'qlen 10000'",
		"own-dns":        "grep -q 'nameserver 10.0.1.2$' /etc/resolv.conf",
		"extra-route":    "ip route show table 1001 | grep -q '^192.168.0.0/16 via 10.0.1.7 dev eth1'",
		"ipv6":           "ip -6 address show dev eth1 | grep -q 2001:db8:0:1::20/128 && ip -6 rule | grep -q 'from 2001:db8:0:1::20 lookup 1001' && ip -6 route show table 1001 | grep -q '^default via fe80::1 dev eth1'",
		"extra-rule":     "ip rule | grep -q 'from 172.20.0.0/16 lookup 1001'",
		"one-interface":  "ip link show dev eth1 | grep -qw 'mtu 9001' && ! iptables -t mangle -S | grep -q ec2net-eth1",
		"static-address": "ip -4 addr show dev eth1 | grep -w 10.0.1.20/24 | grep -qv dynamic && ! pgrep -f '[d]hclient.*eth1'",
	}
	found, err := filepath.Glob("../../examples/*/*.tmpl")
	if err != nil || len(found) != len(there) {
		t.Fatalf("%d templates, %v; want one of each of %d", len(found), err, len(there))
	}
	for _, path := range found {
		name := filepath.Base(filepath.Dir(path))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			i := boot(t, v, lab.Setup{})
			touchTables(t, i)
			before := i.State(t)
			i.WriteFile(t, "/etc/ec2net/templates/"+filepath.Base(path), string(read(t, ".", path)))
			if there[name] == "" {
				t.Fatal("nobody says what this example is for")
			}
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
			i.Sh(t, there[name])
			eth1.Detach(t)
			waitDown(t, i, "eth1")
			sameState(t, "unplugged", before, i.State(t))
		})
	}
}

// The examples that have blocks for systemd-networkd take effect there, too.
func TestExamplesNetworkd(t *testing.T) {
	t.Parallel()
	for name, there := range map[string]string{
		"own-dns":     "resolvectl dns eth1 | grep -q '10.0.1.2$'",
		"extra-route": "ip route show table 1001 | grep -q '^192.168.0.0/16 via 10.0.1.7 dev eth1'",
		"ipv6":        "ip -6 route show table 1001 | grep -q '^default .* dev eth1'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{IPv6: name == "ipv6"})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			i := imageStack.boot(t, v, lab.Setup{})
			i.WriteFile(t, "/etc/ec2net/templates/blocks.tmpl", string(read(t, "../../examples", name+"/blocks.tmpl")))
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
			i.WaitSh(t, there)
			if name == "ipv6" {
				listen6(t, v)
				for _, e := range []*lab.ENI{v.Primary, eth1} {
					if err := sends6(t, i, e); err != nil {
						t.Errorf("from %s: %v", e.IPv6, err)
					}
				}
			}
		})
	}
}
