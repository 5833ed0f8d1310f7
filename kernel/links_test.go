package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/plan"
)

// A look reads a link's group, its master, and whether it may be an ENI's.
func TestLinks(t *testing.T) {
	k := inNetns(t)
	k.IsENI = func(l plan.Link) bool { return l.Name != "p-eth1" && l.MAC != (facts.MAC{}) }
	eth1, port := addVeth(t, "eth1", mac1), addVeth(t, "port", facts.MAC{2, 0, 0, 0, 1, 2})
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = "docker0", 7
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	check(t, netlink.LinkAdd(bridge))
	check(t, netlink.LinkSetMaster(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: port.Index}}, bridge))
	links, err := k.Links()
	check(t, err)
	s := plan.State{Links: links}
	eth1.Device = true
	port.Master = bridge.Attrs().Index
	docker0, _ := s.LinkNamed("docker0")
	for _, want := range []plan.Link{
		{Name: "lo", Index: 1, Loopback: true, Device: true}, eth1, port,
		{Name: "docker0", Index: bridge.Attrs().Index, Group: 7, MAC: docker0.MAC},
	} {
		if got, _ := s.LinkNamed(want.Name); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	if l, _ := s.LinkNamed("p-eth1"); l.Device {
		t.Errorf("%+v", l)
	}
}

// A link is strict if the larger one of its own rp_filter and that of all is 1. Then its own
// becomes 2.
func TestStrict(t *testing.T) {
	k := inNetns(t)
	k.IsENI = func(l plan.Link) bool { return l.Name == "eth1" }
	l := addVeth(t, "eth1", mac1)
	for _, c := range []struct {
		all, own string
		strict   bool
	}{
		{"0", "0", false}, {"0", "1", true}, {"0", "2", false},
		{"1", "0", true}, {"1", "1", true}, {"1", "2", false},
		{"2", "0", false}, {"2", "1", false}, {"2", "2", false},
	} {
		setFilter(t, "all", c.all)
		setFilter(t, "eth1", c.own)
		setFilter(t, "p-eth1", "1") // no ENI
		is := func() bool {
			links, err := k.Links()
			check(t, err)
			if peer, _ := (plan.State{Links: links}).LinkNamed("p-eth1"); peer.Strict {
				t.Errorf("%+v", peer)
			}
			now, _ := plan.State{Links: links}.LinkNamed("eth1")
			return now.Strict
		}
		if is() != c.strict {
			t.Errorf("all %s, own %s: strict %t", c.all, c.own, !c.strict)
		}
		check(t, k.Apply(plan.SetLoose{Link: l}))
		if is() {
			t.Errorf("all %s, own %s: still strict", c.all, c.own)
		}
		value, err := os.ReadFile("/proc/sys/net/ipv4/conf/eth1/rp_filter")
		check(t, err)
		if string(value) != "2\n" {
			t.Errorf("rp_filter is %q", value)
		}
	}
	k.allFilter.Close()
	k.allFilter = nil // without /proc
	setFilter(t, "eth1", "1")
	if links, err := k.Links(); err != nil || !slices.ContainsFunc(links, func(l plan.Link) bool { return l.Strict }) {
		t.Errorf("%+v, %v", links, err)
	}
}

// IPv6 is off on a link by its own disable_ipv6, or by that of all links. The change switches
// it off, and takes the addresses and routes away.
func TestIPv6(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	set := func(name, value string) {
		check(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte(value), 0))
	}
	off := func() bool {
		links, err := k.Links()
		check(t, err)
		now, _ := plan.State{Links: links}.LinkNamed("eth1")
		return now.NoIPv6
	}
	count := func() int {
		all, err := k.addrs(unix.AF_INET6)
		check(t, err)
		routes, _, err := k.routes(unix.AF_INET6, nil)
		check(t, err)
		n := 0
		for _, a := range all {
			if a.Link == l.Index {
				n++
			}
		}
		for _, r := range routes {
			if r.Link == l.Index {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name, value string
		off         bool
	}{{"eth1", "0", false}, {"eth1", "1", true}, {"all", "0", false}, {"all", "1", true}, {"p-eth1", "0", true}, {"eth1", "0", false}} {
		set(c.name, c.value)
		if off() != c.off {
			t.Errorf("%s %s: off %t", c.name, c.value, !c.off)
		}
	}
	address := plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("2001:db8::20/64")}
	check(t, k.Apply(address))
	if count() == 0 {
		t.Error("there is nothing to take away")
	}
	for range 2 {
		check(t, k.Apply(plan.DisableIPv6{Link: l}))
		if !off() || count() != 0 {
			t.Errorf("off %t, with %d addresses and routes", off(), count())
		}
	}
	if err := k.Apply(address); err == nil {
		t.Error("an address was added")
	}
	l.Name = "gone"
	if err := k.Apply(plan.DisableIPv6{Link: l}); err == nil {
		t.Error("no error without the interface")
	}
	k.inet6 = nil // without /proc
	if err := k.Apply(plan.DisableIPv6{Link: l}); err == nil {
		t.Error("no error without /proc")
	}
}

func setFilter(t *testing.T, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte(value), 0))
}

// A veth counts as an ENI if udev's database says it is one.
func TestUdevCounts(t *testing.T) {
	dir := t.TempDir()
	for index, properties := range map[int]string{
		3: "I:123\nE:ID_NET_DRIVER=veth\nE:EC2NET_ENI=1\nG:systemd\n",
		4: "I:123\nE:EC2NET_ENI=10\n",
		5: "I:123\nS:E:EC2NET_ENI=1\n",
	} {
		check(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("n%d", index)), []byte(properties), 0o600))
	}
	for index, want := range map[int]bool{3: true, 4: false, 5: false, 6: false} {
		if got := counts(dir, plan.Link{Index: index}); got != want {
			t.Errorf("%d: %v", index, got)
		}
	}
}
