package endtoend

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

// A disturbance is what another program does to the network of an instance with eth1.
type disturbance struct{ name, script string }

var disturbances = []disturbance{
	{"a rule deleted", "ip rule del from 10.0.1.21"},
	{"all rules of ec2net deleted", "ip rule flush protocol 236"},
	{"all rules deleted, and the kernel's own made again", "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default"},
	{"the routes of table 1001 deleted", "for to in 10.0.1.0/24 default; do ip route del $to dev eth1 table 1001; done"},
	{"table 1001 flushed, with a route of a template in it", "ip route flush table 1001"},
	{"eth1 set down and up", "ip link set eth1 down; ip link set eth1 up"},
	{"rp_filter of eth1 set back to strict", "sysctl -qw net.ipv4.conf.eth1.rp_filter=1"},
	{"an address removed", "ip addr del 10.0.1.21/32 dev eth1"},
	{"the group set back", "ip link set eth1 group 0"},
}

// snapshot is a shell function that prints what the disturbances change, without what
// comes back with another order or lifetime, and without eth1's default route in main: that
// is dhclient's, and comes back with its next lease.
const snapshot = `
snapshot() {
	ip rule | sort; ip -o link | sed -n 's/.*: \(eth[0-9]*\)[:@].*\(group [^ ]*\).*/\1 \2/p'
	ip -o -4 addr | awk '{ print $2, $4 }' | sort
	ip -4 route show table all | sed 's/ proto [a-z0-9]*//' | grep -v '^default via 10.0.1.1 dev eth1 metric 1001 *$' | sort
	cat /proc/sys/net/ipv4/conf/eth1/rp_filter
}
`

// What other programs take away is there again by itself, with watch; without it the
// next lease brings it.
func TestWatch(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := boot(t, v, lab.Setup{Systemd: true, Prepare: ownRoute + "systemctl enable ec2net-scan.service ec2net-watch.service"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "systemctl is-active -q ec2net-watch && test inactive = $(systemctl is-active ec2net-hotplug@eth1.service)")
	places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99"), v.Host(t, "10.0.1.99")}

	table := "| what another program does | with watch, there again after | without watch |\n| --- | --- | --- |\n"
	took := make(map[string]time.Duration)
	for _, d := range disturbances {
		before := i.Sh(t, snapshot+"snapshot")
		i.Sh(t, "true") // the shell is warm
		out := i.Sh(t, snapshot+`before=$(snapshot)
`+d.script+`
begin=$(date +%s%N)
n=0
until test "$before" = "$(snapshot)"; do
	n=$((n + 1))
	test $n -lt 600 || exit 0
	sleep 0.05
done
echo $(( ($(date +%s%N) - begin) / 1000000 ))`)
		ms, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatalf("%s: not there again; before:\n%s\nnow:\n%s", d.name, before, i.Sh(t, snapshot+"snapshot"))
		}
		took[d.name] = time.Duration(ms) * time.Millisecond
	}
	v.ResetCounters(t)
	answers(t, v, places[:1], "10.0.0.10", "10.0.0.11", "10.0.1.20", "10.0.1.21")

	// Watch ends, and begins where it was.
	i.Sh(t, "systemctl stop ec2net-watch")
	for _, d := range disturbances {
		before := i.Sh(t, snapshot+"snapshot")
		i.Sh(t, d.script)
		if now := i.Sh(t, snapshot+"snapshot"); now == before {
			t.Errorf("%s: disturbs nothing", d.name)
		}
		i.Sh(t, "env reason=RENEW interface=eth1 new_ip_address=10.0.1.20 dash -c '. /etc/dhcp/dhclient-exit-hooks.d/ec2net'")
		sameState(t, d.name+", and a renewal", before, i.Sh(t, snapshot+"snapshot"))
		table += fmt.Sprintf("| %s | %.1f s | with the next lease |\n", d.name, took[d.name].Seconds())
	}
	i.Sh(t, "ip rule del from 10.0.1.21; systemctl start ec2net-watch")
	i.WaitSh(t, "ip rule | grep -q 'from 10.0.1.21 lookup 1001'")
	noneFailed(t, i)
	report.Update(t, "../../docs/reliability.md", "watch", table)
}

// EC2 assigns and takes addresses of eth1 and of the primary: they follow with the next
// refresh. The settings are those of now: EC2NET_REFRESH is read anew.
func TestWatchRefresh(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, "echo EC2NET_REFRESH=10s >>/etc/default/ec2net; ip rule del from 10.0.1.21")
	eth1.Assign(t, "10.0.1.22")
	eth1.Unassign(t, "10.0.1.21")
	v.Primary.Assign(t, "10.0.0.12")
	v.Primary.Unassign(t, "10.0.0.11")
	i.WaitSh(t, `
ip addr show dev eth1 | grep -qF 10.0.1.22/32 && ip rule | grep -q 'from 10.0.1.22 lookup 1001' && ! ip rule | grep -q 10.0.1.21 &&
! ip addr show dev eth1 | grep -qF 10.0.1.21/32 && ip addr show dev eth0 | grep -qF 10.0.0.12 && ! ip addr show dev eth0 | grep -qF 10.0.0.11`)
	v.ResetCounters(t)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.12", "10.0.1.20", "10.0.1.22")
	noneFailed(t, i)
}
