package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// ec2ifup of an ENI that is up says what it did, or that nothing changed, and what only
// ec2ifdown and ec2ifup apply.
func TestUpAgain(t *testing.T) { onStacks(t, testUpAgain) }

func testUpAgain(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{Prepare: "echo EC2NET_MARKS=yes >>/etc/default/ec2net"})
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	up := func(when string, want ...string) {
		t.Helper()
		out := i.Sh(t, "ec2ifup eth1 2>&1")
		if lines := strings.Count(out, "\n"); lines != len(want) {
			t.Errorf("%s: %d lines, want %d:\n%s", when, lines, len(want), out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q in\n%s", when, w, out)
			}
		}
	}
	const whole = "ec2net: eth1: is up, nothing to change"
	up("nothing to do", whole)

	marks := i.Sh(t, "iptables -t mangle -S")
	i.Sh(t, "iptables -t mangle -F ec2net-eth1")
	up("its chain flushed", "ec2net: eth1: marks were missing: restored them")
	i.Sh(t, "iptables -t mangle -F; iptables -t mangle -X")
	up("all marks flushed", "ec2net: eth0: marks were missing: restored them", "ec2net: eth1: marks were missing: restored them")
	if now := i.Sh(t, "iptables -t mangle -S"); now != marks {
		t.Errorf("marks:\n%s\nwant:\n%s", now, marks)
	}
	i.Sh(t, "ip rule del pref 1001 from 10.0.1.21")
	up("a rule deleted", "eth1: ip rule add pref 1001 from 10.0.1.21 lookup 1001 protocol 236 (hotplug)")

	var client []string
	if !s.setup.Image { // systemd-networkd is no process of eth1's
		i.Sh(t, "kill $(cat /run/dhclient.eth1.pid)")
		i.WaitSh(t, "! grep -qs '^State:.[DRST]' /proc/$(cat /run/dhclient.eth1.pid)/status")
		client = []string{`no DHCP client runs for it: "ec2ifdown eth1" and "ec2ifup eth1" start one`}
		up("its client killed", client...)
	}
	i.Sh(t, `printf '{{define "cfg-post-up"}}\n    post-up true\n{{end}}{{define "network-dhcp"}}\nRequestOptions=42\n{{end}}' >/etc/ec2net/templates/blocks.tmpl`)
	up("a template changed", append(client, "wrote "+s.file,
		s.file+` has changed since it came up: "ec2ifdown eth1" and "ec2ifup eth1" apply it`)...)
	i.Sh(t, "ec2ifdown eth1 && ec2ifup eth1")
	up("taken down and brought up", whole)
}
