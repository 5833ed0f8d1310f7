package kernel

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/lab/unshared"
	"ec2net/plan"
)

func TestMain(m *testing.M) { unshared.Main(m) }

// inNetns opens the kernel of a new network namespace.
func inNetns(t testing.TB) *Kernel {
	t.Helper()
	unshared.Netns(t)
	k, err := Open()
	check(t, err)
	t.Cleanup(k.Close)
	return k
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addVeth(t testing.TB, name string, mac facts.MAC) plan.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, net.HardwareAddr(mac[:])
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p-" + name}))
	for _, n := range []string{name, "p-" + name} {
		l, err := netlink.LinkByName(n)
		check(t, err)
		check(t, netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName(name)
	check(t, err)
	return plan.Link{Name: name, Index: l.Attrs().Index, MAC: mac, Up: true}
}

func look(t *testing.T, k *Kernel) plan.State {
	t.Helper()
	s, err := k.Look(nil)
	check(t, err)
	return s
}

var mac1 = facts.MAC{2, 0, 0, 0, 1, 1}

// A look sees the applied changes. Applying them again changes nothing.
func TestApplied(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	rule := iprule.Rule{Priority: 1001, Table: 1001, Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
	from, mark, group := rule, rule, rule
	from.From = netip.MustParsePrefix("10.0.1.20/32")
	mark.Mark, mark.MarkMask = 0x3e9, 0x3fff
	group.Priority, group.Table, group.SuppressPrefixLength, group.SuppressGroup = 999, iprule.MainTable, 1, 1000
	route := plan.Route{Table: 1001, Link: l.Index, Dst: netip.MustParsePrefix("10.0.1.0/24"), Metric: 0, Protocol: iprule.Protocol, Scope: unix.RT_SCOPE_LINK,
		Source: netip.MustParseAddr("10.0.1.20")}
	gw := plan.Route{Table: 1001, Link: l.Index, Dst: netip.MustParsePrefix("0.0.0.0/0"), Metric: 1001, Protocol: iprule.Protocol,
		Gateway: netip.MustParseAddr("10.9.0.1"), OnLink: true}
	changes := []plan.Change{
		plan.SetGroup{Link: l, Group: 1000},
		plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")},
		plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.21/32")},
		plan.AddRule{Rule: from}, plan.AddRule{Rule: mark}, plan.AddRule{Rule: group},
		plan.AddRoute{Link: l, Route: route}, plan.AddRoute{Link: l, Route: gw},
	}
	for range 2 {
		for _, c := range changes {
			check(t, k.Apply(c))
		}
		s := look(t, k)
		if got, _ := s.LinkNamed("eth1"); got.Group != 1000 || got.MAC != mac1 || !got.Up || !got.Is(l) {
			t.Errorf("%+v", got)
		}
		if !s.Has(l.Index, netip.MustParseAddr("10.0.1.20")) || !s.Has(l.Index, netip.MustParseAddr("10.0.1.21")) {
			t.Errorf("%+v", s.Addrs)
		}
		for _, r := range []iprule.Rule{from, mark, group} {
			if !slices.Contains(s.Rules, plan.Rule{Rule: r}) {
				t.Errorf("no %v in %+v", r, s.Rules)
			}
		}
		for _, r := range []plan.Route{route, gw} {
			if !slices.Contains(s.Routes, r) {
				t.Errorf("no %+v in %+v", r, s.Routes)
			}
		}
	}
	for range 2 {
		for _, c := range []plan.Change{
			plan.DelRoute{Link: l, Route: route}, plan.DelRoute{Link: l, Route: gw},
			plan.DelRule{Rule: plan.Rule{Rule: from}}, plan.DelRule{Rule: plan.Rule{Rule: mark}}, plan.DelRule{Rule: plan.Rule{Rule: group}},
			plan.DelAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.21/32")}, plan.DelAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")},
		} {
			check(t, k.Apply(c))
		}
	}
	if s := look(t, k); len(s.Rules) != 3 || len(s.Routes) != 0 || slices.ContainsFunc(s.Addrs, func(a plan.Addr) bool { return a.Link == l.Index }) {
		t.Errorf("%+v", s)
	}
}

func TestMAC(t *testing.T) {
	inNetns(t)
	addVeth(t, "eth1", mac1)
	l, err := netlink.LinkByName("eth1")
	check(t, err)
	check(t, netlink.LinkAddAltName(l, "other"))
	check(t, netlink.LinkAddAltName(l, strings.Repeat("long", 5)))
	if mac, err := MAC("eth1"); err != nil || mac != mac1 {
		t.Errorf("%v, %v", mac, err)
	}
	for name, want := range map[string]string{
		"eth7":                    "there is no interface eth7 here",
		"other":                   "other is another name of the interface eth1",
		strings.Repeat("long", 5): "longlonglonglonglong is another name of the interface eth1",
		"lo":                      "lo has no MAC address of six octets, so it is no ENI",
	} {
		if _, err := MAC(name); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
