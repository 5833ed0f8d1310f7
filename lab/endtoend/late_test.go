package endtoend

import (
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// An ENI is attached while the primary has no address, as when its lease is asked for anew: it
// comes up when the primary has one.
func TestPrimaryLate(t *testing.T) { onStacks(t, testPrimaryLate) }

func testPrimaryLate(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{Systemd: true})
	i.WaitRunning(t)
	v.DHCP(t, lab.Silent)
	i.Sh(t, "("+s.primary+") >/dev/null 2>&1 &")
	i.WaitSh(t, "! ip -4 address show dev eth0 | grep -q inet")
	eth1.Attach(t, "eth1")
	i.WaitFor(t, "hotplug to wait for the primary", func() bool {
		return strings.Contains(i.Log(t), "eth1: the primary ENI has no address yet")
	})
	v.DHCP(t, lab.Up)
	waitUp(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
}

const refreshing = "pgrep -f '[e]c2net refresh eth1'"

// An ENI is attached again, its addresses are others than before, and IMDS answers
// late: it comes up with the old ones, and has the new ones seconds after IMDS answers.
// One process asks until then: it outlives the hook and the unit that started it,
// holds no file of the hook's caller, and ends.
func TestReattachedWhileIMDSIsLate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		stack
		setup lab.Setup
	}{
		"dhclient":          {ifupdown, lab.Setup{}},
		"dhclient, systemd": {ifupdown, lab.Setup{Systemd: true}},
		"dhcpcd, systemd":   {ifupdown, lab.Setup{Release: "trixie", Systemd: true, Dhcpcd: true, Prepare: "echo noarp >>/etc/dhcpcd.conf"}},
		"networkd":          {imageStack, lab.Setup{Systemd: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			i := c.boot(t, v, c.setup)
			if c.setup.Systemd {
				i.WaitRunning(t)
			}
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			i.WaitSh(t, "! "+refreshing)
			eth1.Detach(t)
			waitDown(t, i, "eth1")
			eth1.Assign(t, "10.0.0.25")
			eth1.Unassign(t, "10.0.0.21")

			v.IMDS.Fault(imds.Fault{Status: 503})
			eth1.Attach(t, "eth1")
			i.WaitFor(t, "eth1 uses the remembered facts", func() bool {
				return c.stack.setup.Image || strings.Contains(i.Log(t), "eth1: IMDS") && strings.Contains(i.Log(t), "using the remembered facts")
			})
			waitUp(t, i, "eth1")
			if c.setup.Systemd {
				i.WaitSh(t, "test inactive = $(systemctl is-active ec2net-hotplug@eth1.service)")
				noneFailed(t, i)
			}
			i.Sh(t, refreshing+" && ip rule | grep -q 'from 10.0.0.21 lookup 1001'")

			// The hook's caller may wait until its pipes are closed: cat ends before the
			// process in the background does.
			i.Sh(t, "env "+c.renew("eth1", "10.0.0.20")+" 2>&1 7>&1 | cat; "+refreshing)
			i.WaitSh(t, "test 1 = $("+refreshing+" | wc -l)")

			v.IMDS.Heal()
			healed := time.Now()
			i.WaitSh(t, `
ip address show dev eth1 | grep -qwF 10.0.0.25 && ! ip address show dev eth1 | grep -qwF 10.0.0.21 &&
ip rule | grep -q 'from 10.0.0.25 lookup 1001' && ! ip rule | grep -q 'from 10.0.0.21' && grep -q 10.0.0.25 /var/lib/ec2net/eth1.json`)
			t.Logf("current %v after IMDS", time.Since(healed))
			i.WaitSh(t, "! "+refreshing)
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.25")
			if c.setup.Systemd {
				noneFailed(t, i)
			}
		})
	}
}
