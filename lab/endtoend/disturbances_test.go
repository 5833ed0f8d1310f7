package endtoend

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

// disturbance is what another program does to the network of an instance with eth1.
type disturbance struct {
	name, script string
	// harmless says that it takes nothing away from ec2net.
	harmless bool
}

// disturbed is an instance, and what disturbs it.
type disturbed struct {
	name  string
	stack // without a name: each in turn
	setup lab.Setup
	// before is a script that runs once, after the boot, and before eth1 is attached.
	before string
	// publish makes something answer at port 81 of every address. again does so after a
	// disturbance, if the disturbance ends that.
	publish      func(t *testing.T, i *lab.Instance) (again func(t *testing.T))
	disturbances []disturbance
	// refresh is EC2NET_REFRESH if netlink does not tell of the disturbances; empty: 0.
	refresh string
}

// flushMangle empties the mangle table. Watch may have put some of it back before the chains go.
const flushMangle = "iptables -t mangle -F; iptables -t mangle -X || true"

// publishGuest publishes the port of a guest on a bridge.
func publishGuest(t *testing.T, i *lab.Instance) func(t *testing.T) {
	guestOnBridge(t, i)
	i.Sh(t, publish)
	return func(*testing.T) {}
}

// nftablesConf makes Debian's nftables.service publish the guest's port.
const nftablesConf = "printf 'flush ruleset\n%s' '" + portRules + "' >/etc/nftables.conf"

// ofAnybody is what anybody may do, by iproute2, sysctl, iptables and nft.
func ofAnybody(s stack) []disturbance {
	all := []disturbance{
		{name: "a rule deleted", script: "ip rule del from 10.0.1.21"},
		{name: "all rules of ec2net deleted", script: "ip rule flush protocol 236"},
		{name: "all rules deleted, and the kernel's own made again", script: "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default"},
		{name: "the routes of table 1001 deleted", script: "for to in 10.0.1.0/24 default; do ip route del $to dev eth1 table 1001; done"},
		{name: "table 1001 flushed, with a route of a template in it", script: "ip route flush table 1001"},
		{name: "the primary's table flushed", script: "ip route flush table 1000"},
		{name: "eth1 set down and up", script: s.flap},
		{name: "an address removed", script: "ip addr del 10.0.1.21/32 dev eth1"},
		{name: "an address of the primary removed", script: "ip addr del 10.0.0.11/32 dev eth0"},
		{name: "the group set back", script: "ip link set eth1 group 0"},
		{name: "rp_filter of eth1 set back to strict", script: "sysctl -qw net.ipv4.conf.eth1.rp_filter=1"},
		{name: "forwarding switched off, and on again later", script: "sysctl -qw net.ipv4.ip_forward=0; ec2net refresh; sysctl -qw net.ipv4.ip_forward=1"},
		{name: "the chain of eth1 flushed", script: "iptables -t mangle -F ec2net-eth1"},
		{name: "the jump into it deleted", script: "iptables -t mangle -D PREROUTING -i eth1 -j ec2net-eth1"},
		{name: "the mangle table flushed", script: flushMangle},
		{name: "`nft flush ruleset`, and the rules of the published port made again", script: "nft flush ruleset" + publish},
		{name: "Debian's nftables reloaded", script: "systemctl start nftables; systemctl reload nftables"},
		{name: "Debian's nftables restarted", script: "systemctl restart nftables"},
	}
	if s.setup.Image {
		return all
	}
	// Systemd-networkd leaves IPv6 on, and without addresses.
	return append(all, disturbance{name: "IPv6 switched on on all interfaces", script: "sysctl -qw net.ipv6.conf.all.disable_ipv6=0"})
}

var disturbedInstances = []disturbed{
	{name: "ifupdown and dhclient", stack: ifupdown, publish: publishGuest, setup: lab.Setup{Prepare: nftablesConf},
		disturbances: ofAnybody(ifupdown)},
	{name: "image", stack: imageStack, publish: publishGuest, setup: lab.Setup{Prepare: nftablesConf},
		disturbances: append(ofAnybody(imageStack),
			// Networkd takes the primary's other addresses, for which netplan has no word.
			disturbance{name: "systemd-networkd restarted", script: "systemctl restart systemd-networkd" + configured + configuredENI},
			disturbance{name: "`netplan apply`", script: "netplan apply" + configured + configuredENI},
			disturbance{name: "`networkctl reconfigure eth1`", script: "networkctl reconfigure eth1" + configuredENI, harmless: true},
		)},
	{name: "iptables-legacy", stack: ifupdown, publish: publishGuest, refresh: "10s",
		setup: lab.Setup{Prepare: "update-alternatives --set iptables /usr/sbin/iptables-legacy"},
		disturbances: []disturbance{
			{name: "the chain of eth1 flushed, with iptables-legacy", script: "iptables -t mangle -F ec2net-eth1"},
			{name: "the mangle table flushed, with iptables-legacy", script: flushMangle},
		}},
	{name: "networkd", stack: ifupdown, publish: publishGuest,
		setup: lab.Setup{Docker: true, Prepare: networkd},
		disturbances: []disturbance{
			{name: "systemd-networkd restarted, which configures the primary", script: "systemctl restart systemd-networkd" + configured},
			{name: "`networkctl reconfigure eth0`", script: "networkctl reconfigure eth0" + configured},
			{name: "`networkctl reload`, and eth0's file has changed", script: "echo '# changed' >>/etc/systemd/network/10-eth0.network; networkctl reload" + configured},
		}},
	{name: "networkd of Debian 13", stack: ifupdown, publish: publishGuest,
		setup: lab.Setup{Release: "trixie", Prepare: networkd},
		disturbances: []disturbance{
			{name: "systemd-networkd restarted, in Debian 13", script: `
cursor=$(journalctl --lines=0 --show-cursor | sed -n 's/^-- cursor: //p')
systemctl restart systemd-networkd
until journalctl --unit=systemd-networkd --after-cursor="$cursor" | grep -q 'eth0: DHCPv4 address .* acquired' &&
	ip route | grep -q '^default via 10.0.0.1 dev eth0 .*metric 1024'; do sleep 0.05; done`}, // networkctl needs D-Bus
		}},
	{name: "ufw", publish: publishGuest,
		setup:  lab.Setup{Docker: true},
		before: "ufw allow 7; ufw default allow routed; ufw --force enable",
		disturbances: []disturbance{
			{name: "ufw reloaded", script: "ufw reload", harmless: true},
			{name: "ufw disabled and enabled", script: "ufw disable; ufw --force enable", harmless: true},
		}},
	{name: "firewalld", publish: publishGuest,
		setup:  lab.Setup{Docker: true},
		before: "systemctl start firewalld" + firewalled + "firewall-cmd --set-default-zone=trusted",
		disturbances: []disturbance{
			{name: "firewalld reloaded", script: "firewall-cmd --reload"},
			{name: "firewalld reloaded completely", script: "firewall-cmd --complete-reload"},
			{name: "firewalld restarted", script: "systemctl restart firewalld" + firewalled},
		}},
	{name: "docker", publish: publishDocker,
		setup: lab.Setup{Docker: true},
		disturbances: []disturbance{
			{name: "dockerd restarted", script: restartDocker, harmless: true},
			{name: "`nft flush ruleset`, and dockerd restarted", script: "nft flush ruleset; " + restartDocker},
		}},
	{name: "podman", publish: publishPodman,
		setup: lab.Setup{Docker: true},
		disturbances: []disturbance{
			{name: "podman's containers restarted", script: "systemctl restart podman-restart.service", harmless: true},
			{name: "`nft flush ruleset`, and `podman network reload --all`", script: "nft flush ruleset; podman network reload --all"},
		}},
}

// publishDocker and publishPodman publish the port of a container.
func publishDocker(t *testing.T, i *lab.Instance) func(t *testing.T) {
	i.StartDocker(t)
	return publishContainer(t, i, "docker", i.Container)
}

func publishPodman(t *testing.T, i *lab.Instance) func(t *testing.T) {
	again := publishContainer(t, i, "podman", i.Podman)
	i.Sh(t, "systemctl start podman-restart.service")
	return again
}

func publishContainer(t *testing.T, i *lab.Instance, program string, begin func(lab.TB, string, ...string) *lab.Container) func(t *testing.T) {
	c := begin(t, "c81", published(81, "--restart=always")...)
	c.Echo(t, 7)
	return func(t *testing.T) {
		t.Helper()
		i.WaitSh(t, "test true = $("+program+" inspect --format='{{.State.Running}}' c81)")
		c.Enter(t)
		if c.TCP("127.0.0.1:7") != nil { // it was started again, in another network
			c.Echo(t, 7)
		}
	}
}

// networkd gives the primary to systemd-networkd, and the other ENIs to ifupdown. Networkd has
// not been started again since ec2net was installed: it deletes what is not its own.
const networkd = `
echo EC2NET_STACK=ifupdown >>/etc/default/ec2net
rm /usr/lib/systemd/networkd.conf.d/50-ec2net.conf
sed -i /eth0/d /etc/network/interfaces
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n' >/etc/systemd/network/10-eth0.network
systemctl -q enable systemd-networkd.service
systemctl -q mask systemd-networkd-wait-online.service
`

// restartDocker restarts dockerd more often than its unit allows.
const restartDocker = "systemctl reset-failed docker.service; systemctl restart docker.service"

// firewalled waits until firewalld is up.
const firewalled = `
until firewall-cmd --quiet --state; do sleep 0.05; done
`

// configured waits until networkd is done with eth0, configuredENI with eth1.
const (
	configured = `
until networkctl list --no-legend eth0 | grep -q ' configured'; do sleep 0.05; done
`
	configuredENI = `
until networkctl list --no-legend eth1 | grep -q ' configured' && ip -4 addr show dev eth1 | grep -q '/24 .* dynamic'; do sleep 0.05; done
`
)

// snapshot is a shell function that prints what the disturbances change, without orders and
// lifetimes, and without eth1's default route in main, which dhclient makes at its next lease.
const snapshot = `
snapshot() {
	ip rule | sort; ip -o link | sed -n 's/.*: \(eth[0-9]*\)[:@].*\(group [^ ]*\).*/\1 \2/p'
	ip -o -4 addr | awk '{ print $2, $4 }' | sort
	ip -4 route show table all | sed 's/ proto [a-z0-9]*//; s/ onlink//' | grep -v '^default via 10.0.1.1 dev eth1 metric [0-9]* *$' | sort
	cat /proc/sys/net/ipv4/conf/eth1/rp_filter /proc/sys/net/ipv6/conf/eth1/disable_ipv6
	iptables-save -t mangle | grep '^-A.*ec2net-' | sort
}
`

// Watch puts back what other programs take away. Without watch "ec2net status" names it, and
// its commands, typed, mend it. So does the next lease, or, for marks, the next refresh.
func TestDisturbances(t *testing.T) {
	t.Parallel()
	var all []disturbed
	for _, d := range disturbedInstances {
		if d.stack.name != "" {
			all = append(all, d)
			continue
		}
		for _, s := range stacks {
			one := d
			one.name, one.stack = d.name+", "+s.name, s
			all = append(all, one)
		}
	}
	rows := make([]string, len(all))
	t.Run("beside", func(t *testing.T) {
		for n, d := range all {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				rows[n] = d.run(t)
			})
		}
	})
	if t.Failed() {
		return
	}
	report.Update(t, "../../docs/reliability.md", "watch", "| what another program does | with watch, all answers again after | without watch |\n| --- | --- | --- |\n"+strings.Join(rows, ""))
}

// A host is an instance that is disturbed, while the test runs.
type host struct {
	*lab.Instance
	stack
	v      *lab.VPC
	places []*lab.Place
	again  func(t *testing.T)
}

var everyAddress = []string{"10.0.0.10", "10.0.0.11", "10.0.1.20", "10.0.1.21"}

// run disturbs an instance with watch and without it, and returns the rows of the table.
func (d disturbed) run(t *testing.T) string {
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	d.setup.Systemd = true
	d.setup.Prepare = ownRoute + "systemctl -q enable ec2net-scan.service ec2net-watch.service\n" + d.setup.Prepare
	d.setup.Prepare += "\necho EC2NET_REFRESH=" + cmp.Or(d.refresh, "0") + " >>/etc/default/ec2net"
	i := d.boot(t, v, d.setup)
	i.WaitRunning(t)
	if d.before != "" {
		i.Sh(t, d.before)
	}
	h := &host{Instance: i, stack: d.stack, v: v, again: d.publish(t, i), places: []*lab.Place{v.Client, v.Host(t, "10.0.0.99"), v.Host(t, "10.0.1.99")}}
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "systemctl is-active -q ec2net-watch && test inactive = $(systemctl is-active ec2net-hotplug@eth1.service)")
	i.Sh(t, "ec2net refresh") // networkd has no hook that tells ec2net of the primary
	i.WaitSh(t, "ec2net status >/dev/null && iptables-save -t mangle | grep -q -e '-i eth1 -j ec2net-eth1'")
	i.Sh(t, "sysctl -qw net.ipv4.conf.eth1.rp_filter=2") // the kernel's is 0, Debian 13's 2
	h.whole(t, "at first")

	took := make([]time.Duration, len(d.disturbances))
	for n, one := range d.disturbances {
		took[n] = h.mendedByWatch(t, one)
	}
	h.whole(t, "with watch")
	i.Sh(t, "systemctl stop ec2net-watch")
	table := ""
	for n, one := range d.disturbances {
		by := h.mendedWithout(t, one)
		after := fmt.Sprintf("%.1f s", took[n].Seconds())
		if d.refresh != "" {
			after += ", with `EC2NET_REFRESH=" + d.refresh + "`"
		}
		if one.harmless {
			after, by = "takes nothing of ec2net's away", "the same"
		}
		name := one.name
		if d.stack.setup.Image {
			name += ", on Debian's image"
		}
		table += fmt.Sprintf("| %s | %s | %s |\n", name, after, by)
	}
	h.whole(t, "without watch")
	t.Log("\n" + table)
	i.Sh(t, "ip rule del from 10.0.1.21; systemctl start ec2net-watch")
	i.WaitSh(t, "ip rule | grep -q 'from 10.0.1.21 lookup 1001'")
	noneFailed(t, i)
	return table
}

func (h *host) state(t *testing.T) string { return h.Sh(t, snapshot+"snapshot") }

// whole fails unless every address answers every place, the published port too, and
// nothing is dropped.
func (h *host) whole(t *testing.T, when string) {
	t.Helper()
	t.Log(when)
	h.v.ResetCounters(t)
	answers(t, h.v, h.places, everyAddress...)
	answersAt(t, h.v, "81", everyAddress...)
	if t.Failed() {
		t.Fatal(h.Trouble())
	}
}

// answersNow reports whether every address answers the client by now, and the published
// port.
func (h *host) answersNow(t *testing.T) bool {
	t.Helper()
	h.v.Client.Patience = 500 * time.Millisecond
	defer func() { h.v.Client.Patience = 0 }()
	var all sync.WaitGroup
	bad := make(chan error, 4*len(everyAddress))
	for _, a := range everyAddress {
		for _, port := range []string{":7", ":81"} {
			all.Go(func() { bad <- h.v.Client.TCP(a + port) })
			all.Go(func() { bad <- h.v.Client.UDP(a + port) })
		}
	}
	all.Wait()
	close(bad)
	ok := true
	for err := range bad {
		ok = ok && err == nil
	}
	return ok
}

// mendedByWatch disturbs, and returns how long it takes until everything is as before and
// answers.
func (h *host) mendedByWatch(t *testing.T, d disturbance) time.Duration {
	t.Helper()
	before := h.state(t)
	h.Sh(t, d.script)
	began := time.Now()
	h.again(t)
	for {
		now := h.state(t)
		took := time.Since(began)
		if now == before && h.answersNow(t) {
			return took
		}
		if took > time.Minute {
			sameState(t, d.name, before, now)
			t.Fatalf("%s: does not come back\n%s", d.name, h.Trouble())
		}
	}
}

// mendedWithout disturbs, and mends that by what "ec2net status" prints. Then it disturbs
// again, and returns which event mends that.
func (h *host) mendedWithout(t *testing.T, d disturbance) (by string) {
	t.Helper()
	before := h.state(t)
	h.Sh(t, d.script)
	h.again(t)
	if d.harmless {
		h.WaitFor(t, "the state before", func() bool { return h.state(t) == before }) // the program itself may take a while
		return ""
	}
	if h.state(t) == before {
		t.Errorf("%s: disturbs nothing", d.name)
	}
	h.mendedByStatus(t, d)
	sameState(t, d.name+", and the commands of status", before, h.state(t))

	h.Sh(t, d.script)
	h.again(t)
	if !h.stack.setup.Image { // no lease has a hook there
		h.Sh(t, "env reason=RENEW interface=eth1 new_ip_address=10.0.1.20 dash -c '. /etc/dhcp/dhclient-exit-hooks.d/ec2net'")
		if h.state(t) == before {
			return "with the next lease"
		}
	}
	h.Sh(t, "ec2net refresh")
	sameState(t, d.name+", and a refresh", before, h.state(t))
	return "with the next `ec2net refresh`"
}

// mendedByStatus types the commands of "ec2net status".
func (h *host) mendedByStatus(t *testing.T, d disturbance) {
	t.Helper()
	status := func(status int, args ...string) string {
		t.Helper()
		r := h.Run(t, lab.Cmd{Args: append([]string{"ec2net", "status"}, args...)})
		if r.Status != status || r.Stderr != "" {
			t.Errorf("%s: status %d\n%s%s", d.name, r.Status, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	printed := status(1)
	t.Logf("%s\n%s", d.name, printed)
	var got struct{ Commands []string }
	if err := json.Unmarshal([]byte(status(1, "--json")), &got); err != nil {
		t.Fatal(err)
	}
	for _, line := range got.Commands {
		if !strings.Contains(printed, "\n  "+line+"\n") {
			t.Errorf("%s: the text has no line %q", d.name, line)
		}
		h.Sh(t, line)
	}
	status(0)
}
