package lab

import (
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A netns is a network namespace without a name: it ends with its last thread and its
// file, so at the latest with this process.
type netns struct{ file *os.File }

// newNetns makes a namespace with nothing but lo, which is up.
func newNetns() (*netns, error) {
	var n *netns
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make a network namespace: %w", err)
		}
		if n, err = currentNetns(); err != nil {
			return err
		}
		return setUp("lo")
	})
	return n, err
}

// currentNetns returns the calling thread's namespace. It needs a /proc that
// shows this process.
func currentNetns() (*netns, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("cannot hold a network namespace: %w", err)
	}
	return &netns{file}, nil
}

func (n *netns) fd() int { return int(n.file.Fd()) }

func (n *netns) close() { _ = n.file.Close() }

// do runs f on a thread in the namespace. Sockets stay in the namespace that
// they were made in, so what f opens may be used anywhere.
func (n *netns) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter a network namespace: %w", err)
		}
		return f()
	})
}

// sysctl writes kernel settings, each named by its path below /proc/sys/net,
// which shows the calling thread's namespace.
func sysctl(settings ...string) error {
	for i := 0; i < len(settings); i += 2 {
		if err := os.WriteFile("/proc/sys/net/"+settings[i], []byte(settings[i+1]), 0); err != nil {
			return err
		}
	}
	return nil
}

// The following work on the calling thread's namespace.

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot set %s up: %w", name, err)
	}
	return nil
}

// waitUp waits until an interface that was set up really sends: the kernel may take a
// second to notice a new carrier, and drops everything until then.
func waitUp(name string) error {
	for end := time.Now().Add(eventWait); time.Now().Before(end); time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("cannot find %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("%s has no carrier", name)
}

// addAddress gives an interface an address like "10.0.0.1/24" and sets it up.
func addAddress(name, cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("address of %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", name, err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", cidr, name, err)
	}
	return setUp(name)
}

// addDefaultRoute routes everything by a gateway that is on a link's subnet.
func addDefaultRoute(gateway string) error {
	addr, err := netlink.ParseAddr(gateway + "/32")
	if err != nil {
		return fmt.Errorf("gateway %s: %w", gateway, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: addr.IP}); err != nil {
		return fmt.Errorf("cannot route by %s: %w", gateway, err)
	}
	return nil
}
