package hooks

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// disturbances are what other programs do to rules, routes, addresses and links, as
// commands of a shell.
var disturbances = strings.Split(`ip rule flush protocol 236
ip rule flush; ip rule add pref 32766 lookup main
ip rule del pref 999
ip rule del pref 1001
ip rule del pref 32764
ip rule del pref 32765
ip rule add pref 999 lookup main suppress_prefixlength 1 suppress_ifgroup 1000 protocol 236
ip rule add pref 1001 lookup 1001
ip rule add pref 1001 from 10.0.1.20 lookup 1001
ip rule add pref 32764 from 10.0.0.0/24 lookup main suppress_prefixlength 1 suppress_ifgroup 1000
ip rule add pref 32765 lookup 1000
ip rule add pref 32765 from 10.0.0.10 lookup 1001 protocol 236
ip rule add pref 32765 lookup 52
ip route flush table 1000
ip route flush table 1001
ip route replace default via 10.0.1.9 dev eth1 table 1001
ip route del unreachable default table 1001 metric 65535
ip route add 10.60.0.0/16 via 10.0.1.7 dev eth1 table 1001
ip route add 10.61.0.0/16 dev eth1 table 1001 proto 236
ip route add 10.61.0.0/16 dev eth0 table 1000 proto 236
ip route add 10.50.0.0/16 via 10.0.1.7 dev eth1
ip route append 10.50.0.0/16 via 10.0.1.9 dev eth1
ip route add 10.50.0.0/16 tos 0x10 via 10.0.1.8 dev eth1
ip route change 10.50.0.0/16 via 10.0.1.8 dev eth1 mtu lock 1300
ip route add 10.50.0.0/16 via 10.0.0.7 dev eth0 metric 7
ip route add blackhole 10.50.0.0/16 metric 3
ip route del 10.50.0.0/16
ip route add 10.51.0.0/16 nexthop via 10.0.0.7 dev eth0 nexthop via 10.0.0.8 dev eth0
ip route replace 10.51.0.0/16 via 10.0.1.9 dev eth1
ip nexthop add id 7 via 10.0.1.7 dev eth1; ip route add 10.70.0.0/16 nhid 7
ip nexthop replace id 7 via 10.0.0.7 dev eth0
ip nexthop del id 7
ip route add 10.0.1.64/26 via 10.0.0.9 dev eth0
ip route add 10.0.1.128/25 dev eth2
ip route replace default via 10.0.0.1 dev eth0 metric 3000 proto dhcp
ip route replace default via 10.0.0.1 dev eth0 metric 1001 proto dhcp
ip route replace default via 10.0.0.9 dev eth0
ip route append default via 10.0.0.8 dev eth0 mtu 1400
ip route add default via 10.0.0.1 dev eth0 proto 236 metric 1000
ip route del default proto 236
ip route del default dev eth0
ip route add default via 10.0.1.1 dev eth1 metric 1001 proto dhcp
ip route add default via 10.0.1.1 dev eth1 metric 50 proto dhcp
ip route prepend 10.0.0.0/24 dev eth1 proto kernel
ip addr add 10.0.0.77/24 dev eth0
ip addr del 10.0.0.77/24 dev eth0
ip addr del 10.0.1.21/32 dev eth1
ip addr add 192.168.9.2/24 dev eth1; ip route add 10.52.0.0/16 via 192.168.9.1 dev eth1
ip addr del 192.168.9.2/24 dev eth1
ip addr flush dev eth0; ip addr add 10.0.0.10/24 dev eth0; ip route add default via 10.0.0.1 dev eth0
ip link set eth0 group 0
ip link set eth1 group 0
ip link set eth1 down; ip link set eth1 up
ip link set eth0 down; ip link set eth0 up; ip route add default via 10.0.0.1 dev eth0
ip link set eth1 down; ip link set eth1 name foo; ip link set foo name eth1; ip link set eth1 up
ip link add br0 type bridge; ip link set eth1 master br0; ip link set eth1 nomaster; ip link del br0`, "\n")

// Whatever other programs do while watch runs, soon nothing differs from what should be. Then
// packets from an ENI's address leave by that ENI, and the primary's answers to a host in
// eth1's subnet by the primary, while the primary has a default route.
func TestDisturbedAtRandom(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip(8)")
	}
	r := rand.New(rand.NewPCG(*seed, 0))
	for range 3 {
		onMachine(t, func(m *machine) {
			m.Numbers.Primary = true
			m.address(t, "eth0", "10.0.0.10/24")
			sh(t, "ip route add default via 10.0.0.1 dev eth0")
			m.lease(t, "eth0", "BOUND", "10.0.0.10")
			two(t, m)
			ctx, stop := context.WithCancel(t.Context())
			changed, err := m.Kernel.Watch(ctx)
			check(t, err)
			h := *m.Host
			h.Log, h.Kernel = silence{}, listening{m.Kernel, changed}
			ended := make(chan error, 1)
			go func() { ended <- Watch(ctx, func() *Host { return &h }) }()
			var done []string
			for range 4 { // more may look like a program that undoes ec2net's changes
				for range 1 + r.IntN(5) {
					done = append(done, disturbances[r.IntN(len(disturbances))])
					_ = exec.Command("sh", "-c", done[len(done)-1]).Run() // there may be nothing to disturb
				}
				m.calm(t)
				m.leaves(t)
				if t.Failed() {
					t.Logf("seed %d:\n%s", *seed, strings.Join(done, "\n"))
					break
				}
			}
			stop()
			check(t, <-ended)
		})
		if t.Failed() {
			return
		}
	}
}

// calm waits until nothing differs.
func (m *machine) calm(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if s := m.statusNow(t, ""); !s.Differs {
			return
		} else if time.Now().After(deadline) {
			t.Errorf("it still differs: %q", s.Commands)
			return
		}
	}
}

// leaves checks by which interface packets leave. No way is no error: a disturbance may
// have taken it.
func (m *machine) leaves(t *testing.T) {
	t.Helper()
	by := func(to, from string) string {
		out, _ := exec.Command("ip", "-o", "route", "get", to, "from", from).Output()
		_, dev, _ := strings.Cut(string(out), " dev ")
		name, _, _ := strings.Cut(dev, " ")
		return name
	}
	for from, name := range map[string]string{"10.0.1.20": "eth1", "10.0.1.30": "eth2"} {
		for _, to := range []string{"198.51.100.7", "10.0.0.99", "10.0.1.99"} {
			if got := by(to, from); got != "" && got != name {
				t.Errorf("from %s to %s by %s", from, to, got)
			}
		}
	}
	out, _ := exec.Command("ip", "route", "show", "default", "dev", "eth0").Output()
	if !strings.Contains(strings.ReplaceAll(string(out), "default tos", ""), "default") { // a decoy is none
		return
	}
	if got := by("10.0.1.99", "10.0.0.10"); got != "" && got != "eth0" {
		t.Errorf("the primary's answer to eth1's subnet leaves by %s", got)
	}
}
