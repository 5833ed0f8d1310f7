package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// startDHCP starts the DHCP server. It leases to the hosts of a folder that it
// watches, in every subnet, and to nobody else.
func (v *VPC) startDHCP(lease time.Duration) error {
	const hosts = "/run/dhcp"
	conf := strings.Builder{}
	fmt.Fprintf(&conf, `port=0
user=root
no-ping
dhcp-authoritative
dhcp-hostsdir=%s
dhcp-leasefile=/run/dnsmasq.leases
pid-file=
log-dhcp
log-facility=/run/dnsmasq.log
domain=ec2.internal
dhcp-option=option:mtu,%d
`, hosts, jumbo)
	for _, s := range v.subnets {
		mask := netmask(s.prefix)
		fmt.Fprintf(&conf, "dhcp-range=set:%s,%s,static,%s,%d\n", s.bridge, s.prefix.Addr(), mask, int(lease.Seconds()))
		if lease < time.Hour {
			// dhclient waits up to 21 s between two requests, whichever way they
			// go: the usual last eighth of a short lease may pass without one.
			fmt.Fprintf(&conf, "dhcp-option=tag:%s,option:T1,%d\n", s.bridge, int(lease.Seconds())/4)
			fmt.Fprintf(&conf, "dhcp-option=tag:%s,option:T2,%d\n", s.bridge, int(lease.Seconds())/2)
		}
		fmt.Fprintf(&conf, "dhcp-option=tag:%s,option:router,%s\n", s.bridge, s.router())
		fmt.Fprintf(&conf, "dhcp-option=tag:%s,option:dns-server,%s\n", s.bridge, s.dns())
	}
	if v.plan6() {
		conf.WriteString(v.advertising(lease))
	}
	_, err := v.routerRun(v.ctx, Cmd{
		// It goes to the background when it can serve.
		Args:  []string{"dnsmasq", "--conf-file=/etc/dnsmasq.conf"},
		Files: map[string]string{"/etc/dnsmasq.conf": conf.String(), hosts + "/.folder": ""},
	})
	return err
}

func netmask(p netip.Prefix) netip.Addr {
	mask := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)})
}

// addDHCPHost tells the server to lease an ENI's primary address to its MAC.
func (v *VPC) addDHCPHost(e *ENI) error {
	return v.router.inside(func() error {
		line := e.MAC + "," + e.first
		if e.IPv6.IsValid() {
			line += ",[" + e.IPv6.String() + "]"
		}
		return writeFiles(map[string]string{"/run/dhcp/" + e.port: line + "\n"})
	})
}

// DHCP sets how the DHCP server is reached, from now on.
func (v *VPC) DHCP(tb TB, s Service) {
	tb.Helper()
	script := "table inet dhcp {}; delete table inet dhcp"
	if s != Up {
		script += "; table inet dhcp { chain input { type filter hook input priority filter; udp dport 67 " + string(s) + "; }; }"
	}
	if err := v.nft(script); err != nil {
		tb.Fatalf("DHCP server: %v", err)
	}
}
