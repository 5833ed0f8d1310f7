package endtoend

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"ec2net/lab"
)

// dhclient6 has dhclient ask for the primary's IPv6 address.
const dhclient6 = `printf '\niface eth0 inet6 dhcp\n    accept_ra 2\n' >>/etc/network/interfaces`

// clients6 are DHCP clients of instances with IPv6. dhcpcd follows the router's
// advertisements itself; with dhclient the kernel does.
var clients6 = []struct {
	name string
	stack
	setup lab.Setup
}{
	{"dhcpcd 10", ifupdown, lab.Setup{Release: "trixie", Dhcpcd: true, Prepare: told}},
	{"dhcpcd 9", ifupdown, lab.Setup{Dhcpcd: true, Prepare: told}},
	{"dhclient", ifupdown, lab.Setup{Prepare: dhclient6}},
	{"networkd", imageStack, lab.Setup{}},
	{"networkd of Debian 13", imageStack, lab.Setup{Release: "trixie"}},
}

// six prints the machine's IPv6 addresses and routes, without their lifetimes, and without the
// route for multicast that each interface has on which IPv6 is not switched off.
const six = `
ip -6 -o address | sed -E 's/^[0-9]+: //; s/ *\\.*//' | sort
ip -6 route show table all | sed -E 's/ expires [0-9]+sec//; s/ pref medium//; s/ (hoplimit|mtu) [0-9]+//g; /^multicast/d'
`

// Two ENIs, one in the primary's subnet and one in another, change nothing of the machine's
// IPv6 at any moment, whatever their routers advertise and a DHCP client does: what leaves
// from the primary's address leaves by the primary. ec2net says once that it does not
// configure the IPv6 addresses of the ENIs.
func TestPrimaryIPv6(t *testing.T) {
	t.Parallel()
	for _, c := range clients6 {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{IPv6: true})
			enis := []*lab.ENI{v.AddENI(t, "10.0.0.20"), v.AddENI(t, "10.0.1.30")}
			names := []string{"eth1", "eth2"}
			listen6(t, v)
			i := c.boot(t, v, c.setup)
			configured := fmt.Sprintf("ip -6 route show default | grep -q eth0 && ip -6 address show dev eth0 | grep -q '%s/.*global'", v.Primary.IPv6)
			i.WaitSh(t, configured)
			before := i.Sh(t, six)
			isAsBefore := func(when string) {
				t.Helper()
				v.WaitAdvertised(t, i)
				v.WaitAdvertised(t, i) // by now the machine has handled the one before
				sameState(t, when, before, i.Sh(t, six))
				if err := sends6(t, i, v.Primary); err != nil {
					t.Errorf("%s: %v\n%s%s", when, err, i.Sh(t, fmt.Sprintf("ip -6 route get %s from %s", lab.ClientIPv6, v.Primary.IPv6)), v.Dropped(t))
				}
			}
			isAsBefore("before")
			monitor := i.Start(t, lab.Cmd{Args: []string{"ip", "-6", "-o", "monitor", "address", "route"}})
			for n, e := range enis {
				e.Attach(t, names[n])
				waitUp(t, i, names[n])
			}
			isAsBefore("the ENIs are up")
			i.Sh(t, c.primary)
			i.WaitSh(t, configured)
			isAsBefore("the primary was down")
			if c.setup.Dhcpcd {
				renewed(t, i, names...)
			}
			for _, name := range names {
				i.Sh(t, "ec2ifup "+name+" && ec2net refresh "+name)
			}
			isAsBefore("renewed, and added again")

			log := i.Log(t)
			for n, e := range enis {
				says := fmt.Sprintf("%s: EC2 has given it IPv6, which ec2net does not configure yet: %s\n", names[n], e.IPv6)
				if strings.Count(log, says) != 1 {
					t.Errorf("not once %q:\n%s", says, log)
				}
				if r := i.Run(t, lab.Cmd{Args: []string{"ec2net", "status", names[n]}}); r.Status != 0 || !strings.Contains(r.Stdout, strings.Replace(says, ":", " is ok:", 1)) {
					t.Errorf("status %d:\n%s", r.Status, r.Stdout)
				}
			}

			// Taken down by hand it is given back as it was.
			i.Sh(t, "ec2ifdown eth1 && test 0 = $(cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6)")
			i.Sh(t, "ec2ifup eth1")
			for n, e := range enis {
				e.Detach(t)
				waitDown(t, i, names[n])
			}
			isAsBefore("the ENIs are gone")
			monitor.Signal(stop)
			<-monitor.Ended()
			seen, _ := monitor.Output()
			seen = regexp.MustCompile(`(?m)^(Deleted )?multicast ff00::/8 .*\n`).ReplaceAllString(seen, "")
			lacks(t, seen, names...)
		})
	}
}

// If somebody switches IPv6 on, on an ENI or on all interfaces, watch switches it off again,
// and no address or route stays. What an administrator's template configures stays.
func TestWatchIPv6(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{IPv6: true})
	eth1, eth2 := v.AddENI(t, "10.0.0.20"), v.AddENI(t, "10.0.1.30")
	listen6(t, v)
	const own = `mkdir -p /etc/ec2net/templates
cat >/etc/ec2net/templates/blocks.tmpl <<'END'
{{define "cfg-post-up"}}{{if eq .Name "eth2"}}
    pre-up echo 0 >/proc/sys/net/ipv6/conf/{{.Name}}/accept_ra
    pre-up echo 0 >/proc/sys/net/ipv6/conf/{{.Name}}/disable_ipv6
    post-up ip -6 address add {{index .IPv6 0}}/128 dev {{.Name}}
{{end}}{{end}}
END
`
	i := boot(t, v, lab.Setup{Systemd: true, Prepare: own + "systemctl enable ec2net-scan.service ec2net-watch.service\n" + dhclient6})
	i.WaitRunning(t)
	for n, e := range []*lab.ENI{eth1, eth2} {
		name := fmt.Sprintf("eth%d", n+1)
		e.Attach(t, name)
		waitUp(t, i, name)
	}
	const off = "test 1 = $(cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6) && test -z \"$(ip -6 address show dev eth1)$(ip -6 route show dev eth1)\""
	i.WaitSh(t, "systemctl is-active -q ec2net-watch && "+off)
	for _, on := range []string{"all", "eth1"} {
		i.Sh(t, "sysctl -qw net.ipv6.conf."+on+".disable_ipv6=0")
		i.WaitSh(t, off)
	}
	v.WaitAdvertised(t, i)
	i.Sh(t, off)
	if own := i.Sh(t, "ip -6 -o address show dev eth2 scope global"); !strings.Contains(own, eth2.IPv6.String()+"/128") {
		t.Errorf("eth2 has %q", own)
	}
	i.Sh(t, "test 0 = $(cat /proc/sys/net/ipv6/conf/eth2/disable_ipv6)")

	// An ENI that was up before ec2net got it has a default route by then.
	i.Sh(t, "echo EC2NET_UNMANAGED=eth3 >>/etc/default/ec2net")
	v.AddENI(t, "10.0.0.40").Attach(t, "eth3")
	i.Sh(t, "udevadm settle; ip link set eth3 up")
	i.WaitSh(t, "ip -6 route show default | grep -q eth3")
	i.Sh(t, "sed -i /UNMANAGED=eth3/d /etc/default/ec2net; ec2ifup eth3")
	i.Sh(t, strings.ReplaceAll(off, "eth1", "eth3"))
	if err := sends6(t, i, v.Primary); err != nil {
		t.Error(err)
	}
	noneFailed(t, i)
}

// listen6 is a server outside, by IPv6.
func listen6(t *testing.T, v *lab.VPC) {
	t.Helper()
	var l net.Listener
	err := v.Client.Do(func() (err error) {
		l, err = net.Listen("tcp6", "["+lab.ClientIPv6.String()+"]:7")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

// sends6 connects to the server outside from the address of an ENI, as soon as the instance has
// it and knows that nobody else does.
func sends6(t *testing.T, i *lab.Instance, e *lab.ENI) error {
	t.Helper()
	i.WaitSh(t, "ip -6 -o address show -tentative | grep -qF ' "+e.IPv6.String()+"/'")
	i.Patience = 10 * time.Second
	conn, err := i.Dial("tcp", e.IPv6.String(), "["+lab.ClientIPv6.String()+"]:7")
	if err != nil {
		return err
	}
	return conn.Close()
}
