package main

import (
	"fmt"
	"io"
	"time"
)

// The names of the jobs.
const (
	nothing  = "a Go program that prints a line"
	linked   = "the same, linked with ec2net's libraries"
	render   = "render --facts"
	hotplug  = "hotplug add until ifup, IMDS not asked"
	plugIMDS = "hotplug add until ifup, IMDS asked"
	hook     = "exit hook, nothing to do"
	curl     = "one curl, for a token of IMDS"
	hand     = "by hand, nothing to do"
	hook1    = "exit hook from nothing, 1 address"
	hand1    = "by hand from nothing, 1 address"
	hook50   = "exit hook from nothing, 50 addresses"
	hand50   = "by hand from nothing, 50 addresses"
	bareIfup = "ifup of a bare dhcp stanza, no hook"
	ec2ifup  = "ifup eth1 by ec2net's cfg and hook"
)

// wipe is the script that makes "from nothing": no rule of ec2net's, and no
// address but the leased ones, which are not /32.
const wipe = `ip rule flush protocol 236
for i in eth1 eth2; do
	ip -4 -oneline addr show dev $i | sed -n "s|.*inet \([0-9.]*/32\).*|addr del \1 dev $i|p"
done | ip -batch -
`

// source makes dash source the exit hook, as dhclient-script does.
var source = []string{"dash", "-c", ". /etc/dhcp/dhclient-exit-hooks.d/ec2net; :"}

func lease(reason, iface, addr string) []string {
	return []string{"reason=" + reason, "interface=" + iface, "new_ip_address=" + addr}
}

var jobs = []job{
	{Name: nothing, Run: []string{"nothing"}},
	{Name: linked, Run: []string{"linked"}},
	{Name: render, Run: []string{"ec2net", "render", "eth1", "--facts", "/root/eth1.json", "--settings=", "--templates="}},
	{Name: hotplug, Run: []string{"/etc/network/ec2net.hotplug"}, Env: []string{"INTERFACE=eth1", "ACTION=add"},
		Before: "cd /var/lib/ec2net; rm /etc/network/interfaces.d/eth1.cfg eth1.rules eth1.iptables*"},
	{Name: plugIMDS, Run: []string{"/etc/network/ec2net.hotplug"}, Env: []string{"INTERFACE=eth1", "ACTION=add"},
		Before: "rm /etc/network/interfaces.d/eth1.cfg /var/lib/ec2net/eth1.*"},
	{Name: hook, Run: source, Env: lease("RENEW", "eth1", "10.0.1.20"),
		Before: wipe + "export reason=RENEW interface=eth1 new_ip_address=10.0.1.20; . /etc/dhcp/dhclient-exit-hooks.d/ec2net"},
	{Name: curl, Run: []string{"curl", "-sf", "-o", "/dev/null", "-X", "PUT",
		"-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", "http://169.254.169.254/latest/api/token"}},
	{Name: hand, Run: []string{"by-hand", "eth1", "1001"}},
	{Name: hook1, Run: source, Env: lease("BOUND", "eth1", "10.0.1.20"), Before: wipe},
	{Name: hand1, Run: []string{"by-hand", "eth1", "1001"}, Before: wipe},
	{Name: hook50, Run: source, Env: lease("BOUND", "eth2", "10.0.1.50"), Before: wipe},
	{Name: hand50, Run: []string{"by-hand", "eth2", "1002"}, Before: wipe},
	{Name: bareIfup, Run: []string{"/usr/sbin/ifup", "eth3"},
		Before: "mv /etc/dhcp/dhclient-exit-hooks.d/ec2net /root",
		After:  "ifdown eth3 2>/dev/null; mv /root/ec2net /etc/dhcp/dhclient-exit-hooks.d"},
	{Name: ec2ifup, Run: []string{"/usr/sbin/ifup", "eth1"}, Before: "ifdown eth1 2>/dev/null"},
}

// A ratio compares the cost of two jobs. bar limits the ratio of wall time, cpuBar that
// of CPU time; 0 is no limit.
type ratio struct {
	job, beside string
	bar, cpuBar float64
}

// The older tools' hook took 215 ms of CPU where a Go program that prints a
// line took 8 to 10 ms: a tenth of that, in a measure that every machine has.
const tenth = 215.0 / 9 / 10

var ratios = []ratio{
	{linked, nothing, 0, 0},
	{render, nothing, 2, 0},
	{hotplug, nothing, 3, 0},
	{plugIMDS, nothing, 0, 0},
	{hook, hand, 0, 0},
	{hook, nothing, 0, tenth},
	{hook, curl, 0, 0},
	{hook50, hook1, 1.5, 1.5},
	{hand50, hand1, 0, 0},
	{ec2ifup, bareIfup, 0, 0},
}

// printTables prints the medians and the ratios, in Markdown.
func printTables(w io.Writer, costs map[string]cost) {
	fmt.Fprintf(w, "\nMedians of %d rounds, each of all of these in turn:\n\n", rounds)
	fmt.Fprintf(w, "| %-40s | wall ms | CPU ms |\n| --- | --- | --- |\n", "what")
	for _, j := range jobs {
		fmt.Fprintf(w, "| %-40s | %7.1f | %6.1f |\n", j.Name, ms(costs[j.Name].Wall), ms(costs[j.Name].CPU))
	}
	fmt.Fprintf(w, "\n| %-40s | %-40s | times its wall | times its CPU |\n| --- | --- | --- | --- |\n", "what", "beside")
	for _, r := range ratios {
		a, b := costs[r.job], costs[r.beside]
		fmt.Fprintf(w, "| %-40s | %-40s | %s | %s |\n", r.job, r.beside,
			times(ms(a.Wall)/ms(b.Wall), r.bar), times(ms(a.CPU)/ms(b.CPU), r.cpuBar))
	}
}

func times(x, bar float64) string {
	switch {
	case bar == 0:
		return fmt.Sprintf("%.2f", x)
	case x <= bar:
		return fmt.Sprintf("%.2f, at most %.2f: met", x, bar)
	}
	return fmt.Sprintf("%.2f, at most %.2f: not met", x, bar)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
