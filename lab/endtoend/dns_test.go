package endtoend

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"ec2net/lab"
)

// global prints what a DHCP client may change for the whole machine. An empty file of
// Debian's resolvconf says that the stanza has no dns-nameservers.
const global = `
hostname
find /etc/resolv.conf /run/resolvconf /run/network/isc-dhcp* /run/dhcpcd/hook-state /run/systemd/timesyncd.conf.d /run/systemd/resolve /run/chrony-dhcp \
	! -type d ! \( -name '*.inet' -empty \) -print -exec cat {} \; 2>/dev/null || :
`

// dhcpClient is a DHCP client, and the programs beside it that use DHCP's options.
type dhcpClient struct {
	setup lab.Setup
	named string // a file that has the primary's options, beside resolv.conf; it may be empty
}

var dhcpClients = map[string]dhcpClient{
	"dhclient":                      {setup: lab.Setup{}},
	"dhclient, resolvconf, systemd": {setup: lab.Setup{Release: "bookworm-resolvconf", Systemd: true}, named: "/run/systemd/timesyncd.conf.d/01-dhclient.conf"},
	"dhclient, openresolv, chrony":  {setup: lab.Setup{Release: "trixie-openresolv"}, named: "/run/chrony-dhcp/eth0.sources"},
	"dhcpcd":                        {setup: lab.Setup{Release: "trixie", Dhcpcd: true}},
	"dhcpcd of 2022, resolvconf":    {setup: lab.Setup{Release: "bookworm-resolvconf", Systemd: true, Dhcpcd: true}},
	"dhcpcd, openresolv":            {setup: lab.Setup{Release: "trixie-openresolv", Dhcpcd: true}},
}

// bootWith boots an instance. The DHCP server tells its primary some options, and eth1
// others. more are more files of the instance.
func (c dhcpClient) bootWith(t *testing.T, more map[string]string) (*lab.Instance, *lab.VPC, *lab.ENI) {
	t.Helper()
	v := lab.NewVPC(t, lab.Plan{Lease: 2 * time.Minute})
	eth1 := v.AddENI(t, "10.0.1.20")
	v.Primary.Options(t, "hostname,first", "dns-server,10.9.0.2", "domain-name,first.example", "domain-search,a.first.example", "ntp-server,10.9.0.3")
	eth1.Options(t, "hostname,second", "dns-server,10.9.1.2", "domain-name,second.example", "domain-search,a.second.example", "ntp-server,10.9.1.3")
	s := c.setup
	s.Install, s.Files = installed, maps.Clone(files)
	// A machine that takes its name from DHCP.
	s.Files["/etc/hostname"] = "localhost\n"
	maps.Copy(s.Files, more)
	s.Prepare = "systemctl -q enable ec2net-scan.service ec2net-watch.service || :"
	if s.Dhcpcd {
		s.Prepare += told
	}
	if strings.HasSuffix(s.Release, "resolvconf") {
		s.Prepare += "\nln -sf /run/resolvconf/resolv.conf /etc/resolv.conf"
	}
	i := v.Boot(t, s)
	if s.Systemd {
		i.WaitRunning(t)
	}
	return i, v, eth1
}

// renew waits for the next lease of an interface, until its hooks are through.
func (c dhcpClient) renew(t *testing.T, i *lab.Instance, name, addr string) {
	t.Helper()
	if c.setup.Dhcpcd {
		renewed(t, i, name)
		return
	}
	bound := func() int { return strings.Count(i.Log(t), "bound to "+addr+" ") }
	before := bound()
	i.WaitFor(t, name+" to renew its lease", func() bool { return bound() > before })
}

// byIPv6 is a command that calls the client's script with DNS servers that IPv6 brings.
func (c dhcpClient) byIPv6() string {
	if c.setup.Dhcpcd {
		return `env interface=eth1 reason=ROUTERADVERT protocol=ra if_configured=true if_up=true nd1_acquired=1 nd1_now=1 \
	nd1_rdnss1_lifetime=100 nd1_rdnss1_servers=fd00::2 nd1_dnssl1_lifetime=100 nd1_dnssl1_search=sixth.example /lib/dhcpcd/dhcpcd-run-hooks`
	}
	return "env interface=eth1 reason=RENEW6 new_dhcp6_name_servers=fd00::2 new_dhcp6_domain_search=sixth.example /sbin/dhclient-script"
}

// What the machine has of the primary's DHCP options stays, byte for byte, while another ENI
// comes up, renews its lease with other options, and goes. If that ENI is up before the
// primary, the machine has nothing of its options either.
func TestPrimaryKeepsDNS(t *testing.T) {
	t.Parallel()
	for name, c := range dhcpClients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, v, eth1 := c.bootWith(t, nil)
			before := i.Sh(t, global)
			for _, want := range []string{"nameserver 10.9.0.2\n", "first.example", c.named} {
				if !strings.Contains(before, want) {
					t.Errorf("of the primary's there is no %q:\n%s", want, before)
				}
			}
			if !c.setup.Systemd {
				i.Sh(t, "hostname localhost") // so that the next lease may set one
				before = i.Sh(t, global)
			}
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			sameState(t, "eth1 is up", before, i.Sh(t, global))

			eth1.Options(t, "hostname,third", "dns-server,10.9.1.4", "domain-name,third.example", "ntp-server,10.9.1.5")
			c.renew(t, i, "eth1", "10.0.1.20")
			sameState(t, "eth1 has renewed its lease", before, i.Sh(t, global))

			i.Sh(t, c.byIPv6())
			sameState(t, "eth1 has a DNS server by IPv6", before, i.Sh(t, global))

			// The primary's own changes get through, whatever eth1 does next.
			v.Primary.Options(t, "hostname,first", "dns-server,10.9.0.4", "domain-name,fourth.example", "ntp-server,10.9.0.5")
			c.renew(t, i, "eth0", "10.0.0.10")
			before = i.Sh(t, global)
			if !strings.Contains(before, "nameserver 10.9.0.4\n") || !strings.Contains(before, "fourth.example") || strings.Contains(before, "10.9.0.2") {
				t.Errorf("the primary's change is not there:\n%s", before)
			}
			c.renew(t, i, "eth1", "10.0.1.20")
			sameState(t, "eth1 has renewed its lease again", before, i.Sh(t, global))

			i.Sh(t, "ec2ifdown eth1")
			sameState(t, "ec2ifdown", before, i.Sh(t, global))
			// By ifup alone, without ec2net.
			i.Sh(t, "ifup eth1")
			sameState(t, "ifup", before, i.Sh(t, global))
			i.Sh(t, "ifdown eth1; ec2ifup eth1")
			sameState(t, "ec2ifup", before, i.Sh(t, global))
			eth1.Detach(t)
			waitDown(t, i, "eth1")
			sameState(t, "eth1 is gone", before, i.Sh(t, global))
			i.Sh(t, "! find /run /etc -xdev -path '/run/udev' -prune -o -path '/run/systemd/[!t]*' -prune -o -path '*resolv*' -name '*eth1*' -print | grep .")

			// eth1 first, the primary later.
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			i.Sh(t, "ec2ifdown eth1; ifdown eth0; hostname localhost; ifup eth1")
			lacks(t, i.Sh(t, global), "third", "10.9.1.")
			i.Sh(t, "ifup eth0")
			now := i.Sh(t, global)
			lacks(t, now, "third", "10.9.1.")
			if !strings.Contains(now, "nameserver 10.9.0.4\n") {
				t.Errorf("the primary's is not there:\n%s", now)
			}
		})
	}
}

// The primary is static, with a resolv.conf that an administrator wrote.
func TestStaticDNS(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"dhclient", "dhcpcd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const byHand = "# by hand\nsearch static.example\nnameserver 10.9.0.9\n"
			i, _, eth1 := dhcpClients[name].bootWith(t, map[string]string{
				"/etc/resolv.conf": byHand,
				"/etc/network/interfaces": `auto lo
iface lo inet loopback
auto eth0
iface eth0 inet static
    address 10.0.0.10/24
    gateway 10.0.0.1
source /etc/network/interfaces.d/*.cfg
`})
			i.Sh(t, "hostname localhost")
			before := i.Sh(t, global)
			for _, when := range []string{"first", "again"} {
				eth1.Attach(t, "eth1")
				waitUp(t, i, "eth1")
				sameState(t, when+" up", before, i.Sh(t, global))
				eth1.Detach(t)
				waitDown(t, i, "eth1")
				sameState(t, when+" gone", before, i.Sh(t, global))
			}
			// By hand, and by a template that does not name the ENI.
			i.WriteFile(t, "/etc/ec2net/templates/eth1.cfg.tmpl", string(read(t, "../../examples/one-interface", "eth1.cfg.tmpl")))
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			i.Sh(t, "ec2ifdown eth1; ! grep -i mac /etc/network/interfaces.d/eth1.cfg; ifup eth1")
			sameState(t, "up by another template, by hand", before, i.Sh(t, global))
		})
	}
}

// dhclient's other hooks run for an ENI as before: those of its package make routes, and an
// administrator's see the address. If one fails, the log names it.
func TestOtherHooks(t *testing.T) {
	t.Parallel()
	i, _, eth1 := dhcpClients["dhclient"].bootWith(t, map[string]string{
		"/etc/dhcp/dhclient-enter-hooks.d/mine": "set -- one two\n[ \"$interface\" != eth1 ] || return 3\n",
		"/etc/dhcp/dhclient-exit-hooks.d/mine":  "echo \"$interface $reason $new_ip_address,$new_domain_name_servers\" >>/run/mine\n",
	})
	eth1.Options(t, "dns-server,10.9.1.2", "classless-static-route,192.168.7.0/24,10.0.1.7,0.0.0.0/0,10.0.1.1")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, "grep -x 'eth0 BOUND 10.0.0.10,10.9.0.2' /run/mine; grep -x 'eth1 BOUND 10.0.1.20,' /run/mine; ip route | grep '^192.168.7.0/24 via 10.0.1.7 dev eth1'")
	if log := i.Log(t); !strings.Contains(log, "/etc/dhcp/dhclient-enter-hooks.d/mine returned non-zero exit status 3") {
		t.Errorf("the log does not say which hook failed:\n%s", log)
	}
}

// A template can say that an ENI's DHCP server counts, or name DNS servers itself.
func TestWantedDNS(t *testing.T) {
	t.Parallel()
	for name, c := range dhcpClients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, _, eth1 := c.bootWith(t, map[string]string{"/etc/ec2net/templates/blocks.tmpl": `{{define "cfg-options"}}
    ec2net-dns yes
{{end}}`})
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			if now := i.Sh(t, global); !strings.Contains(now, "nameserver 10.9.1.2\n") || !strings.Contains(now, "second.example") {
				t.Errorf("eth1's is not there:\n%s", now)
			}
			if !strings.HasPrefix(c.setup.Release, "bookworm-") && !strings.HasPrefix(c.setup.Release, "trixie-") {
				return
			}
			i.Sh(t, "ec2ifdown eth1; sed -i 's/ec2net-dns yes/dns-nameservers 10.9.2.2/' /etc/ec2net/templates/blocks.tmpl; ec2ifup eth1")
			now := i.Sh(t, global)
			lacks(t, now, "10.9.1.2", "second.example")
			if !strings.Contains(now, "nameserver 10.9.2.2\n") {
				t.Errorf("what the stanza says is not there:\n%s", now)
			}
		})
	}
}

// An interface that ec2net does not configure gets what its DHCP server says, also if its
// cfg file is that of another ENI, or has EC2SYNC=no.
func TestOthersDNS(t *testing.T) {
	t.Parallel()
	for _, cfg := range []string{
		"# Generated by ec2net from x.\n# eth1 is eni-1, MAC 02:00:0a:00:00:63, device 1 of network card 0.\nallow-ec2net eth1\niface eth1 inet dhcp\n",
		"# Generated by ec2net from x.\n# eth1 is eni-1, MAC 02:00:0a:00:01:14, device 1 of network card 0.\n# EC2SYNC=no\niface eth1 inet dhcp\n",
		"iface eth1 inet dhcp\n",
	} {
		t.Run(fmt.Sprintf("%.60q", cfg), func(t *testing.T) {
			t.Parallel()
			for _, name := range []string{"dhclient", "dhcpcd"} {
				c := dhcpClients[name]
				i, _, eth1 := c.bootWith(t, map[string]string{"/etc/default/ec2net": "EC2NET_UNMANAGED=eth1\n", "/etc/network/interfaces.d/eth1.cfg": cfg})
				eth1.Attach(t, "eth1")
				i.Sh(t, "ifup eth1")
				if now := i.Sh(t, global); !strings.Contains(now, "nameserver 10.9.1.2\n") {
					t.Errorf("%s: eth1's is not there:\n%s", name, now)
				}
			}
		})
	}
}
