package endtoend

import (
	"flag"
	"strings"
	"testing"
	"time"

	"ec2net/lab"
)

var leaseTime = flag.Duration("lease", 125*time.Second, "how long to look at leases of two minutes")

// Leases of two minutes on two ENIs of one subnet, under a DHCP server that
// hears no ENI through another's port. Dhclient's renewal of eth1 is unicast and leaves by
// eth0: it is dropped. The broadcasts on eth1 itself that follow after half of the
// time bind it again: no lease runs out.
func TestLeases(t *testing.T) { onStacks(t, testLeases) }

func testLeases(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{Lease: 2 * time.Minute})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{})
	neighbour := v.Host(t, "10.0.0.99")
	places := []*lab.Place{v.Client, neighbour}
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	before := i.State(t)
	monitor := i.Start(t, lab.Cmd{Args: []string{"ip", "-4", "-o", "monitor", "address", "rule"}})

	for end := time.Now().Add(*leaseTime); time.Now().Before(end); {
		for _, p := range places {
			for _, a := range []string{"10.0.0.10", "10.0.0.20", "10.0.0.21"} {
				if err := p.TCP(a + ":7"); err != nil {
					t.Errorf("%s does not answer: %v", a, err)
				}
			}
		}
		select {
		case <-t.Context().Done():
		case <-time.After(time.Second):
		}
	}
	monitor.Signal(stop)
	<-monitor.Ended()
	seen, _ := monitor.Output()
	if strings.Contains(seen, "Deleted") {
		t.Errorf("lost for a moment:\n%s", seen)
	}
	if s.setup.Image {
		leasesOfNetworkd(t, i, seen)
		sameState(t, "after "+leaseTime.String(), before, i.State(t))
		return
	}
	log := i.Log(t)
	for _, name := range []string{"eth0", "eth1"} {
		if n := strings.Count(log, "DHCPREQUEST for 10.0.0."+map[string]string{"eth0": "10", "eth1": "20"}[name]+" on "+name); n < 2 {
			t.Errorf("%s has asked for its lease %d times:\n%s", name, n, log)
		}
	}
	t.Logf("eth1 asked by unicast %d times, by broadcast %d times", strings.Count(log, "on eth1 to 10.0.0.1 port 67"), strings.Count(log, "on eth1 to 255.255.255.255 port 67"))
	// A running renewal ends, and none begins.
	i.Sh(t, "pkill -STOP -x dhclient")
	i.WaitSh(t, "! pgrep -r D,R,S,T -f '[d]hclient-script|[e]c2net lease' >/dev/null")
	sameState(t, "after "+leaseTime.String(), before, i.State(t))
	i.Sh(t, "pkill -CONT -x dhclient")

	// The primary's lease bound anew: its route to the subnet is now the younger.
	i.Sh(t, "ifdown eth0; ifup eth0")
	v.ResetCounters(t)
	answer(t, places, "10.0.0.10", "10.0.0.20", "10.0.0.21")
	// A renewal of eth1 is dropped at any time.
	for _, e := range []*lab.ENI{v.Primary, eth1} {
		if c := e.Counters(t); c.Dropped() > c.ForeignDHCP {
			t.Errorf("dropped:\n%s", v.Dropped(t))
		}
	}
}

// leasesOfNetworkd fails unless networkd has renewed both leases: then the kernel tells of the
// address anew.
func leasesOfNetworkd(t *testing.T, i *lab.Instance, seen string) {
	t.Helper()
	for name, addr := range map[string]string{"eth0": "10.0.0.10/24", "eth1": "10.0.0.20/24"} {
		if n := strings.Count(seen, name+"    inet "+addr); n < 2 {
			t.Errorf("%s has renewed its lease %d times:\n%s", name, n, seen)
		}
		if n := clients(t, i, name); n != 1 {
			t.Errorf("%d DHCP clients on %s", n, name)
		}
	}
}

// IMDS answers only after the boot: the boot does not wait for it, and ec2net then
// configures an ENI that was attached meanwhile.
func TestIMDSAfterBoot(t *testing.T) { onStacks(t, testIMDSAfterBoot) }

func testIMDSAfterBoot(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20")
	eth1.Attach(t, "eth1")
	v.IMDS.Fault(hang)
	v.IMDS.ResetLog()
	i := boot(t, v, s.with(lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service"}))
	i.WaitSh(t, "systemctl is-active multi-user.target")
	i.WaitFor(t, "IMDS to be asked", func() bool { return len(v.IMDS.Requests()) > 0 })
	v.IMDS.Heal()
	waitUp(t, i, "eth1")
	i.WaitRunning(t)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20")
	noneFailed(t, i)
}
