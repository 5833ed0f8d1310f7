package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Two folders of the DHCP server. Each has a file for each ENI.
const dhcpHosts, dhcpOptions = "/run/dhcp", "/run/dhcp-options"

// dnsmasq goes to the background when it can serve.
const dnsmasq = "dnsmasq --conf-file=/etc/dnsmasq.conf"

// startDHCP starts the DHCP server. It leases to the hosts of a folder that it
// watches, in every subnet, and to nobody else.
func (v *VPC) startDHCP(lease time.Duration) error {
	conf := strings.Builder{}
	fmt.Fprintf(&conf, `port=0
user=root
no-ping
dhcp-authoritative
dhcp-hostsdir=%s
dhcp-optsfile=%s
dhcp-leasefile=/run/dnsmasq.leases
pid-file=
log-dhcp
log-facility=/run/dnsmasq.log
domain=ec2.internal
dhcp-option=option:mtu,%d
`, dhcpHosts, dhcpOptions, jumbo)
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
		Args:  []string{"sh", "-c", "exec " + dnsmasq},
		Files: map[string]string{"/etc/dnsmasq.conf": conf.String(), dhcpHosts + "/.folder": "", dhcpOptions + "/.folder": ""},
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
		line := e.MAC + ",set:" + e.port + "," + e.first
		if e.IPv6.IsValid() {
			line += ",[" + e.IPv6.String() + "]"
		}
		return writeFiles(map[string]string{dhcpHosts + "/" + e.port: line + "\n"})
	})
}

// Options sets options such as "dns-server,10.9.0.2", which the DHCP server tells the ENI in
// place of the subnet's: dnsmasq(8), --dhcp-option. They count from the ENI's next request
// on, until the next call.
func (e *ENI) Options(tb TB, options ...string) {
	tb.Helper()
	text := strings.Builder{}
	for _, o := range options {
		fmt.Fprintf(&text, "tag:%s,option:%s\n", e.port, o)
	}
	_, err := e.vpc.routerRun(tb.Context(), Cmd{
		Files: map[string]string{dhcpOptions + "/" + e.port: text.String()},
		Args:  []string{"sh", "-ec", "pkill -x dnsmasq; while pgrep -x dnsmasq >/dev/null; do sleep 0.01; done; exec " + dnsmasq},
	})
	if err != nil {
		tb.Fatalf("cannot set the DHCP options of %s: %v", e.ID, err)
	}
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
