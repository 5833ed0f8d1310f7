package endtoend

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"ec2net/lab"
)

// hourEvents are what happens in TestHour, and how often.
var hourEvents = []struct {
	name   string
	weight int
	does   func(*hour)
}{
	{"an ENI attached", 16, (*hour).attach},
	{"an ENI detached", 8, (*hour).detach},
	{"an ENI attached and detached at once, or the other way round", 6, (*hour).flap},
	{"another ENI in its place", 5, (*hour).replace},
	{"addresses assigned, taken away or moved in EC2", 8, (*hour).readdress},
	{"IMDS slow, gone or wrong for a while", 6, (*hour).imdsIll},
	{"the DHCP server gone for a while", 3, (*hour).dhcpGone},
	{"a process of ec2net, ifupdown or a DHCP client killed", 12, (*hour).kill},
	{"such processes killed again and again, for up to two seconds", 4, (*hour).massacre},
	{"a unit stopped, started or restarted", 8, (*hour).unit},
	{"networking or systemd-networkd stopped, started, restarted or told to configure anew", 4, (*hour).networking},
	{"systemd executed anew, or udev's \"add\" again", 4, (*hour).systemd},
	{"watch stopped for a second (SIGSTOP)", 2, (*hour).pauseWatch},
	{"an ENI taken down or brought up by hand", 8, (*hour).hand},
	{"rules, routes, addresses or sysctls changed by another program", 8, (*hour).meddle},
	{"iptables saved, restored, flushed", 10, (*hour).firewall},
	{"forwarding switched on or off", 4, (*hour).forward},
	{"settings broken for a while", 3, (*hour).settings},
	{"a crash of the machine, or a reboot", 1, (*hour).reboot},
}

func (h *hour) event() {
	sum := 0
	for _, e := range hourEvents {
		sum += e.weight
	}
	at := h.rng.IntN(sum)
	for _, e := range hourEvents {
		if at -= e.weight; at < 0 {
			h.told.count(e.name)
			e.does(h)
			return
		}
	}
}

// sh runs a script of an event. It may fail, since what it is about may be under way.
func (h *hour) sh(script string) (ok bool) {
	h.note("%s", script)
	r := h.i.Run(h.t, lab.Cmd{Args: []string{"timeout", "-k", "5", "60", "sh", "-c", script + " >/tmp/event 2>&1 </dev/null"}})
	if r.Status != 0 {
		out, _ := h.i.ReadFile(h.t, "/tmp/event")
		h.note("  status %d: %.200s", r.Status, strings.TrimSpace(out))
	}
	return r.Status == 0
}

// soon starts a script on the machine that waits some milliseconds.
func (h *hour) soon(ms int, script string) {
	h.i.Start(h.t, lab.Cmd{Args: []string{"sh", "-c", fmt.Sprintf("sleep %.3f; %s", float64(ms)/1000, script)}})
}

func (h *hour) name() string { return hourNames[h.rng.IntN(len(hourNames))] }

// attached returns the name of an attached ENI; "" if there is none.
func (h *hour) attached() string {
	names := slices.Sorted(maps.Keys(h.at))
	n := h.rng.IntN(1 << 20)
	if len(names) == 0 {
		return ""
	}
	return names[n%len(names)]
}

// later calls a function some milliseconds later, unless everything is made well before.
func (h *hour) later(ms int, what func()) {
	h.timers = append(h.timers, time.AfterFunc(time.Duration(ms)*time.Millisecond, what))
}

func (h *hour) stopTimers() {
	for _, t := range h.timers {
		t.Stop()
	}
	h.timers = nil
}

func (h *hour) pause() {
	time.Sleep(time.Duration(h.rng.IntN(4)*h.rng.IntN(150)) * time.Millisecond)
}

// reboot crashes the machine, or shuts it down in order, and boots it, while EC2 goes on.
func (h *hour) reboot() {
	if h.rng.IntN(2) == 0 {
		h.note("crash")
		h.i.Crash(h.t)
	} else {
		h.note("shutdown")
		h.i.Shutdown(h.t)
	}
	for range h.rng.IntN(3) {
		[]func(*hour){(*hour).attach, (*hour).detach, (*hour).replace, (*hour).readdress}[h.rng.IntN(4)](h)
	}
	h.note("boot")
	h.forwards = false
	clear(h.hands)
	clear(h.clientless)
	h.v.Metadata(h.t, lab.Up)
	h.v.DHCP(h.t, lab.Up)
	h.i.On(h.t)
	h.i.Echo(h.t, 7)
	if h.rng.IntN(2) == 0 {
		h.i.WaitBooted(h.t)
	}
}

// victims are the programs that are killed.
var victims = []string{"ec2net", "ec2net", "ec2net", "ifup|ifdown", "ifup|ifdown", "dhclient|dhcpcd", "dhclient-script", "iptables.*"}

var imageVictims = []string{"ec2net", "ec2net", "ec2net", "networkctl", "ip", "systemd-network", "iptables.*"}

// kill ends a process, if there is one, but never the primary's DHCP client, which is the
// administrator's.
func (h *hour) kill() {
	what, n := victims[h.rng.IntN(len(victims))], h.rng.IntN(100)
	if h.image {
		what = imageVictims[h.rng.IntN(len(imageVictims))]
	}
	if h.rng.IntN(2) == 0 {
		h.pause()
	}
	h.killing("kill "+what, fmt.Sprintf(notOfPrimary+`
set -- $(targets '%s')
test $# -gt 0 || exit 0
shift $((%d %% $#))
tr '\0' ' ' </proc/$1/cmdline
kill -KILL $1`, what, n))
}

// notOfPrimary is a shell function that prints the processes with a name, except those with
// the word eth0 in their arguments.
const notOfPrimary = `
targets() {
	pgrep -x "$1" | while read -r pid; do grep -qz eth0 /proc/$pid/cmdline || echo $pid; done
}
`

// massacre kills all of the victims again and again, as the OOM killer may.
func (h *hour) massacre() {
	times, ms := 2+h.rng.IntN(10), 20+h.rng.IntN(200)
	h.killing(fmt.Sprintf("kill all %d times, every %d ms", times, ms), fmt.Sprintf(notOfPrimary+`
for n in $(seq %d); do
	sleep %.3f
	for pid in $(targets 'ec2net|ifup|ifdown|dhclient|dhcpcd|dhclient-script|iptables.*'); do
		tr '\0' ' ' </proc/$pid/cmdline
		kill -KILL $pid
	done
done 2>/dev/null`, times, float64(ms)/1000))
}

func (h *hour) killing(what, script string) {
	r := h.i.Run(h.t, lab.Cmd{Args: []string{"sh", "-c", script}})
	h.note("%s: %s", what, strings.TrimSpace(r.Stdout))
	h.killed = h.killed || r.Stdout != ""
	for _, name := range append([]string{"eth0"}, hourNames...) {
		// ifdown ends the client first, and what "ifup -a" has started ends with its unit.
		if regexp.MustCompile(`(dhclient|dhcpcd).*\b` + name + `\b|if(up|down) (-a|.*\b` + name + `\b)`).MatchString(r.Stdout) {
			h.clientless[name] = true
		}
	}
}

func (h *hour) unit() {
	verb := []string{"stop", "restart", "restart", "start", "try-restart"}[h.rng.IntN(5)]
	unit := []string{"ec2net-watch", "ec2net-watch", "ec2net-scan", "ec2net-hotplug@", "ec2net-hotplug@", "ec2net-unplug@"}[h.rng.IntN(6)]
	if name := h.name(); strings.HasSuffix(unit, "@") {
		unit += name
	}
	command := "systemctl " + []string{"", "--no-block "}[h.rng.IntN(2)] + verb + " " + unit + ".service"
	if verb == "stop" { // at work, it has failed then
		command += fmt.Sprintf("; (systemctl stop %[1]s.service; systemctl reset-failed %[1]s.service) >/dev/null 2>&1 &", unit)
	}
	h.sh(command)
}

func (h *hour) networking() {
	if h.image {
		h.sh([]string{"systemctl restart systemd-networkd", "systemctl stop systemd-networkd; sleep 1; systemctl start systemd-networkd",
			"networkctl reload", "networkctl reconfigure eth0", "networkctl reconfigure " + h.name(), "networkctl renew " + h.name(), "netplan apply"}[h.rng.IntN(7)])
		return
	}
	verb := []string{"stop", "start", "restart", "restart"}[h.rng.IntN(4)]
	h.sh("systemctl " + []string{"", "--no-block "}[h.rng.IntN(2)] + verb + " networking.service")
}

func (h *hour) systemd() {
	name := h.name()
	h.sh([]string{"systemctl daemon-reexec", "systemctl daemon-reload", "systemctl restart systemd-udevd", "for n in 1 2 3; do systemctl daemon-reexec; done",
		"udevadm trigger --action=add /sys/class/net/" + name, "udevadm trigger --action=change /sys/class/net/" + name}[h.rng.IntN(6)])
}

func (h *hour) pauseWatch() {
	h.sh("pkill -STOP -f '^/usr/sbin/ec2net watch'")
	h.soon(1000, "pkill -CONT -f '^/usr/sbin/ec2net watch'")
}

// handCommands are what a person does to an ENI: the script, how the ENI is down after it,
// and which such states it mends.
var handCommands = []struct {
	script, down string
	mends        []string
}{
	{"ifdown eth1", "ifdown", nil},
	{"ec2ifdown eth1", "ec2ifdown", nil},
	{"ip link set eth1 down", "link", nil},
	{"ip link set eth1 down; ip link set eth1 up", "", []string{"link"}},
	{"ip link set eth1 up", "", []string{"link"}},
	{"ifup eth1", "", []string{"ifdown", "ec2ifdown"}},
	{"ec2ifup eth1", "", []string{"link", "ifdown", "ec2ifdown"}},
	{"ec2ifupscan", "", nil},
}

// imageCommands are the same where systemd-networkd brings the ENIs up. It does so again when
// it is told to configure a link.
var imageCommands = []struct {
	script, down string
	mends        []string
}{
	{"networkctl down eth1", "link", nil},
	{"ec2ifdown eth1", "ec2ifdown", nil},
	{"ip link set eth1 down", "link", nil},
	{"ip link set eth1 down; ip link set eth1 up", "", []string{"link"}},
	{"ip link set eth1 up", "", []string{"link"}},
	{"networkctl up eth1", "", []string{"link"}},
	{"ec2ifup eth1", "", []string{"link", "ec2ifdown"}},
	{"ec2ifupscan", "", nil},
}

// hand lets a person take an ENI down or bring it up.
func (h *hour) hand() {
	name := cmp.Or(h.attached(), "eth1")
	c := handCommands[h.rng.IntN(len(handCommands))]
	if h.image {
		c = imageCommands[h.rng.IntN(len(imageCommands))]
	}
	if c.down != "" && h.hands[name] != "ec2ifdown" { // which outlasts the others
		h.hands[name] = c.down
	}
	if h.sh(strings.ReplaceAll(c.script, "eth1", name)) && slices.Contains(c.mends, h.hands[name]) {
		delete(h.hands, name)
	}
}

// meddle lets another program change the network. What it adds at the number of an
// interface that ec2net has not brought up is its own, and so it adds nothing there.
func (h *hour) meddle() {
	name := h.attached()
	if name == "" {
		return
	}
	n := fmt.Sprint(number(name))
	h.sh([]string{
		"ip rule flush protocol 236",
		"ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
		"ip rule del pref " + n,
		"test -e /run/ec2net/" + name + ".up && ip rule add pref " + n + " from 10.0.0.77 lookup " + n + " protocol 236",
		"ip route flush table " + n,
		"test -e /run/ec2net/" + name + ".up && ip route add 192.0.2.0/24 dev " + name + " table " + n + " protocol 236",
		"ip link set " + name + " group 0",
		"sysctl -qw net.ipv4.conf." + name + ".rp_filter=1",
		"ip addr del $(ip -o -4 addr show dev " + name + " | awk '$4 ~ \"/32\" { print $4; exit }') dev " + name,
		"ip neigh flush all",
	}[h.rng.IntN(10)])
}

func (h *hour) firewall() {
	h.sh([]string{
		"iptables-save >/root/saved",
		"test -e /root/saved && iptables-restore --noflush </root/saved; iptables-restore --noflush </root/saved",
		"test -e /root/saved && iptables-restore </root/saved",
		"test -e /root/saved && iptables-restore --noflush </root/saved",
		"test -e /root/saved && iptables-restore --noflush </root/saved",
		"iptables -t mangle -F",
		"iptables -t mangle -F PREROUTING",
		"nft flush ruleset",
	}[h.rng.IntN(8)])
}

func (h *hour) forward() {
	h.forwards = h.rng.IntN(3) > 0
	h.sh(fmt.Sprintf("sysctl -qw net.ipv4.ip_forward=%d", map[bool]int{true: 1}[h.forwards]))
}

func (h *hour) settings() {
	line := []string{"EC2NET_REFRESH=soon", "EC2NET_BASE=", "nonsense", "EC2NET_MARKS=perhaps"}[h.rng.IntN(4)]
	h.sh("echo '" + line + " # wrong' >>/etc/default/ec2net")
	h.soon(500+h.rng.IntN(4000), "sed -i '/# wrong/d' /etc/default/ec2net")
}

// well ends what an administrator or EC2 would end. If a kill has stopped networking.service
// or the primary's DHCP client, an administrator starts it again.
func (h *hour) well() {
	h.note("all is made well")
	h.stopTimers()
	h.v.IMDS.Heal()
	h.v.Metadata(h.t, lab.Up)
	h.v.DHCP(h.t, lab.Up)
	for _, e := range h.enis {
		e.Hide(false)
		e.Describe(nil)
	}
	networking := `while systemctl list-jobs --no-legend | grep -q networking; do sleep 0.1; done
systemctl is-active -q networking || { systemctl reset-failed networking; systemctl restart networking || systemctl restart networking; }
for pid in $(pgrep -x 'dhclient|dhcpcd'); do tr '\0' ' ' </proc/$pid/cmdline; done | grep -q eth0 || { ifdown --force eth0; ifup eth0; }
`
	if h.image {
		networking = `systemctl is-active -q systemd-networkd || { systemctl reset-failed 'systemd-networkd*'; systemctl restart systemd-networkd; }
`
	}
	h.sh(`sed -i '/# wrong/d' /etc/default/ec2net
pkill -CONT -x ec2net
until systemctl is-system-running >/dev/null 2>&1 || test $? = 1; do sleep 0.1; done
` + networking + `systemctl is-active -q ec2net-scan || systemctl start ec2net-scan
systemctl is-active -q ec2net-watch || systemctl start ec2net-watch`)
}
