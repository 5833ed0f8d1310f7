package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

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
