package endtoend

import (
	"strconv"
	"strings"
	"testing"

	"ec2net/lab"
)

// A socket that is bound to an address of eth1 reaches the subnets of a VPN, and a VPN
// that takes everything does not take eth1's answers.
func TestDockerVPN(t *testing.T) { onStacks(t, testDockerVPN) }

func testDockerVPN(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Docker: true})
	i.StartDocker(t)
	dockerFinish(t, i)
	c := echo(t, i, "c80", 80)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	far := i.Beyond(t, "vpn0", "192.0.2.1/30", "192.0.2.2/30")
	far.Echo(t, 7)
	reached := func(from, want string, by *lab.Place) {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			conn, err := by.Dial(network, from, "192.0.2.2:7")
			if err != nil {
				t.Errorf("from %q of %s: %v", from, by.Name, err)
				continue
			}
			got, err := lab.Ask(conn)
			if err != nil || !strings.HasPrefix(got, want+":") {
				t.Errorf("from %q of %s by %s: it comes from %q, want %s: %v", from, by.Name, network, got, want, err)
			}
			conn.Close()
		}
	}
	check := func(when string) {
		t.Helper()
		t.Log(when)
		reached("", "192.0.2.1", &i.Place)
		for _, a := range []string{"10.0.0.10", "10.0.0.20", "10.0.0.21"} {
			reached(a, a, &i.Place)
		}
		reached("", "192.0.2.1", &c.Place)
		answersAt(t, v, "80", "10.0.0.20", "10.0.0.21")
		answers(t, v, []*lab.Place{v.Client}, "10.0.0.20", "10.0.0.21")
	}
	check("a subnet")
	answersAt(t, v, "80", "10.0.0.10")
	i.Sh(t, "ip route add 203.0.113.0/24 via 192.0.2.2; ip route get 203.0.113.5 from 10.0.0.20 | grep -q 'dev vpn0'; ip route del 203.0.113.0/24")
	i.Sh(t, "ip route add 0.0.0.0/1 via 192.0.2.2; ip route add 128.0.0.0/1 via 192.0.2.2")
	check("everything, as two halves")
	i.Sh(t, "ip route get "+outside+" | grep -q 'dev vpn0'")
	i.Sh(t, "ip route del 0.0.0.0/1; ip route del 128.0.0.0/1; ip route add default via 192.0.2.2 metric 0 || ip route replace default via 192.0.2.2")
	check("everything, as the default route")
}

// Marks of others stay: those in bits outside ec2net's mask, and those in its bits on
// packets that belong to no connection of an ENI.
func TestDockerMarks(t *testing.T) { onStacks(t, testDockerMarks) }

func testDockerMarks(t *testing.T, s stack) {
	for _, backend := range s.backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			i := s.boot(t, v, lab.Setup{Docker: true, Prepare: "update-alternatives --set iptables /usr/sbin/iptables-" + backend})
			i.StartDocker(t)
			// An administrator's, before there is anything of ec2net's. The
			// counters are seen by their comments.
			i.Sh(t, `
iptables -t mangle -A PREROUTING -i docker0 -j MARK --set-xmark 0x10001/0x10001
iptables -t mangle -A PREROUTING -i eth1 -j MARK --set-xmark 0x20000/0x20000
iptables -t mangle -A PREROUTING -i eth1 -j CONNMARK --set-xmark 0x40000/0x40000
count() { iptables -t mangle -A "$@"; }
count POSTROUTING -s 172.17.0.0/16 -o eth0 -m conntrack --ctdir ORIGINAL -m comment --comment out
count POSTROUTING -s 172.17.0.0/16 -o eth0 -m conntrack --ctdir ORIGINAL -m mark --mark 0x10001 -m comment --comment out-kept
count POSTROUTING -s 172.17.0.0/16 -o eth0 -m conntrack --ctdir REPLY -m comment --comment answers0
count POSTROUTING -s 172.17.0.0/16 -o eth0 -m conntrack --ctdir REPLY -m mark --mark 0x103e8 -m comment --comment answers0-kept
count POSTROUTING -s 172.17.0.0/16 -o eth1 -m comment --comment answers
count POSTROUTING -s 172.17.0.0/16 -o eth1 -m mark --mark 0x103e9 -m comment --comment answers-kept
count FORWARD -i eth1 -o docker0 -m comment --comment in
count FORWARD -i eth1 -o docker0 -m mark --mark 0x203e9 -m comment --comment in-kept
`)
			dockerFinish(t, i)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			c := echo(t, i, "c80", 80)
			v.Client.Echo(t, 7)
			for _, ask := range []func(string) error{c.TCP, c.UDP} {
				if err := ask(outside + ":7"); err != nil {
					t.Error(err)
				}
			}
			answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")
			counted := i.Sh(t, "iptables -t mangle -xvnL")
			for _, what := range []string{"out", "answers0", "answers", "in"} {
				all, kept := packets(counted, what), packets(counted, what+"-kept")
				if t.Logf("%s: %d of %d", what, kept, all); all == 0 || kept != all {
					t.Errorf("%s: %d of %d packets have kept their mark\n%s", what, kept, all, counted)
				}
			}
			// 0x403e9
			if marks := i.Sh(t, "conntrack -L -p tcp --orig-dst 10.0.0.20 2>/dev/null"); !strings.Contains(marks, "mark=263145 ") {
				t.Errorf("the connection's mark is another:\n%s", marks)
			}
		})
	}
}

// packets returns the count of the rule with a comment.
func packets(list, comment string) int {
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); strings.Contains(line, "/* "+comment+" */") {
			n, _ := strconv.Atoi(f[0])
			return n
		}
	}
	return -1
}

// Where docker was never installed nothing waits for it, and booting takes as
// long as without ec2net.
func TestDockerNever(t *testing.T) { onStacks(t, testDockerNever) }

func testDockerNever(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl -q enable ec2net-scan.service ec2net-docker.service"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "! pgrep -f '[e]c2net'")
	// How long the network has taken at boot, in milliseconds.
	took := func() int {
		t.Helper()
		i.WaitRunning(t)
		out := i.Sh(t, `
show() { systemctl show -P $1TimestampMonotonic `+s.network+`; }
echo $(( ($(show ActiveEnter) - $(show InactiveExit)) / 1000 ))`)
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	i.Reboot(t)
	waitUp(t, i, "eth1")
	i.WaitSh(t, "! pgrep -f '[e]c2net'")
	with := took()
	noneFailed(t, i)
	i.Sh(t, "rm -r /usr/sbin/ec2net "+s.file+" /usr/lib/udev/rules.d/53-* /etc/dhcp/dhclient-exit-hooks.d/ec2net /etc/systemd/system/*.wants/ec2net*")
	i.Reboot(t)
	without := took()
	t.Logf("the network took %d ms, without ec2net %d ms", with, without)
	// Waiting for docker in vain would be a minute.
	if with > without+30_000 {
		t.Errorf("ec2net holds up the network")
	}
}
