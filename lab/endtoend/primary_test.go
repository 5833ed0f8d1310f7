package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// With eth1 attached, eth0 goes on answering a host in eth1's subnet that asks for
// eth0's address. The table has main's routes through the primary, as soon as they
// change.
func TestPrimaryTable(t *testing.T) { onStacks(t, testPrimaryTable) }

func testPrimaryTable(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20")
	i := s.boot(t, v, lab.Setup{Systemd: true,
		Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service"})
	i.WaitRunning(t)
	lacks(t, i.State(t), "proto 236", "table 1000")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "ip route show table 1000 | grep -q default")
	places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99"), v.Host(t, "10.0.1.99")}
	answers(t, v, places, "10.0.0.10", "10.0.0.11", "10.0.1.20")

	before := i.State(t)
	i.Sh(t, "ip route add 192.168.77.0/24 via 10.0.0.7 dev eth0; ip route add 192.168.78.0/24 via 10.0.1.7 dev eth1")
	i.WaitSh(t, "ip route show table 1000 | grep -q '192.168.77.0/24 via 10.0.0.7 dev eth0'")
	if via := i.Sh(t, "ip route get 192.168.77.1 from 10.0.0.10"); !strings.Contains(via, "via 10.0.0.7 dev eth0 table 1000") {
		t.Errorf("%s", via)
	}
	i.WaitSh(t, "ip route show table 1001 | grep -q '192.168.78.0/24 via 10.0.1.7 dev eth1'")
	if via := i.Sh(t, "ip route get 192.168.78.1 from 10.0.1.20"); !strings.Contains(via, "via 10.0.1.7 dev eth1 table 1001") {
		t.Errorf("%s", via)
	}
	if table := i.Sh(t, "ip route show table 1000"); strings.Contains(table, "192.168.78") {
		t.Errorf("a route through eth1:\n%s", table)
	}
	i.Sh(t, "ip route del 192.168.77.0/24; ip route del 192.168.78.0/24")
	i.WaitSh(t, "! ip route show table 1000 | grep -q 192.168.77 && ! ip route show table 1001 | grep -q 192.168.78")
	sameState(t, "a static route and none", before, i.State(t))

	// Its rules go with eth1.
	eth1.Detach(t)
	i.WaitSh(t, "! ip rule | grep -q 'proto 236'")
	answers(t, v, places[:2], "10.0.0.10", "10.0.0.11")
	lacks(t, i.State(t), "proto 236", "table 1000")

	// Switched off, they go too.
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "ip rule | grep -q 'lookup 1000'")
	i.Sh(t, `
echo EC2NET_PRIMARY_TABLE=no >>/etc/default/ec2net
systemctl stop ec2net-watch
env `+s.renew("eth0", "10.0.0.10"))
	lacks(t, i.State(t), "lookup 1000", "table 1000")
	noneFailed(t, i)
}
