package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// outside6 is the network outside of a VPC with IPv6.
var outside6 = netip.MustParsePrefix("2001:db8:ffff::/64")

// ClientIPv6 is the client's address in a VPC with IPv6.
var ClientIPv6 = netip.MustParseAddr("2001:db8:ffff::7")

// plan6 reports whether the VPC has IPv6 too.
func (v *VPC) plan6() bool { return len(v.subnets) > 0 && v.subnets[0].six.IsValid() }

// host6 is the IPv6 address of an ENI: 2001:db8:0:1::20 for 10.0.1.20.
func (s *subnet) host6(last byte) netip.Addr {
	return netip.MustParseAddr(strings.TrimSuffix(s.six.Addr().String(), "::") + fmt.Sprintf("::%d", last))
}

// advertising is dnsmasq's configuration for IPv6: as on EC2 the router advertises itself
// and the prefix, and DHCPv6 has the addresses.
func (v *VPC) advertising(lease time.Duration) string {
	conf := strings.Builder{}
	// An advertisement every four seconds, if dnsmasq keeps to that.
	fmt.Fprintf(&conf, "enable-ra\nra-param=*,4,1800\n")
	for _, s := range v.subnets {
		fmt.Fprintf(&conf, "dhcp-range=set:%s,%s,static,64,%d\n", s.bridge, s.six.Addr(), int(lease.Seconds()))
	}
	return conf.String()
}

// connectClient6 gives the client outside its IPv6 address, and a default route to the VPC.
func (*VPC) connectClient6() error {
	if err := addAddress6("eth0", ClientIPv6, 64); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{
		Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, Gw: outside6.Addr().Next().AsSlice(),
	})
}

// addAddress6 gives an interface an IPv6 address, without looking for duplicates, and
// switches IPv6 on where it is off.
func addAddress6(name string, addr netip.Addr, length int) error {
	if err := sysctl("ipv6/conf/"+name+"/disable_ipv6", "0"); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", name, err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(length, 128)}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", addr, name, err)
	}
	return setUp(name)
}

// WaitAdvertised waits until the router has advertised itself once more in each subnet of
// a VPC with IPv6.
func (v *VPC) WaitAdvertised(tb TB, i *Instance) {
	tb.Helper()
	before := v.advertised(tb)
	i.WaitFor(tb, "router advertisements", func() bool {
		now := v.advertised(tb)
		for bridge, n := range before {
			if now[bridge] <= n {
				return false
			}
		}
		return true
	})
}

// advertised counts the advertisements so far, by the bridge of the subnet.
func (v *VPC) advertised(tb TB) map[string]int {
	tb.Helper()
	log, err := v.routerRun(tb.Context(), Cmd{Args: []string{"cat", "/run/dnsmasq.log"}})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	count := make(map[string]int)
	for _, s := range v.subnets {
		count[s.bridge] = strings.Count(log, "RTR-ADVERT("+s.bridge+")")
	}
	return count
}
