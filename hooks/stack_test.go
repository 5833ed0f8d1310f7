package hooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/plan"
	"ec2net/render"
	"ec2net/stack/networkd"
	"ec2net/stack/networkd/unit"
)

// withNetworkd gives a machine a systemd-networkd that configures eth1 by ec2net's file.
func withNetworkd(t *testing.T, m *machine) {
	t.Helper()
	m.Stack = render.Networkd
	state := fmt.Sprintf("/run/systemd/netif/links/%d", m.linkNamed(t, "eth1").Index)
	m.put(t, "/run/systemd/netif/state", "OPER_STATE=routable\n")
	m.put(t, "/run/dbus/system_bus_socket", "")
	m.put(t, state, "ADMIN_STATE=unmanaged\n")
	before := m.Run
	m.Run = func(ctx context.Context, program string, args ...string) error {
		err := before(ctx, program, args...)
		switch command := program + " " + strings.Join(args, " "); {
		case err != nil:
		case command == "networkctl reload" && m.file(t, unit.Path("eth1")) != "":
			m.put(t, state, "ADMIN_STATE=configured\nNETWORK_FILE="+unit.Path("eth1")+"\n")
			m.setUp(t, "eth1")
			m.address(t, "eth1", "10.0.1.20/24")
		case command == "networkctl reload":
			m.put(t, state, "ADMIN_STATE=unmanaged\n")
		case command == "ip link set dev eth1 down":
			m.setDown(t, "eth1")
		}
		return err
	}
}

// programs are those that have run since its last call, without iptables'.
func (m *machine) programs() []string {
	ran := slices.DeleteFunc(m.ran, func(line string) bool { return strings.HasPrefix(line, "iptables") })
	m.ran = nil
	return ran
}

// networkd reads its files again when ec2net's has changed, not for an address, and not at the
// next "add".
func TestNetworkdPlug(t *testing.T) {
	onMachine(t, func(m *machine) {
		withNetworkd(t, m)
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.programs(), []string{"networkctl reload", "ip link set dev eth1 up"})
		same(t, "rules", m.rulesNow(t), readyRules)
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})

		check(t, m.Add(t.Context(), "eth1"))
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
		check(t, m.Refresh(t.Context(), "eth1"))
		same(t, "programs for an address", m.programs(), nil)
		same(t, "addresses after a refresh", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.22/32"})

		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "programs", m.programs(), []string{"ip link set dev eth1 down", "ip -4 addr flush dev eth1"})
		same(t, "rules", m.rulesNow(t), nil)
		if m.file(t, unit.Path("eth1")) == "" {
			t.Error("the file is gone")
		}
	})
}

// An ENI is up, and networkd has no lease for it.
func TestNetworkdStatus(t *testing.T) {
	onMachine(t, func(m *machine) {
		withNetworkd(t, m)
		check(t, m.Add(t.Context(), "eth1"))
		s, err := m.Status(t.Context(), "eth1")
		check(t, err)
		same(t, "commands", s.Commands, nil)

		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.AddrDel(l, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("10.0.1.20/24"))}))
		s, err = m.Status(t.Context(), "eth1")
		check(t, err)
		same(t, "commands without a lease", s.Commands[len(s.Commands)-1:], []string{"ec2ifdown eth1 && ec2ifup eth1 # systemd-networkd has no lease for it"})
	})
}

// A boot, after which networkd has brought an ENI up by ec2net's file, and a person has a rule
// for its address: ec2net leaves it alone, and up.
func TestNetworkdRuleOfAnother(t *testing.T) {
	onMachine(t, func(m *machine) {
		withNetworkd(t, m)
		check(t, m.Add(t.Context(), "eth1"))
		check(t, m.Remove(t.Context(), "eth1"))
		m.setUp(t, "eth1")
		m.address(t, "eth1", "10.0.1.20/24")
		rule := netlink.NewRule()
		rule.Src, rule.Table, rule.Priority = toIPNet(netip.MustParsePrefix("10.0.1.20/32")), 200, 500
		check(t, m.netns.RuleAdd(rule))
		m.programs()
		var left *UnmanagedError
		if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.programs(), nil)
		if m.file(t, unit.Path("eth1")) == "" {
			t.Error("the file is gone")
		}
	})
}

// A person has written a netplan for an ENI that ec2net's file comes before. ec2net leaves the ENI
// alone, and takes its file away, so that networkd uses theirs.
func TestNetworkdStepsAside(t *testing.T) {
	onMachine(t, func(m *machine) {
		withNetworkd(t, m)
		check(t, m.Add(t.Context(), "eth1"))
		check(t, m.Remove(t.Context(), "eth1"))
		m.programs()
		m.put(t, "/run/systemd/network/10-netplan-eth1.network", "[Match]\nName=eth1\n[Network]\nDHCP=ipv4\n")
		var left *UnmanagedError
		if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.programs(), []string{"networkctl reload"})
		if m.file(t, unit.Path("eth1")) != "" {
			t.Error("the file is there")
		}
	})
}

// ifupdown is installed on an image of netplan's, and cloud-init has written a stanza for an ENI.
func TestNetworkdStanza(t *testing.T) {
	onMachine(t, func(m *machine) {
		withNetworkd(t, m)
		m.put(t, "/usr/sbin/ifup", "")
		m.put(t, interfacesFile, "source /etc/network/interfaces.d/*\n")
		m.put(t, "/etc/network/interfaces.d/50-cloud-init",
			"# This file is generated from information provided by the datasource.\niface eth1 inet dhcp\n")
		var left *UnmanagedError
		if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) || !strings.Contains(err.Error(), "cloud-init has written a stanza") ||
			!strings.Contains(left.Hint(), "apt-get purge ifupdown") {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.programs(), nil)
	})
}

// An administrator masks ec2net's file, as systemd.network(5) says: ec2net leaves the ENI alone.
func TestNetworkdMasked(t *testing.T) {
	onMachine(t, func(m *machine) {
		root := t.TempDir()
		tree, err := disk.OpenTree(root, false)
		check(t, err)
		t.Cleanup(func() { tree.Close() })
		m.Tree = tree
		withNetworkd(t, m)
		m.put(t, "/dev/null/x", "") // no regular file
		m.put(t, unit.Folder+"/x", "")
		check(t, os.Symlink("../../../dev/null", root+unit.Path("eth1")))
		var left *UnmanagedError
		if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) || !strings.Contains(err.Error(), "/dev/null") || left.Hint() == "" {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.programs(), nil)
	})
}

// networkd gives no lease: nothing is left half up.
func TestNetworkdWithoutLease(t *testing.T) {
	onMachine(t, func(m *machine) {
		withNetworkd(t, m)
		m.fails["networkctl"] = errors.New("no bus")
		if err := m.Add(t.Context(), "eth1"); !errors.Is(err, m.fails["networkctl"]) {
			t.Errorf("%v", err)
		}
		same(t, "rules", m.rulesNow(t), nil)
		if m.file(t, notePath("eth1")) != "" {
			t.Error("the note is there")
		}
	})
}

// The settings, or what manages the primary, change while an ENI is up: what the stack before
// had of it goes.
func TestStackChanges(t *testing.T) {
	onMachine(t, func(m *machine) {
		const cfg = "/etc/network/interfaces.d/eth1.cfg"
		m.put(t, "/usr/sbin/ifup", "")
		ready(t, m)
		withNetworkd(t, m)
		m.programs()
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "to networkd", m.programs(), []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1", "networkctl reload"})
		if m.file(t, cfg) != "" || m.file(t, unit.Path("eth1")) == "" {
			t.Errorf("files: %q, %q", m.file(t, cfg), m.file(t, unit.Path("eth1")))
		}
		same(t, "rules", m.rulesNow(t), readyRules)

		m.Stack = render.Ifupdown
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "to ifupdown", m.programs(), []string{"ip link set dev eth1 down", "ip -4 addr flush dev eth1", "networkctl reload", "ifup eth1"})
		if m.file(t, cfg) == "" || m.file(t, unit.Path("eth1")) != "" {
			t.Errorf("files: %q, %q", m.file(t, cfg), m.file(t, unit.Path("eth1")))
		}
	})
}

// EC2SYNC=no holds in the file of either stack, whatever brings the ENIs up, and also if ifupdown
// was removed.
func TestStackUnmanaged(t *testing.T) {
	for kind, file := range map[render.Stack]string{render.Networkd: "/etc/network/interfaces.d/eth1.cfg", render.Ifupdown: unit.Path("eth1")} {
		onMachine(t, func(m *machine) {
			withNetworkd(t, m)
			m.Stack = kind
			m.put(t, file, "# Generated by ec2net from x.\n# EC2SYNC=no\n")
			var left *UnmanagedError
			if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) || left.Why != file+" says EC2SYNC=no" {
				t.Errorf("%v", err)
			}
			same(t, "programs", m.programs(), nil)
		})
	}
}

// ifupdown was removed, and a stanza of ec2net's is left.
func TestStackRemoved(t *testing.T) {
	onMachine(t, func(m *machine) {
		const cfg = "/etc/network/interfaces.d/eth1.cfg"
		m.put(t, cfg, "# Generated by ec2net from the built-in ethN.cfg.tmpl.\niface eth1 inet dhcp\n")
		withNetworkd(t, m)
		m.fails["ifdown"] = errors.New("there is no ifdown")
		check(t, m.Add(t.Context(), "eth1"))
		if m.file(t, cfg) != "" || m.file(t, unit.Path("eth1")) == "" {
			t.Errorf("files: %q, %q", m.file(t, cfg), m.file(t, unit.Path("eth1")))
		}
		same(t, "rules", m.rulesNow(t), readyRules)

		m.put(t, cfg, "# Generated by ec2net from the built-in ethN.cfg.tmpl.\niface eth1 inet dhcp\n")
		check(t, m.Tree.Remove(unit.Path("eth1")))
		check(t, m.Remove(t.Context(), "eth1"))
	})
}

// Until an ENI comes up again, the stack that has brought it up is its own; and for good, if the
// other one would not read its file.
func TestStackOfBefore(t *testing.T) {
	onMachine(t, func(m *machine) {
		const cfg = "/etc/network/interfaces.d/eth1.cfg"
		m.put(t, "/usr/sbin/ifup", "")
		ready(t, m)
		m.Stack = render.Networkd
		m.programs()
		var notRunning *networkd.NotRunningError
		if err := m.Add(t.Context(), "eth1"); !errors.As(err, &notRunning) {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.programs(), nil)
		if m.file(t, cfg) == "" || m.file(t, unit.Path("eth1")) != "" {
			t.Errorf("files: %q, %q", m.file(t, cfg), m.file(t, unit.Path("eth1")))
		}
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
		check(t, m.Refresh(t.Context(), "eth1"))
		same(t, "addresses after a refresh", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.22/32"})

		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "programs to take it down", m.programs(), []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1"})
	})
}

// auto is networkd where it manages the primary, or where ifupdown is not installed.
func TestStackOf(t *testing.T) {
	for _, c := range []struct {
		what  string
		files map[string]string
		want  render.Stack
	}{
		{"nothing", map[string]string{}, render.Ifupdown},
		{"no bus", map[string]string{"/run/systemd/netif/state": "", "/sbin/ifup": "",
			"/run/systemd/netif/links/2": "ADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/10-netplan-eth0.network\n"}, render.Ifupdown},
		{"folders alone", map[string]string{"/run/systemd/netif/links/x": ""}, render.Ifupdown},
		{"networkd alone", map[string]string{"/run/systemd/netif/state": ""}, render.Networkd},
		{"both", map[string]string{"/run/systemd/netif/state": "", "/usr/sbin/ifup": ""}, render.Ifupdown},
		{"both, and another link is networkd's", map[string]string{"/run/systemd/netif/state": "", "/sbin/ifup": "",
			"/run/systemd/netif/links/3": "ADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/br0.network\n"}, render.Ifupdown},
		{"both, networkd starts, and has an ENI", map[string]string{"/run/systemd/netif/state": "", "/sbin/ifup": "", unit.Path("eth1"): ""}, render.Networkd},
		{"the same a moment later", map[string]string{"/run/systemd/netif/state": "", "/sbin/ifup": "", unit.Path("eth1"): "",
			"/run/systemd/netif/links/2": "ADMIN_STATE=initialized\n"}, render.Networkd},
		{"both, and the primary is not networkd's any more", map[string]string{"/run/systemd/netif/state": "", "/sbin/ifup": "", unit.Path("eth1"): "",
			"/run/systemd/netif/links/2": "ADMIN_STATE=unmanaged\n"}, render.Ifupdown},
		{"both, and the primary is networkd's", map[string]string{"/run/systemd/netif/state": "", "/sbin/ifup": "",
			"/run/systemd/netif/links/2": "ADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/10-netplan-eth0.network\n"}, render.Networkd},
	} {
		tree := emptyTree(t)
		if c.what != "no bus" {
			c.files = maps.Clone(c.files)
			c.files["/run/dbus/system_bus_socket"] = ""
		}
		for file, text := range c.files {
			_, err := tree.Write(file, []byte(text))
			check(t, err)
		}
		if got := StackOf(tree, 2); got != c.want {
			t.Errorf("%s: %s", c.what, got)
		}
		h := &Host{Tree: tree, Stack: render.Networkd}
		if got := h.stackBy([]plan.Link{{Name: "eth0", Index: 2, MAC: primaryMAC}}, primaryMAC); got != render.Networkd {
			t.Errorf("%s, told: %s", c.what, got)
		}
	}
}

func (m *machine) setDown(t *testing.T, name string) {
	t.Helper()
	l, err := m.netns.LinkByName(name)
	check(t, err)
	check(t, m.netns.LinkSetDown(l))
}
