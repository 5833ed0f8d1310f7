package endtoend

import (
	"testing"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// While one ENI comes up, another one gets its name. Systemd takes the second's start for
// the first's, which is not over.
func TestSwappedOnItsWayUp(t *testing.T) { onStacks(t, testSwappedOnItsWayUp) }

func testSwappedOnItsWayUp(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	first, second := v.AddENI(t, "10.0.0.20"), v.AddENI(t, "10.0.0.30")
	i := s.boot(t, v, lab.Setup{Systemd: true})
	i.WaitRunning(t)
	i.Sh(t, s.hold)
	first.Attach(t, "eth1")
	i.WaitSh(t, "test -e /run/in")
	first.Detach(t)
	second.Attach(t, "eth1")
	i.Sh(t, "udevadm settle; touch /run/go")
	waitUp(t, i, "eth1")
	v.ResetCounters(t) // the first one's lease was given back by eth0
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.30")
	lacks(t, i.State(t), "10.0.0.20")
	oneClient(t, i, "eth1")
	noneFailed(t, i)
}

// Somebody sets eth1 down, or removes its file: ec2net brings it up, and takes it down, all
// the same.
func TestBehindTheStack(t *testing.T) { onStacks(t, testBehindTheStack) }

func testBehindTheStack(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{})
	touchTables(t, i)
	before := i.State(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	up := i.State(t)

	i.Sh(t, "ip link set eth1 down; ec2net up eth1")
	s.sameAgain(t, "down by hand, and up", up, i.State(t))
	oneClient(t, i, "eth1")

	i.Sh(t, "rm "+s.file+"; ec2net down eth1")
	lacks(t, i.State(t), "1001", "10.0.0.20/24", "dhclient.eth1")
	i.Sh(t, "ec2net up eth1; rm "+s.file+"")
	eth1.Detach(t)
	waitDown(t, i, "eth1")
	sameState(t, "unplugged without its file", before, i.State(t))
	if n := clients(t, i, "eth1"); n != 0 {
		t.Errorf("%d DHCP clients are left", n)
	}
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	v.ResetCounters(t)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
}

// IMDS knows which ENI it is, and not yet its addresses.
func TestAddressesLate(t *testing.T) { onStacks(t, testAddressesLate) }

func testAddressesLate(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{})
	eth1.Describe(func(d *imds.ENI) { d.Subnet, d.IPv4 = "", nil })
	v.IMDS.ResetLog()
	eth1.Attach(t, "eth1")
	i.WaitFor(t, "IMDS to be asked", func() bool { return len(v.IMDS.Requests()) > 9 })
	eth1.Describe(nil)
	waitUp(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
}
