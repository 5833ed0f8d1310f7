package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// dhcpcd in place of dhclient, Debian 13's default: from "add" to an answer,
// fifty events that change nothing, addresses that come and go.
func TestDhcpcd(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	// dhcpcd would probe an address for five seconds before it takes it.
	i := boot(t, v, lab.Setup{Release: "trixie", Dhcpcd: true, Prepare: "echo noarp >>/etc/dhcpcd.conf"})
	neighbour := v.Host(t, "10.0.0.99")
	touchTables(t, i)
	before := i.State(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client, neighbour}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
	if n := clients(t, i, "eth1"); n != 1 {
		t.Errorf("%d DHCP clients", n)
	}
	state := i.State(t)
	const hook = `
hook() { env reason="$1" interface=eth1 new_ip_address=10.0.0.20 dash -ec '. /usr/lib/dhcpcd/dhcpcd-hooks/90-ec2net; echo "status $?"'; }
`
	if out := i.Sh(t, hook+"for n in $(seq 25); do hook RENEW; hook INFORM; hook CARRIER; done"); strings.Count(out, "status 0\n") != 75 {
		t.Errorf("the hook says\n%s", out)
	}
	sameState(t, "renewed", state, i.State(t))

	eth1.Assign(t, "10.0.0.25")
	eth1.Unassign(t, "10.0.0.21")
	i.Sh(t, "dhcpcd -n eth1") // renews, by the real hook
	i.WaitSh(t, "ip addr | grep -q 10.0.0.25 && ! ip addr | grep -q 10.0.0.21")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.25")
	i.Sh(t, hook+"hook EXPIRE")
	lacks(t, i.Sh(t, "ip rule"), "proto 236")

	eth1.Detach(t)
	waitDown(t, i, "eth1")
	sameState(t, "unplugged", before, i.State(t))
}
