package hooks

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/kernel"
	mem "ec2net/kernel/memory"
	"ec2net/lab/unshared"
	"ec2net/plan"
)

func TestMain(m *testing.M) { unshared.Main(m) }

// below is the kernel that a world runs on: a real one, or one in memory.
type below struct {
	// ec2net is the connection of ec2net, whose requests may be struck. All others use
	// eyes: the model, ifup, the administrator.
	ec2net, eyes Kernel
	links        links
}

// links changes the interfaces of a machine.
type links interface {
	add(name string, mac facts.MAC) error
	del(name string) error
	rename(name, other string) error
	set(name string, up bool) error
}

// A boot starts a kernel, as after power-on. Before each request of ec2net it calls
// before.
type boot func(t *testing.T, before func(request string) error) below

// realKernel boots the kernel in a network namespace of its own, in which the calling
// thread stays.
func realKernel(t *testing.T, before func(string) error) below {
	t.Helper()
	unshared.Netns(t)
	none := func(plan.Link) bool { return false }
	struck, eyes := openKernel(t), openKernel(t)
	struck.Before, struck.IsENI, eyes.IsENI = before, none, none
	netns, err := netlink.NewHandle()
	check(t, err)
	t.Cleanup(netns.Close)
	return below{struck, eyes, veths{netns}}
}

// kernelInMemory boots a kernel in memory.
func kernelInMemory(_ *testing.T, before func(string) error) below {
	eyes := mem.New()
	struck := eyes.Another()
	struck.Before = before
	return below{struck, eyes, cards{eyes}}
}

// veths are the interfaces of a network namespace, each with an end p-NAME.
type veths struct{ *netlink.Handle }

func (v veths) add(name string, mac facts.MAC) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, mac[:]
	return v.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p-" + name})
}

func (v veths) del(name string) error {
	l, err := v.LinkByName(name)
	if err != nil {
		return err
	}
	return v.LinkDel(l)
}

func (v veths) rename(name, other string) error {
	for _, end := range []string{"", "p-"} {
		l, err := v.LinkByName(end + name)
		if err != nil {
			return err
		}
		if err := v.LinkSetName(l, end+other); err != nil {
			return err
		}
	}
	return nil
}

func (v veths) set(name string, up bool) error {
	l, err := v.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return v.LinkSetUp(l)
	}
	return v.LinkSetDown(l)
}

// cards are the interfaces of a kernel in memory.
type cards struct{ *mem.Kernel }

func (c cards) add(name string, mac facts.MAC) error {
	c.AddLink(name, mac, true)
	return nil
}

func (c cards) del(name string) error {
	c.DelLink(name)
	return nil
}

func (c cards) rename(name, other string) error {
	c.Rename(name, other)
	return nil
}

func (c cards) set(name string, up bool) error {
	if up {
		c.SetUp(name)
	} else {
		c.SetDown(name)
	}
	return nil
}

// openKernel opens the kernel of the namespace, for which eth* are ENIs.
func openKernel(t *testing.T) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Open()
	check(t, err)
	t.Cleanup(k.Close)
	k.IsENI = func(l plan.Link) bool { return strings.HasPrefix(l.Name, "eth") }
	return k
}
