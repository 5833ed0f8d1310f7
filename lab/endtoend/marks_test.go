package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// tracked is how many connections the kernel tracks in the instance's namespace, and
// whether it has reason to.
const tracked = "conntrack -C 2>/dev/null; iptables -t mangle -S | grep ec2net || true"

// A host without docker and NAT has no marks, and no flow is tracked. When it begins to
// forward, its marks come; when it ends, they go.
func TestMarksNone(t *testing.T) { onStacks(t, testMarksNone) }

func testMarksNone(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{Prepare: "echo net.ipv4.ip_forward=0 >/etc/sysctl.d/lab.conf"})
	i.Sh(t, "sysctl -q net.ipv4.ip_forward=0")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
	if got := i.Sh(t, tracked); got != "0\n" {
		t.Errorf("connections that are tracked, and marks:\n%s", got)
	}
	watch := i.Start(t, lab.Cmd{Args: []string{"ec2net", "watch"}})
	i.Sh(t, "sysctl -q net.ipv4.ip_forward=1; ip link add some type bridge") // docker makes docker0
	i.WaitSh(t, "iptables -t mangle -S | grep -q -e '-i eth1 -j ec2net-eth1'")
	answers(t, v, []*lab.Place{v.Client}, "10.0.1.20")
	if got := i.Sh(t, tracked); strings.HasPrefix(got, "0\n") {
		t.Errorf("nothing is tracked, with marks:\n%s", got)
	}
	i.Sh(t, "sysctl -q net.ipv4.ip_forward=0; ip link del some")
	i.WaitSh(t, "! iptables -t mangle -S | grep ec2net")
	watch.Signal(stop)
	<-watch.Ended()
}

// A NAT instance: what hosts behind eth1 send through it leaves by eth0, and their
// answers come back.
func TestMarksNAT(t *testing.T) { onStacks(t, testMarksNAT) }

func testMarksNAT(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{})
	i.Sh(t, "sysctl -q net.ipv4.ip_forward=1; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	eth1.Allow(t, outside)
	v.Client.Echo(t, 7)
	host := v.Host(t, "10.0.1.99")
	eth1.RouterOf(t, host)
	for _, network := range []string{"tcp", "udp"} {
		conn, err := host.Dial(network, "", outside+":7")
		if err != nil {
			t.Errorf("by %s: %v", network, err)
			continue
		}
		from, err := lab.Ask(conn)
		conn.Close()
		if err != nil || !strings.HasPrefix(from, "10.0.0.10:") {
			t.Errorf("a host behind eth1 asks by %s: to the client it is %q, not eth0: %v", network, from, err)
		}
	}
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
	if sent := eth1.Counters(t); sent.Dropped() != 0 {
		t.Errorf("dropped at eth1: %+v", sent)
	}
}

// A guest on a bridge that is not docker's, with published ports by rules that are not
// docker's: it answers by the ENI of the request, also when a firewall was loaded anew,
// and with the other back end of iptables.
func TestMarksBridge(t *testing.T) { onStacks(t, testMarksBridge) }

func testMarksBridge(t *testing.T, s stack) {
	for _, backend := range s.backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			i := s.boot(t, v, lab.Setup{Prepare: "update-alternatives --set iptables /usr/sbin/iptables-" + backend})
			v.Client.Echo(t, 7)
			guest := guestOnBridge(t, i)
			i.Sh(t, publish)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			check := func(when string) {
				t.Helper()
				t.Log(when)
				v.ResetCounters(t) // such as the DHCP server's offer, which is for no address of the machine yet
				answersAt(t, v, "81", "10.0.0.10", "10.0.1.20", "10.0.1.21")
				if err := guest.TCP(outside + ":7"); err != nil {
					t.Errorf("%s: the guest reaches nobody: %v", when, err)
				}
				if n := strings.TrimSpace(i.Sh(t, "iptables-save -t mangle | grep -c -e '-A PREROUTING.* -j ec2net-'")); n != "3" { // for eth0, eth1 and answers
					t.Errorf("%s: %s jumps", when, n)
				}
			}
			check("a bridge")
			flush := map[string]string{"nft": "nft flush ruleset", "legacy": "iptables -t mangle -F; iptables -t mangle -X"}[backend]
			i.Sh(t, flush+publish)
			for _, again := range []string{"ec2ifup eth1", "ec2net refresh", "ec2ifupscan", "ec2net docker up", "ec2net marks"} {
				i.Sh(t, flush+publish+"\n"+again)
				check(flush + "; " + again)
			}
			watch := i.Start(t, lab.Cmd{Args: []string{"ec2net", "watch", "--refresh", "10s"}})
			i.WaitSh(t, "pgrep -f '[e]c2net watch'")
			const jump = "iptables-save -t mangle | grep -q -e '-i eth1 -j ec2net-eth1'"
			i.Sh(t, flush+publish)
			i.WaitSh(t, jump)
			i.WaitSh(t, "iptables-save -t mangle | grep -q -e '-A PREROUTING -j ec2net-docker'")
			check(flush + ", watched")
			other := map[string]string{"nft": "legacy", "legacy": "nft"}[backend]
			i.Sh(t, "update-alternatives --set iptables /usr/sbin/iptables-"+other)
			i.WaitSh(t, jump+" && ! iptables-"+backend+"-save | grep ec2net")
			watch.Signal(stop)
			<-watch.Ended()
			check("another back end")
			i.Sh(t, "update-alternatives --set iptables /usr/sbin/iptables-"+backend)
			eth1.Detach(t)
			waitDown(t, i, "eth1")
			lacks(t, i.Sh(t, "iptables-legacy-save; iptables-nft-save"), "ec2net")
		})
	}
}

// guestOnBridge makes a guest on a bridge that is not docker's.
func guestOnBridge(t *testing.T, i *lab.Instance) *lab.Place {
	t.Helper()
	guest := i.Beyond(t, "guest0", "192.0.2.1/30", "192.0.2.2/30")
	guest.Echo(t, 7)
	i.Sh(t, `sysctl -q net.ipv4.ip_forward=1
ip addr flush dev guest0
ip link add br9 type bridge
ip link set guest0 master br9
ip addr add 192.0.2.1/30 dev br9
ip link set br9 up`)
	return guest
}

// publish publishes the guest's port as 81, by rules that are not docker's.
const publish = "\nnft -f - <<'END'\n" + portRules + "END"

const portRules = `table ip guests {
	chain in { type nat hook prerouting priority dstnat; fib daddr type local meta l4proto { tcp, udp } th dport 81 dnat to 192.0.2.2:7; }
	chain out { type nat hook postrouting priority srcnat; ip saddr 192.0.2.0/30 oifname "eth*" masquerade; }
}
`

// What takes an ENI down and brings it up by hand removes and makes the marks.
func TestMarksIfup(t *testing.T) { onStacks(t, testMarksIfup) }

func testMarksIfup(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20")
	i := s.boot(t, v, lab.Setup{})
	i.Sh(t, "sysctl -q net.ipv4.ip_forward=1")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	marks := i.Sh(t, "iptables -t mangle -S")
	i.Sh(t, s.down)
	lacks(t, i.Sh(t, "iptables -t mangle -S"), "ec2net-eth1")
	i.Sh(t, s.up)
	sameState(t, s.down+" and "+s.up, sorted(marks), sorted(i.Sh(t, "iptables -t mangle -S")))
}
