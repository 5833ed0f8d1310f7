package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// eth1 is the port of a bridge that ifupdown makes, with DHCP on the bridge: ec2net starts
// no second DHCP client, and gives eth1 no address, whether eth1 comes before the bridge
// or after; nor when it comes again.
func TestPortOfBridge(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := boot(t, v, lab.Setup{})
	// bridge-utils is not in the tree: the stanza makes the bridge itself.
	i.WriteFile(t, "/etc/network/interfaces.d/br1.cfg", `iface br1 inet dhcp
    bridge_ports eth1
    pre-up ip link add br1 address $(cat /sys/class/net/eth1/address) type bridge forward_delay 0 && ip link set eth1 up master br1
    post-down ip link del br1
`)
	for _, round := range []string{"at first", "again"} {
		eth1.Attach(t, "eth1")
		i.WaitSh(t, "! pgrep -f '[e]c2net hotplug'")
		i.Sh(t, "INTERFACE=eth1 ec2net hotplug add || test $? = 6") // before the bridge
		i.Sh(t, "ifup br1")
		i.Sh(t, "INTERFACE=eth1 ec2net hotplug add || test $? = 6; ec2ifupscan")
		oneClient(t, i, "br1")
		if n := clients(t, i, "eth1"); n != 0 {
			t.Errorf("%s: %d DHCP clients on eth1", round, n)
		}
		if out := i.Sh(t, "ip -4 addr show dev eth1; ip rule; ls /etc/network/interfaces.d"); strings.Contains(out, "inet ") ||
			strings.Contains(out, "1001") || strings.Contains(out, "eth1.cfg") {
			t.Errorf("%s: ec2net has touched eth1:\n%s", round, out)
		}
		i.Sh(t, "ifdown br1")
		eth1.Detach(t)
	}
	if log := i.Log(t); !strings.Contains(log, "eth1: is left alone: it is a port of br1, by /etc/network/interfaces.d/br1.cfg") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// An ENI that is up becomes the port of a bridge: ec2net lets go of its rules and
// secondary addresses at the next event.
func TestBecomesPortOfBridge(t *testing.T) { onStacks(t, testBecomesPortOfBridge) }

func testBecomesPortOfBridge(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{})
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, "ip link add br1 type bridge && ip link set eth1 master br1 && ip link set br1 up && ec2net refresh")
	if out := i.Sh(t, "ip rule; ip addr show dev eth1"); strings.Contains(out, "lookup 1001") || strings.Contains(out, "10.0.0.21") {
		t.Errorf("what ec2net has made is still there:\n%s", out)
	}
	answer(t, []*lab.Place{v.Client}, "10.0.0.10") // frames of the bridge itself are dropped
}
