package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// jumbo is the MTU of a VPC, which its DHCP server hands out.
const jumbo = 9001

// A subnet is a bridge in the router's namespace.
type subnet struct {
	prefix netip.Prefix
	bridge string
	six    netip.Prefix // not valid: the VPC has IPv4 alone
}

// router returns the router's address, the first of a subnet.
func (s *subnet) router() netip.Addr { return s.prefix.Addr().Next() }

func (s *subnet) dns() netip.Addr { return s.router().Next() }

// mac is the router's hardware address. Without one of its own, a bridge takes the
// lowest of its ports', and loses its neighbours when that changes.
func (s *subnet) mac() net.HardwareAddr {
	return append(net.HardwareAddr{2, 0xff}, s.router().AsSlice()...)
}

// startRouter makes the subnets, the network outside and the router between them.
//
// A VPC is no Ethernet: it answers ARP itself and carries no broadcast. Here
// the ports of a bridge are isolated from each other, so that a frame goes
// from a port to the router or nowhere (bridge(8)), and the router answers ARP
// for hosts behind other ports of the same bridge (proxy_arp_pvlan). Otherwise
// two ENIs of one instance on one subnet would both answer ARP for either's
// address, and results would be random.
func (v *VPC) startRouter(tree *Tree) error {
	disk, err := newDisk(tree)
	if err != nil {
		return err
	}
	outside, err := newNetns()
	if err != nil {
		return err
	}
	v.Client = &Place{Name: "client " + clientAddr, net: outside}
	v.router = &machine{disk: disk, hostname: "router", script: idle}
	if err := v.router.start(); err != nil {
		return err
	}
	if err := v.router.net.do(func() error { return v.buildRouter(outside) }); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	err = outside.do(func() error {
		if err := addAddress("eth0", clientAddr+"/24"); err != nil {
			return err
		}
		if err := addDefaultRoute("198.51.100.1"); err != nil {
			return err
		}
		if v.plan6() {
			if err := v.connectClient6(); err != nil {
				return err
			}
		}
		return waitUp("eth0")
	})
	if err == nil {
		err = v.router.net.do(func() error {
			for _, s := range v.subnets {
				if err := waitUp(s.bridge); err != nil {
					return err
				}
			}
			return waitUp("outside")
		})
	}
	if err != nil {
		return fmt.Errorf("cannot connect the VPC: %w", err)
	}
	return v.nft(checks)
}

// buildRouter works on the calling thread's network namespace.
func (v *VPC) buildRouter(outside *netns) error {
	err := sysctl(
		"ipv4/ip_forward", "1",
		// Packets within a subnet come and go by the same bridge.
		"ipv4/conf/all/send_redirects", "0",
		"ipv4/conf/default/send_redirects", "0",
		"ipv4/conf/default/proxy_arp_pvlan", "1",
		// Whatever this machine's own settings, which new namespaces copy.
		"ipv4/conf/all/rp_filter", "0",
		"ipv4/conf/default/rp_filter", "0",
		"ipv4/conf/default/arp_ignore", "0",
		"ipv6/conf/default/disable_ipv6", "1",
	)
	if err != nil {
		return err
	}
	if v.plan6() {
		if err := sysctl("ipv6/conf/all/forwarding", "1", "ipv6/conf/default/accept_dad", "0"); err != nil {
			return err
		}
	}
	if err := setUp("lo"); err != nil {
		return err
	}
	if err := addAddress("lo", imdsAddr+"/32"); err != nil {
		return err
	}
	for _, s := range v.subnets {
		attrs := netlink.LinkAttrs{Name: s.bridge, MTU: jumbo, HardwareAddr: s.mac()}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("cannot add %s: %w", s.bridge, err)
		}
		// Or an answer to ARP waits for up to 0.8 s: arp(7).
		if err := sysctl("ipv4/neigh/"+s.bridge+"/proxy_delay", "0"); err != nil {
			return err
		}
		if err := addAddress(s.bridge, fmt.Sprintf("%s/%d", s.router(), s.prefix.Bits())); err != nil {
			return err
		}
	}
	for _, s := range v.subnets {
		if s.six.IsValid() {
			if err := addAddress6(s.bridge, s.six.Addr().Next(), 64); err != nil {
				return err
			}
		}
		if err := s.keepUp(); err != nil {
			return err
		}
	}
	err = netlink.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: "outside", MTU: jumbo},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(outside.fd()),
	})
	if err != nil {
		return fmt.Errorf("cannot add the network outside: %w", err)
	}
	if err := addAddress("outside", "198.51.100.1/24"); err != nil || !v.plan6() {
		return err
	}
	return addAddress6("outside", outside6.Addr().Next(), 64)
}

// keepUp gives a bridge a port that leads nowhere, which keeps it up whatever becomes
// of the ENIs.
func (s *subnet) keepUp() error {
	bridge, err := netlink.LinkByName(s.bridge)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", s.bridge, err)
	}
	attrs := netlink.LinkAttrs{Name: s.bridge + "-a", MTU: jumbo, MasterIndex: bridge.Attrs().Index}
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: s.bridge + "-b"}
	if err := netlink.LinkAdd(port); err != nil {
		return fmt.Errorf("cannot add %s: %w", attrs.Name, err)
	}
	// The ENIs' frames do not reach it.
	if err := netlink.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("cannot isolate %s: %w", attrs.Name, err)
	}
	for _, name := range []string{port.Name, port.PeerName} {
		if err := setUp(name); err != nil {
			return err
		}
	}
	return nil
}

// nft runs a script of nft(8) in the router.
func (v *VPC) nft(script string) error {
	_, err := v.routerRun(v.ctx, Cmd{Args: []string{"nft", "-f", "-"}, Stdin: script})
	return err
}

// routerRun runs a command in the router that has to succeed.
func (v *VPC) routerRun(ctx context.Context, c Cmd) (stdout string, err error) {
	r, err := v.router.run(ctx, c)
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("%q: status %d\n%s%s", c.Args, r.Status, r.Stdout, r.Stderr)
	}
	return r.Stdout, err
}
