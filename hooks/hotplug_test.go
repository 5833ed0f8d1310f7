package hooks

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ec2net/facts"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
	"ec2net/stack/ifupdown"
)

func (m *machine) file(t *testing.T, path string) string {
	t.Helper()
	text, err := m.Tree.Read(path)
	check(t, err)
	return string(text)
}

func TestAdd(t *testing.T) {
	onMachine(t, func(m *machine) {
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifup eth1"})
		for path, want := range map[string]string{
			"/etc/network/interfaces.d/eth1.cfg": "iface eth1 inet dhcp", "/var/lib/ec2net/eth1.iptables": "0x3e9",
			"/var/lib/ec2net/eth1.iptables-down": "-X ec2net-eth1", "/var/lib/ec2net/eth1.rules": "from 10.0.1.21",
			"/var/lib/ec2net/eth1.json": `"eni-1"`, "/run/ec2net/eth1.up": "02:00:00:00:01:20",
		} {
			if text := m.file(t, path); !strings.Contains(text, want) {
				t.Errorf("%s has no %q:\n%s", path, want, text)
			}
		}
		m.address(t, "eth1", "10.0.1.20/24") // as its DHCP client does
		// Again, without IMDS: ec2net uses the files of this very ENI, and runs ifup first.
		m.vpc.err, m.ran, m.log = errors.New("gone"), nil, nil
		start := time.Now()
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifup eth1"})
		if strings.Contains(strings.Join(m.log, " "), "wrote") || time.Since(start) > 5*time.Second {
			t.Errorf("wrote again, or waited %v:\n%s", time.Since(start), strings.Join(m.log, "\n"))
		}
	})
}

// Nothing calls the hook: the address is static, the DHCP client has no hook, or the hook
// was killed.
func TestNoHook(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Run = func(context.Context, string, ...string) error {
			m.address(t, "eth1", "10.0.1.20/24")
			return nil
		}
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), readyRules)
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		if !strings.Contains(strings.Join(m.log, "\n"), "eth1: ip rules are missing after ifup: adding them") {
			t.Errorf("log:\n%s", strings.Join(m.log, "\n"))
		}
		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)

		m.log = nil
		m.Run = func(context.Context, string, ...string) error {
			m.address(t, "eth1", "10.0.1.20/24")
			m.lease(t, "eth1", "BOUND", "10.0.1.20")
			return nil
		}
		check(t, m.Add(t.Context(), "eth1"))
		if strings.Contains(strings.Join(m.log, "\n"), "ip rules are missing") {
			t.Errorf("log:\n%s", strings.Join(m.log, "\n"))
		}
	})
}

func TestAddRefuses(t *testing.T) {
	onMachine(t, func(m *machine) {
		var gone *kernel.GoneError
		if err := m.Add(t.Context(), "eth9"); !errors.As(err, &gone) {
			t.Errorf("not there: %v", err)
		}
		var primary *PrimaryError
		if err := m.Add(t.Context(), "eth0"); !errors.As(err, &primary) {
			t.Errorf("primary: %v", err)
		}
		if err := m.Remove(t.Context(), "eth0"); !errors.As(err, &primary) {
			// Add refuses the primary, and remembers no facts of it: write them here.
			e, err := m.vpc.ENI(t.Context(), "eth0", primaryMAC, m.Numbers)
			check(t, err)
			_, err = m.memory().keep(e)
			check(t, err)
			if err := m.Remove(t.Context(), "eth0"); !errors.As(err, &primary) {
				t.Errorf("remove of the primary: %v", err)
			}
		}
		if err := m.Add(t.Context(), "../eth1"); err == nil {
			t.Error("took a path for a name")
		}
		_, err := m.Tree.Write("/etc/network/interfaces.d/eth1.cfg", []byte("# EC2SYNC=no\n"))
		check(t, err)
		var left *UnmanagedError
		for what, err := range map[string]error{"add": m.Add(t.Context(), "eth1"), "remove": m.Remove(t.Context(), "eth1")} {
			if !errors.As(err, &left) {
				t.Errorf("%s of an unmanaged one: %v", what, err)
			}
		}
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		same(t, "rules of an unmanaged one", m.rulesNow(t), nil)
		// Two ENIs with one index.
		check(t, m.Add(t.Context(), "eth2"))
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetName(l, "ens7"))
		eni := m.vpc.enis[macs["eth1"]]
		eni.DeviceNumber = 2
		m.vpc.enis[macs["eth1"]] = eni
		if err := m.Add(t.Context(), "ens7"); err == nil || !strings.Contains(err.Error(), "both have the index 2") {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth2"})
	})
}

// ifupdown does not read the stanza: ec2net says so before it runs ifup.
func TestNotSourced(t *testing.T) {
	for text, ok := range map[string]bool{
		"source /etc/network/interfaces.d/*\n":                         true,
		"auto lo\n  source interfaces.d/*.cfg\n":                       true,
		"source /etc/network/other /etc/network/interfaces.d/eth?.cfg": true,
		"source-directory /etc/network/interfaces.d\n":                 false,
		"#source /etc/network/interfaces.d/*\n":                        false,
		"source /etc/network/interfaces.d/*.conf\n":                    false,
		"": false,
	} {
		onMachine(t, func(m *machine) {
			_, err := m.Tree.Write(interfacesFile, []byte(text))
			check(t, err)
			err = m.Add(t.Context(), "eth1")
			var not *ifupdown.NotSourcedError
			if errors.As(err, &not) == ok || len(m.ran) > 0 != ok {
				t.Errorf("%q: %v, ran %q", text, err, m.ran)
			}
		})
	}
}

// If ec2net knows which interface is the primary, it does nothing before that has an
// address.
func TestPrimaryNotUp(t *testing.T) {
	onMachine(t, func(m *machine) {
		check(t, m.Add(t.Context(), "eth1"))
		m.address(t, "eth1", "10.0.1.20/24") // as its DHCP client does
		l, err := m.netns.LinkByName("eth0")
		check(t, err)
		list, err := m.netns.AddrList(l, 2)
		check(t, err)
		check(t, m.netns.AddrDel(l, &list[0]))
		m.ran = nil
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, nil)
		m.address(t, "eth0", "10.0.0.10/24")
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifup eth1"})
	})
}

// A failed ifup leaves nothing behind: ifdown --force ends its DHCP client.
func TestIfupFails(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.fails["ifup"] = errors.New("exit status 1: post-up")
		err := m.Add(t.Context(), "eth1")
		if err == nil || !strings.Contains(err.Error(), "ifup eth1: exit status 1: post-up") {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth1", "ifdown --force -i /run/ec2net/eth1.cfg eth1"})
		same(t, "rules", m.rulesNow(t), nil)
		if m.file(t, "/run/ec2net/eth1.up") != "" {
			t.Error("counts as configured")
		}
	})
}

// ifup fails for a live ENI, since it is missing or hangs: the ENI stays up.
func TestIfupFailsAgain(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.fails["ifup"], m.ran = errors.New("there is no ifup"), nil
		if err := m.Add(t.Context(), "eth1"); err == nil || !strings.Contains(err.Error(), "ifup eth1: there is no ifup") {
			t.Errorf("%v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth1"})
		same(t, "rules", m.rulesNow(t), readyRules)
		if m.file(t, "/run/ec2net/eth1.up") == "" {
			t.Error("does not count as configured")
		}
	})
}

// An ENI is attached and detached five times: the state is the same each time, and the
// files stay.
func TestPlugAndUnplug(t *testing.T) {
	onMachine(t, func(m *machine) {
		before := m.rulesNow(t)
		var state []string
		for range 5 {
			ready(t, m)
			now := m.rulesNow(t)
			if state == nil {
				state = now
			}
			same(t, "rules", now, state)
			m.pull(t, "eth1")
			m.ran = nil
			check(t, m.Remove(t.Context(), "eth1"))
			same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1"})
			same(t, "rules", m.rulesNow(t), before)
			if m.file(t, "/etc/network/interfaces.d/eth1.cfg") == "" || m.file(t, "/run/ec2net/eth1.up") != "" {
				t.Error("the cfg is gone, or it counts as configured")
			}
			m.plug(t, "eth1", macs["eth1"])
		}
	})
}

// Detaching one ENI leaves the rules of another, and the group rule.
func TestUnplugOne(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Add(t.Context(), "eth2"))
		m.address(t, "eth2", "10.0.1.30/24")
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		check(t, m.Remove(t.Context(), "eth2"))
		same(t, "rules", m.rulesNow(t), readyRules)
		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)
	})
}

// An ENI had another name before: the rules with its old number go, and the group rule
// stays while the ENI has rules.
func TestOldName(t *testing.T) {
	onMachine(t, func(m *machine) {
		old, err := facts.Renamed(m.vpc.enis[macs["eth1"]], "eth3", facts.DefaultNumbers)
		check(t, err)
		_, err = m.memory().keep(old)
		check(t, err)
		ready(t, m)
		check(t, m.Add(t.Context(), "eth2"))
		m.address(t, "eth2", "10.0.1.30/24")
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		check(t, m.Remove(t.Context(), "eth2"))
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}

// A late "remove" of udev leaves an ENI alone that was attached since.
func TestLateRemove(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.ran = nil
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		same(t, "programs", m.ran, nil)
		same(t, "rules", m.rulesNow(t), readyRules)
		// Another device of the same name, not brought up yet.
		m.pull(t, "eth1")
		m.plug(t, "eth1", macs["eth1"])
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1"})
		same(t, "rules", m.rulesNow(t), nil)
	})
}

// "add" of a live ENI restores what is missing.
func TestAddMends(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		rules := m.rules(t)
		for _, k := range rules {
			if k.String() == from1001("10.0.1.20") {
				check(t, m.kernel.Apply(plan.DelRule{Rule: k}))
			}
		}
		check(t, m.Add(t.Context(), "eth1"))
		if got := m.rulesNow(t); !slices.Contains(got, from1001("10.0.1.20")) {
			t.Errorf("rules:\n%s", strings.Join(got, "\n"))
		}
	})
}

// Another device gets the name during the wait for IMDS.
func TestReplacedMeanwhile(t *testing.T) {
	onMachine(t, func(m *machine) {
		eni := m.vpc.enis[macs["eth1"]]
		delete(m.vpc.enis, macs["eth1"]) // IMDS never knows it
		other := facts.MAC{2, 0, 0, 0, 7, 7}
		m.vpc.asked = func() {
			m.vpc.asked = nil
			m.pull(t, "eth1")
			m.plug(t, "eth1", other)
			eni.MAC, eni.ID = other, "eni-7"
			m.vpc.enis[other] = eni
		}
		start := time.Now()
		check(t, m.Add(t.Context(), "eth1"))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if !strings.Contains(m.file(t, "/run/ec2net/eth1.up"), other.String()) {
			t.Error("ec2net brought up another device")
		}
	})
}

// Another ENI has the name now: ec2net takes the old one down with its own files, before
// it writes the new one's.
func TestAnotherENI(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.pull(t, "eth1")
		other := facts.MAC{2, 0, 0, 0, 7, 7}
		eni := m.vpc.enis[macs["eth1"]]
		eni.MAC, eni.ID, eni.IPv4 = other, "eni-7", addrs("10.0.1.70")
		m.vpc.enis[other] = eni
		m.plug(t, "eth1", other)
		m.ran = nil
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1", "ifup eth1"})
		if !strings.Contains(m.file(t, "/var/lib/ec2net/eth1.rules"), "from 10.0.1.70") {
			t.Error("the rules are still the old ENI's")
		}
	})
}

// ec2net's ifdown also takes down the new device of the name: this does not count as taken
// down by an administrator, so the device comes up.
func TestAnotherENITakenDown(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.pull(t, "eth1")
		other := facts.MAC{2, 0, 0, 0, 7, 7}
		eni := m.vpc.enis[macs["eth1"]]
		eni.MAC, eni.ID, eni.IPv4 = other, "eni-7", addrs("10.0.1.70")
		m.vpc.enis[other] = eni
		m.plug(t, "eth1", other)
		m.setUp(t, "eth1")
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if program == "ifdown" {
				l, err := m.netns.LinkByName("eth1")
				check(t, err)
				check(t, m.netns.LinkSetDown(l))
			}
			return run(ctx, program, args...)
		}
		m.ran = nil
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1", "ifup eth1"})
		same(t, "rules", m.rulesNow(t), []string{group1001, groupMark, from1001("10.0.1.70"), mark1001})
	})
}

// ec2net respects a group that another program has set. Then the group rule would do
// harm, so there is none.
func TestForeignGroup(t *testing.T) {
	onMachine(t, func(m *machine) {
		l, err := m.netns.LinkByName("eth0")
		check(t, err)
		check(t, m.netns.LinkSetGroup(l, 42))
		ready(t, m)
		if got := m.rulesNow(t); slices.Contains(got, group1001) || !slices.Contains(got, mark1001) {
			t.Errorf("rules:\n%s", strings.Join(got, "\n"))
		}
		links, err := m.kernel.Links()
		check(t, err)
		if l, _ := named(links, "eth0"); l.Group != 42 {
			t.Errorf("group %d", l.Group)
		}
		if log := strings.Join(m.log, "\n"); !strings.Contains(log, "eth0: interface group is 42, set by another program, or before EC2NET_BASE was changed, which needs a reboot: leaving it") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// pull detaches a device, without an event.
func (m *machine) pull(t *testing.T, name string) {
	t.Helper()
	l, err := m.netns.LinkByName(name)
	check(t, err)
	check(t, m.netns.LinkDel(l))
}

func (m *machine) plug(t *testing.T, name string, mac facts.MAC) {
	t.Helper()
	addVeth(t, m.netns, name, mac)
}

// The hook follows overrides: the kernel has the rules of the rendered script.
func TestOverrideGovernsRules(t *testing.T) {
	onMachine(t, func(m *machine) {
		templates, err := render.Load(oneOverride{})
		check(t, err)
		m.Templates = templates
		ready(t, m)
		want := slices.Insert(slices.Clone(readyRules), 2, strings.Replace(group1001, "10.0.1.0/24", "10.200.0.0/16", 1))
		same(t, "rules", m.rulesNow(t), append(want, "pref 1001 from 10.200.0.0/16 lookup 1001 suppress_prefixlength 0 protocol 236"))
	})
}

type oneOverride struct{}

func (oneOverride) Names() ([]string, error) { return []string{"blocks.tmpl"}, nil }
func (oneOverride) Path(name string) string  { return "/etc/ec2net/templates/" + name }
func (oneOverride) Read(string) ([]byte, error) {
	return []byte("{{define \"rules\"}}\nrule add pref {{.Priority}} from 10.200.0.0/16 lookup {{.Table}} suppress_prefixlength 0\n{{end}}"), nil
}

// An administrator takes an ENI down during the wait for IMDS: it does not come up again,
// even when the unit tries again.
func TestTakenDownMeanwhile(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
		m.vpc.asked = func() {
			m.vpc.asked = nil
			l, err := m.netns.LinkByName("eth1")
			check(t, err)
			check(t, m.netns.LinkSetDown(l))
		}
		check(t, m.Add(t.Context(), "eth1")) // an error would make the unit try again
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
	})
}

// An administrator's own address does not count as a lease.
func TestAddWithOwnAddress(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.address(t, "eth1", "192.168.77.1/24")
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}

// An ENI with device 0 of network card 1 comes up, and has a number of its own.
func TestDeviceZeroOfAnotherCard(t *testing.T) {
	onMachine(t, func(m *machine) {
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetName(l, "ens7"))
		m.says(macs["eth1"], func(e *facts.ENI) { e.DeviceNumber, e.NetworkCard = 0, 1 })
		check(t, m.Add(t.Context(), "ens7"))
		m.address(t, "ens7", "10.0.1.20/24")
		m.lease(t, "ens7", "BOUND", "10.0.1.20")
		if rule := "pref 1100 from 10.0.1.20 lookup 1100 protocol 236"; !slices.Contains(m.rulesNow(t), rule) {
			t.Errorf("rules %q", m.rulesNow(t))
		}
	})
}
