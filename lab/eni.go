package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/lab/imds"
)

// An ENI is a network interface of a VPC, whether attached to the instance or
// not. Attached, it is a veth pair from the instance to a port of its
// subnet's bridge.
type ENI struct {
	MAC, ID string
	IPv6    netip.Addr // not valid without IPv6 in the VPC

	vpc    *VPC
	subnet *subnet
	port   string // the interface at the router
	first  string // the primary address, which DHCP leases

	mu       sync.Mutex
	addrs    []string
	name     string // the interface in the instance, "" if not attached
	describe func(*imds.ENI)
	hidden   bool
}

// Addrs returns the ENI's addresses, the primary one first.
func (e *ENI) Addrs() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.addrs)
}

// Attach attaches the ENI to the instance, as the interface of that name. The device number
// is the number in the name, from the primary's on: with eth0, eth1's is 1, and with ens5, so
// is ens6's. The udevd of a running instance sees "add"; an
// instance that is off finds the interface when it starts.
func (e *ENI) Attach(tb TB, name string) {
	tb.Helper()
	e.mu.Lock()
	e.name = name
	e.mu.Unlock()
	e.vpc.tellIMDS() // first, so that nobody asks too early unless a test wants it
	e.vpc.mu.Lock()
	instance := e.vpc.instance
	e.vpc.mu.Unlock()
	if instance == nil {
		return
	}
	if err := e.plug(instance, name); err != nil {
		tb.Fatalf("cannot attach %s: %v", name, err)
	}
}

// Detach takes the ENI from the instance without warning, as a forced detachment
// does; udevd sees "remove".
func (e *ENI) Detach(tb TB) {
	tb.Helper()
	e.mu.Lock()
	e.name = ""
	e.mu.Unlock()
	e.vpc.tellIMDS()
	if err := e.unplug(); err != nil {
		tb.Fatalf("cannot detach %s: %v", e.ID, err)
	}
}

// Assign gives the ENI another address: IMDS says so, and frames from it pass.
// The instance is told nothing, as on EC2.
func (e *ENI) Assign(tb TB, addr string) {
	tb.Helper()
	e.mu.Lock()
	e.addrs = append(e.addrs, addr)
	e.mu.Unlock()
	if err := e.vpc.nft("add element bridge vpc addrs { " + e.element(addr) + " }"); err != nil {
		tb.Fatalf("cannot assign %s: %v", addr, err)
	}
	e.vpc.tellIMDS()
}

// Unassign takes an address away.
func (e *ENI) Unassign(tb TB, addr string) {
	tb.Helper()
	e.mu.Lock()
	e.addrs = slices.DeleteFunc(e.addrs, func(a string) bool { return a == addr })
	e.mu.Unlock()
	err := e.vpc.nft("delete element bridge vpc addrs { " + e.element(addr) + " }")
	if err == nil {
		err = e.vpc.router.net.do(func() error { return e.forget(addr) })
	}
	if err != nil {
		tb.Fatalf("cannot unassign %s: %v", addr, err)
	}
	e.vpc.tellIMDS()
}

// Allow lets frames from another address pass, as EC2 does when an administrator has
// switched the check of the source off: for an instance that is a router.
func (e *ENI) Allow(tb TB, addr string) {
	tb.Helper()
	if err := e.vpc.nft("add element bridge vpc addrs { " + e.element(addr) + " }"); err != nil {
		tb.Fatalf("cannot allow %s: %v", addr, err)
	}
}

// RouterOf makes the ENI the router of a host: what the host sends out of the VPC goes to
// the ENI, as by a route of its subnet's route table.
func (e *ENI) RouterOf(tb TB, host *Place) {
	tb.Helper()
	script := fmt.Sprintf("ip rule add pref 77 from %s to 198.51.100.0/24 lookup 77 && ip route add default via %s dev %s table 77",
		host.ENI.addrs[0], e.addrs[0], e.subnet.bridge)
	if _, err := e.vpc.routerRun(tb.Context(), Cmd{Args: []string{"sh", "-c", script}}); err != nil {
		tb.Fatalf("cannot make the ENI a router: %v", err)
	}
}

// Describe sets a function that edits the answers of IMDS about the ENI, until the
// next Describe; nil leaves them true. Called before Attach, it makes an ENI that
// appears incomplete, as on EC2 for up to half a minute; see [Provisional].
func (e *ENI) Describe(edit func(*imds.ENI)) {
	e.mu.Lock()
	e.describe = edit
	e.mu.Unlock()
	e.vpc.tellIMDS()
}

// Hide hides an attached ENI from IMDS, until Hide(false).
func (e *ENI) Hide(hidden bool) {
	e.mu.Lock()
	e.hidden = hidden
	e.mu.Unlock()
	e.vpc.tellIMDS()
}

// Provisional is for [ENI.Describe]: an ENI that was attached a moment ago.
// The device number is 0, and what EC2 adds last is missing.
func Provisional(d *imds.ENI) {
	d.DeviceNumber = 0
	d.ID = ""
	d.Subnet = ""
	d.IPv4 = nil
}

// description returns what IMDS is to say of the ENI, if anything.
func (e *ENI) description() (imds.ENI, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.name == "" || e.hidden {
		return imds.ENI{}, false
	}
	d := imds.ENI{
		MAC: e.MAC, ID: e.ID, DeviceNumber: numberIn(e.name) - numberIn(e.vpc.name),
		Subnet: e.subnet.prefix.String(), IPv4: slices.Clone(e.addrs),
	}
	var blocks []netip.Prefix
	for _, s := range e.vpc.subnets {
		// The VPC of the subnets is a /16 around them.
		p, _ := s.prefix.Addr().Prefix(16)
		if !slices.Contains(blocks, p) {
			blocks = append(blocks, p)
			d.VPC = append(d.VPC, p.String())
		}
	}
	if e.IPv6.IsValid() {
		d.IPv6, d.IPv6Subnets = []string{e.IPv6.String()}, []string{e.subnet.six.String()}
		d.VPCIPv6 = []string{"2001:db8::/56"}
	}
	if e.describe != nil {
		e.describe(&d)
	}
	return d, true
}

// numberIn returns the number at the end of an interface's name.
func numberIn(name string) int {
	number, _ := strconv.Atoi(strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz"))
	return number
}

// plug puts the ENI into a namespace under a name.
func (e *ENI) plug(n *netns, name string) error {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	return e.vpc.router.net.do(func() error {
		// An instance that ended took its ENIs along, but the kernel may not
		// be through with that.
		if err := e.removePort(); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(e.subnet.bridge)
		if err != nil {
			return fmt.Errorf("cannot find %s: %w", e.subnet.bridge, err)
		}
		// The instance's end is made last and in its place: it appears with
		// this name and this MAC, which is the only event that udevd sees.
		veth := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: e.port, MTU: jumbo, MasterIndex: bridge.Attrs().Index},
			PeerName:         name,
			PeerHardwareAddr: mac,
			PeerNamespace:    netlink.NsFd(n.fd()),
			PeerMTU:          jumbo,
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("cannot add %s: %w", name, err)
		}
		if err := netlink.LinkSetIsolated(veth, true); err != nil {
			return fmt.Errorf("cannot isolate the port of %s: %w", name, err)
		}
		return setUp(e.port)
	})
}

func (e *ENI) unplug() error {
	return e.vpc.router.net.do(func() error {
		for _, addr := range e.Addrs() {
			if err := e.forget(addr); err != nil {
				return err
			}
		}
		return e.removePort()
	})
}

// removePort removes the router's end of the ENI, and with it the other end.
func (e *ENI) removePort() error {
	for range 100 {
		link, err := netlink.LinkByName(e.port)
		var absent netlink.LinkNotFoundError
		if errors.As(err, &absent) {
			return nil
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("cannot remove the port of %s: %w", e.ID, err)
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("the port of %s does not go away", e.ID)
}

// forget makes the router ask again who has an address.
func (e *ENI) forget(addr string) error {
	bridge, err := netlink.LinkByName(e.subnet.bridge)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", e.subnet.bridge, err)
	}
	err = netlink.NeighDel(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: net.ParseIP(addr)})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot forget the neighbour %s: %w", addr, err)
	}
	return nil
}
