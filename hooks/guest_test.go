package hooks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/render"
	"ec2net/stack"
	"ec2net/stack/ifupdown/interfaces"
)

// ec2net leaves an interface alone that another program configures.
func TestGuest(t *testing.T) {
	onMachine(t, func(m *machine) {
		link := m.linkNamed(t, "eth1")
		networkd := fmt.Sprintf("/run/systemd/netif/links/%d", link.Index)
		manager := fmt.Sprintf("/run/NetworkManager/devices/%d", link.Index)
		const helper = "/run/network/interfaces.d/eth1"
		for _, c := range []struct {
			name       string
			path, text string
			rule       iprule.Rule
			owner      string // empty: ec2net's
		}{
			{name: "nobody"},
			{name: "networkd, unmanaged", path: networkd, text: "ADMIN_STATE=unmanaged\nOPER_STATE=off\n"},
			{name: "networkd, which has no file for it", path: networkd, text: "ADMIN_STATE=pending\n"},
			{name: "networkd", path: networkd, owner: "systemd-networkd configures it, by /etc/systemd/network/eth.network",
				text: "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/eth.network\n"},
			{name: "netplan", path: networkd, owner: "netplan",
				text: "ADMIN_STATE=configuring\nNETWORK_FILE=/run/systemd/network/10-netplan-eth1.network\n"},
			{name: "NetworkManager, unmanaged", path: manager, text: "[device]\nmanaged=false\n"},
			{name: "NetworkManager", path: manager, text: "[device]\nmanaged=true\n", owner: "NetworkManager manages it"},
			{name: "an administrator's stanza", path: "/etc/network/interfaces.d/lan.cfg", owner: "/etc/network/interfaces.d/lan.cfg",
				text: "auto eth1\niface eth1 inet static\n  address 10.0.1.20/24\n"},
			{name: "a stanza for another", path: "/etc/network/interfaces.d/lan.cfg", text: "iface eth10 inet dhcp\n"},
			{name: "cloud-ifupdown-helper", path: helper, text: "auto eth1\niface eth1 inet dhcp\n", owner: "cloud-ifupdown-helper"},
			{name: "the VPC CNI plugin", rule: stack.VPCCNI, owner: "VPC CNI"},
			{name: "another tool's table", owner: `"pref 32765 from 10.0.1.20 lookup 10001 protocol 0"`,
				rule: iprule.Rule{Priority: 32765, From: netip.MustParsePrefix("10.0.1.20/32"), Table: 10001}},
			{name: "an older tool's table, which is ec2net's",
				rule: iprule.Rule{Priority: 32765, From: netip.MustParsePrefix("10.0.1.20/32"), Table: 1001}},
			{name: "a rule of ec2net's, from when it was eth3", rule: iprule.Rule{Priority: 1003,
				From: netip.MustParsePrefix("10.0.1.20/32"), Table: 1003, Protocol: iprule.Protocol}},
			{name: "another address's rule", rule: iprule.Rule{Priority: 100, From: netip.MustParsePrefix("10.7.0.1/32"), Table: 77}},
		} {
			_, err := m.Tree.Write(interfacesFile, []byte("source /run/network/interfaces.d/*\nsource /etc/network/interfaces.d/*.cfg\n"))
			check(t, err)
			m.address(t, "eth1", "10.0.1.20/24")
			if c.path != "" {
				_, err := m.Tree.Write(c.path, []byte(c.text))
				check(t, err)
			}
			if c.rule.Table != 0 {
				c.rule.SuppressPrefixLength, c.rule.SuppressGroup = -1, -1
				m.foreign(t, c.rule)
			}
			before := m.rulesNow(t)
			m.ran, m.log, m.vpc.asks = nil, nil, 0
			err = m.Add(t.Context(), "eth1")
			var guest *UnmanagedError
			switch {
			case c.owner == "":
				check(t, err)
				same(t, c.name+": programs", m.ran, []string{"ifup eth1"})
			case !errors.As(err, &guest) || !strings.Contains(err.Error(), c.owner) || guest.Hint() == "":
				t.Errorf("%s: %v", c.name, err)
			default:
				same(t, c.name+": programs", m.ran, nil)
				same(t, c.name+": rules", m.rulesNow(t), before)
				if m.vpc.asks != 0 || m.file(t, "/etc/network/interfaces.d/eth1.cfg") != "" {
					t.Errorf("%s: asked IMDS %d times, or left a file", c.name, m.vpc.asks)
				}
			}
			if c.rule.Table != 0 {
				rules := m.rules(t)
				for _, k := range rules {
					if k.Priority == c.rule.Priority && k.Table == c.rule.Table {
						check(t, m.kernel.Apply(plan.DelRule{Rule: k}))
					}
				}
			}
			if c.path != "" {
				check(t, m.Tree.Remove(c.path))
			}
			check(t, m.Tree.Remove(podsPath))
			m.forget(t, "eth1")
		}
	})
}

// forget makes an interface one that ec2net has never seen.
func (m *machine) forget(t *testing.T, name string) {
	t.Helper()
	check(t, m.Remove(t.Context(), name))
	files, err := m.Tree.List(stateDir)
	check(t, err)
	for _, f := range files {
		if strings.HasPrefix(f, name+".") {
			check(t, m.Tree.Remove(stateDir+"/"+f))
		}
	}
	check(t, m.Tree.Remove(interfaces.Path(name)))
}

// An interface that ec2net has brought up stays its own, even if another owner turns up.
func TestGuestLater(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		link := m.linkNamed(t, "eth1")
		_, err := m.Tree.Write(fmt.Sprintf("/run/NetworkManager/devices/%d", link.Index), []byte("managed=true\n"))
		check(t, err)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}

func TestUnmanaged(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Unmanaged = Patterns{"cali*", "eth[2-9]"}
		check(t, m.Add(t.Context(), "eth1"))
		var left *UnmanagedError
		for what, err := range map[string]error{"add": m.Add(t.Context(), "eth2"), "remove": m.Remove(t.Context(), "eth2")} {
			if !errors.As(err, &left) || !strings.Contains(err.Error(), "EC2NET_UNMANAGED") {
				t.Errorf("%s: %v", what, err)
			}
		}
		m.log = nil
		before := m.rulesNow(t)
		m.address(t, "eth2", "10.0.1.30/24")
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		same(t, "rules", m.rulesNow(t), before)
		same(t, "log", m.log, nil)
	})
	for text, ok := range map[string]bool{"eth1 ens*": true, "": true, "eth[": false, "a/b": false} {
		if _, err := ParsePatterns(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A stanza that an administrator wrote in a file with the name of ec2net's is the
// administrator's. But the cfg file of an administrator's template need not name ec2net.
func TestOwnStanza(t *testing.T) {
	const own = "# mine\nauto eth1\niface eth1 inet static\n  address 10.0.1.20/24\n"
	onMachine(t, func(m *machine) {
		m.put(t, "/etc/network/interfaces.d/eth1.cfg", own)
		m.address(t, "eth1", "10.0.1.20/24")
		var guest *UnmanagedError
		if err := m.Add(t.Context(), "eth1"); !errors.As(err, &guest) {
			t.Errorf("add: %v", err)
		}
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)
		same(t, "programs", m.ran, nil)
		if m.file(t, "/etc/network/interfaces.d/eth1.cfg") != own {
			t.Error("the file is another")
		}
	})
	onMachine(t, func(m *machine) {
		templates, err := render.Load(fakeOverrides{"ethN.cfg.tmpl": "iface {{.Name}} inet dhcp\n"})
		check(t, err)
		m.Templates = templates
		ready(t, m)
		check(t, m.Tree.Remove(factsPath("eth1")))
		m.ran = nil
		check(t, m.Remove(t.Context(), "eth1"))
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1", "ifup eth1"})
	})
}

type fakeOverrides map[string]string

func (f fakeOverrides) Names() (names []string, err error) {
	for name := range f {
		names = append(names, name)
	}
	return names, nil
}

func (f fakeOverrides) Read(name string) ([]byte, error) { return []byte(f[name]), nil }
func (f fakeOverrides) Path(name string) string          { return "/overrides/" + name }

// The interface gets another owner during the wait for IMDS.
func TestTakenMeanwhile(t *testing.T) {
	for path, text := range map[string]string{
		"/etc/network/interfaces.d/eth1.cfg": "# EC2SYNC=no\niface eth1 inet dhcp\n",
		"/etc/network/interfaces.d/lan.cfg":  "iface eth1 inet dhcp\n",
	} {
		onMachine(t, func(m *machine) {
			m.vpc.asked = func() { m.put(t, path, text) }
			var left *UnmanagedError
			var guest *UnmanagedError
			if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) && !errors.As(err, &guest) {
				t.Errorf("%s: %v", path, err)
			}
			same(t, "programs", m.ran, nil)
			if m.file(t, path) != text {
				t.Errorf("%s is another", path)
			}
		})
	}
}

// The event of one ENI does not change another that an administrator keeps from ec2net.
func TestUnmanagedByOthers(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Add(t.Context(), "eth2"))
		m.put(t, "/etc/network/interfaces.d/eth2.cfg", "# EC2SYNC=no\niface eth2 inet dhcp\n")
		m.pull(t, "eth2")
		check(t, m.RemoveIfGone(t.Context(), "eth2")) // what ec2net had made for it goes
		m.plug(t, "eth2", macs["eth2"])
		m.address(t, "eth2", "10.0.0.30/24") // the primary's subnet
		m.log = nil
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if strings.Contains(m.logged(), "eth2") {
			t.Errorf("log:\n%s", m.logged())
		}
	})
}

// There is no group rule while an ENI is kept out of the group.
func TestUnmanagedAndGroup(t *testing.T) {
	onMachine(t, func(m *machine) {
		check(t, m.Add(t.Context(), "eth2"))
		check(t, m.Remove(t.Context(), "eth2"))
		m.put(t, "/etc/network/interfaces.d/eth2.cfg", "# EC2SYNC=no\niface eth2 inet dhcp\n")
		m.pull(t, "eth2")
		m.plug(t, "eth2", macs["eth2"])
		ready(t, m)
		same(t, "rules", m.rulesNow(t), readyRules[2:])
	})
}

// eth2 is an administrator's (EC2NET_UNMANAGED) from the start, in a subnet of
// its own. A host there asks eth1.
func TestUnmanagedFromTheStart(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Unmanaged = Patterns{"eth2"}
		m.address(t, "eth2", "10.0.2.30/24")
		ready(t, m)
		for _, r := range []*netlink.Route{
			{Table: 1001, Dst: toIPNet(netip.MustParsePrefix("10.0.1.0/24")), Scope: netlink.SCOPE_LINK},
			{Table: 1001, Gw: net.IP{10, 0, 1, 1}},
		} {
			l, err := m.netns.LinkByName("eth1")
			check(t, err)
			r.LinkIndex = l.Attrs().Index
			check(t, m.netns.RouteReplace(r))
		}
		routes, err := m.netns.RouteGetWithOptions(net.IP{10, 0, 2, 99}, &netlink.RouteGetOptions{SrcAddr: net.IP{10, 0, 1, 20}})
		check(t, err)
		l, err := m.netns.LinkByIndex(routes[0].LinkIndex)
		check(t, err)
		if l.Attrs().Name != "eth1" {
			t.Errorf("the answer of 10.0.1.20 leaves by %s; rules:\n%s", l.Attrs().Name, strings.Join(m.rulesNow(t), "\n"))
		}
	})
}

// ec2net does not wait for networkd while it holds the kernel's lock: the hooks of all
// ENIs would wait too.
func TestUndecidedNetworkd(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.put(t, fmt.Sprintf("/run/systemd/netif/links/%d", m.linkNamed(t, "eth1").Index), "ADMIN_STATE=pending\n")
		held := false
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(25 * time.Millisecond) // to look while nothing else happens
			for range 50 {
				time.Sleep(100 * time.Millisecond)
				unlock, busy, err := m.tryLock("kernel")
				if held = held || busy; err != nil {
					t.Error(err)
				} else if !busy {
					unlock()
				}
			}
		}()
		check(t, m.Add(t.Context(), "eth1"))
		<-done
		if held {
			t.Error("the kernel's lock was held for long")
		}
	})
}
