package endtoend

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
)

// This file judges for TestHour: it says what a quiet machine has, by the model alone.

// expectation is which lines have to be there, each once, and which may be there besides.
type expectation struct {
	must map[string]int
	may  map[string]bool
}

func newExpectation() expectation {
	return expectation{must: make(map[string]int), may: make(map[string]bool)}
}

// add adds lines that have to be there, or, if they are optional, may be there.
func (e expectation) add(optional bool, lines ...string) {
	for _, line := range lines {
		if optional {
			e.may[line] = true
		} else {
			e.must[line] = 1
		}
	}
}

// differs says how what is there differs from what should be.
func (e expectation) differs(what string, there []string) (wrong []string) {
	got := make(map[string]int)
	for _, line := range there {
		got[line]++
	}
	for line, n := range got {
		switch {
		case n > 1:
			wrong = append(wrong, fmt.Sprintf("%s: %d times %q", what, n, line))
		case e.must[line] == 0 && !e.may[line]:
			wrong = append(wrong, fmt.Sprintf("%s: %q should not be there", what, line))
		}
	}
	for line := range e.must {
		if got[line] == 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %q is missing", what, line))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// standing is what is expected of an ENI's interface.
type standing int

const (
	detached standing = iota // nothing of it is there
	byHand                   // a person has taken it down: what was there may still be there
	serving                  // it has all that it should have
)

// hourNames are the names that the ENIs get.
var hourNames = []string{"eth1", "eth2", "eth3"}

// standings returns what is expected of each interface. An ENI that a person took down may
// have come up since, for example with a restart of networking: then it has to be whole. After
// ec2ifdown it takes more than a link that is set up.
func (h *hour) standings(s sight) map[string]standing {
	all := make(map[string]standing)
	for _, name := range hourNames {
		switch {
		case h.at[name] == nil:
			all[name] = detached
		case h.hands[name] != "" && !s.up[name],
			h.hands[name] == "ec2ifdown" && slices.Contains(s.parts["run"], name+".down"):
			all[name] = byHand
		default:
			all[name] = serving
		}
	}
	return all
}

// judge returns what is wrong.
func (h *hour) judge(s sight) []string {
	now := h.standings(s)
	wrong := h.quiet(s)
	for _, check := range []func(sight, map[string]standing) []string{
		h.links, h.addresses, h.rules, h.routes, h.marks, h.files, h.clients,
	} {
		wrong = append(wrong, check(s, now)...)
	}
	return wrong
}

// quiet returns what still goes on, or has failed.
func (h *hour) quiet(s sight) (wrong []string) {
	for _, part := range []string{"jobs", "busy", "failed", "locks", "status"} {
		for _, line := range s.parts[part] {
			if line != "No jobs running." {
				wrong = append(wrong, part+": "+line)
			}
		}
	}
	if got := strings.Join(s.parts["watch"], " "); got != "active" {
		wrong = append(wrong, "watch: "+got)
	}
	for _, line := range s.parts["processes"] {
		comm, args, _ := strings.Cut(line, " ")
		if comm == "ec2net" && !strings.HasSuffix(args, " watch") || slices.Contains([]string{"ifup", "ifdown", "dhclient-script", "dhcpcd-run-hook", "iptables", "iptables-save", "iptables-restor", "systemctl", "networkctl"}, comm) {
			wrong = append(wrong, "still runs: "+args)
		}
	}
	return wrong
}

func (h *hour) eni(name string) *lab.ENI {
	if name == "eth0" {
		return h.v.Primary
	}
	return h.at[name]
}

// all adds what is expected of the primary, which has rules, a table and a mark while another
// ENI is up.
func all(now map[string]standing) map[string]standing {
	with := maps.Clone(now)
	with["eth0"] = slices.Max(slices.Collect(maps.Values(now)))
	return with
}

func (h *hour) links(s sight, now map[string]standing) []string {
	e := newExpectation()
	e.add(false, "eth0 group 1000")
	for name, st := range now {
		if st != detached {
			e.add(st == byHand, name+" group 1000")
			if st == byHand {
				e.add(true, name+" group default")
			}
		}
	}
	var there []string
	for _, line := range s.parts["links"] {
		f := strings.Fields(line)
		if name := strings.Split(f[1], "@")[0]; strings.HasPrefix(name, "eth") {
			there = append(there, strings.TrimRight(name, ":")+" group "+f[slices.Index(f, "group")+1])
		}
	}
	wrong := e.differs("groups", there)
	for name, st := range now {
		if st == serving && !s.up[name] {
			wrong = append(wrong, name+" is down")
		}
		if st == serving && slices.Contains(s.parts["loose"], "/proc/sys/net/ipv4/conf/"+name+"/rp_filter:1") {
			wrong = append(wrong, name+" has a strict rp_filter")
		}
	}
	return wrong
}

// prefixOf returns the subnet of an address of the lab.
func prefixOf(addr string) netip.Prefix {
	p, _ := netip.MustParseAddr(addr).Prefix(24)
	return p
}

func routerOf(addr string) string { return prefixOf(addr).Addr().Next().String() }

func (h *hour) addresses(s sight, now map[string]standing) []string {
	e := newExpectation()
	now = maps.Clone(now)
	now["eth0"] = serving
	for name, st := range now {
		if st == detached {
			continue
		}
		for n, a := range h.eni(name).Addrs() {
			length := "/32"
			if n == 0 {
				length = "/24"
			}
			e.add(st == byHand, name+" "+a+length)
		}
	}
	var there []string
	for _, line := range s.parts["addresses"] {
		if f := strings.Fields(line); strings.HasPrefix(f[1], "eth") && now[f[1]] != byHand {
			there = append(there, f[1]+" "+f[3])
		}
	}
	return e.differs("addresses", there)
}

func number(name string) int { return 1000 + int(name[3]-'0') }

func (h *hour) rules(s sight, now map[string]standing) []string {
	e := newExpectation()
	e.add(false, "0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default")
	groups := make(map[string]standing)
	for name, st := range all(now) {
		if st == detached {
			continue
		}
		n := number(name)
		at, group := n, group999
		if name == "eth0" { // its rules come just before main's
			at, group = 32765, "32764: from %s lookup main suppress_prefixlength 0 suppress_ifgroup 1000 proto 236"
		}
		mark := fmt.Sprintf("all fwmark 0x%x/0x3fff", n)
		for _, a := range append(h.eni(name).Addrs(), mark) {
			e.add(st == byHand, fmt.Sprintf("%d: from %s lookup %d proto 236", at, a, n))
		}
		for _, packets := range []string{prefixOf(h.eni(name).Addrs()[0]).String(), mark} {
			line := fmt.Sprintf(group, packets)
			groups[line] = max(groups[line], st)
		}
	}
	for line, st := range groups {
		e.add(st == byHand, line)
	}
	var there []string
	for _, line := range s.parts["rules"] {
		line = strings.Join(strings.Fields(line), " ")
		if !h.ofHand(line, now) {
			there = append(there, line)
		} else if _, rest, ok := strings.Cut(line, "from "); ok {
			packets, _, _ := strings.Cut(rest, " lookup")
			e.add(true, fmt.Sprintf(group999, packets))
		}
	}
	return e.differs("rules", there)
}

// group999 is the group rule of an ENI's rule.
const group999 = "999: from %s lookup main suppress_prefixlength 1 suppress_ifgroup 1000 proto 236"

// ofHand reports whether a rule leads to the table of an interface that a person took down.
// Its rules stay as they were then, a foreign one with ec2net's protocol too, and so do their
// group rules.
func (h *hour) ofHand(line string, now map[string]standing) bool {
	for name, st := range now {
		if st == byHand && strings.Contains(line, fmt.Sprintf("lookup %d ", number(name))) {
			return true
		}
	}
	return false
}

// noise matches what a route says besides where it leads.
var noise = regexp.MustCompile(` (proto|scope|src|metric|table|mtu) [^ ]+| linkdown| onlink`)

func (h *hour) routes(s sight, now map[string]standing) []string {
	e := newExpectation()
	with := all(now)
	for name, st := range with {
		if st == detached && name != "eth0" {
			continue
		}
		first := h.eni(name).Addrs()[0]
		subnet := fmt.Sprintf("%s dev %s", prefixOf(first), name)
		out := fmt.Sprintf("default via %s dev %s", routerOf(first), name)
		// dhclient's default routes in main come back only with dhclient. dhcpcd may give the
		// primary's routes the metric of eth2's, which then have no place.
		e.add((st == byHand || h.dhcpcd) && name != "eth0", "main "+subnet)
		e.add(name != "eth0", "main "+out)
		if h.image { // networkd has routes to the router and the DNS server
			for _, to := range []string{routerOf(first), netip.MustParseAddr(routerOf(first)).Next().String()} {
				e.add(true, fmt.Sprintf("main %s dev %s", to, name), fmt.Sprintf("%d %s dev %s", number(name), to, name))
			}
		}
		if st == detached {
			continue
		}
		table := fmt.Sprintf("%d ", number(name))
		e.add(st == byHand, table+subnet, table+out)
		if name != "eth0" {
			e.add(st == byHand, table+"unreachable default")
		}
	}
	wrong := e.differs("routes", h.routesThere(s, with["eth0"] != detached))
	if way := strings.Join(s.parts["way out"], " "); !strings.Contains(way, " dev eth0 ") {
		wrong = append(wrong, "the way out: "+way)
	}
	return wrong
}

// routesThere returns the routes, without the noise. copied says that another ENI is attached:
// then main has a copy of the primary's routes and a decoy for dhcpcd, which ARCHITECTURE.md
// explains. They are left out.
func (h *hour) routesThere(s sight, copied bool) (there []string) {
	for _, line := range s.parts["routes"] {
		f := strings.Fields(line)
		table := "main"
		if n := slices.Index(f, "table"); n >= 0 {
			table = f[n+1]
		}
		if table == "local" {
			continue
		}
		route := table + " " + strings.TrimSpace(noise.ReplaceAllString(" "+strings.Join(f, " "), ""))
		isCopy := strings.Contains(route, " tos 0xfc ") || slices.Contains(there, route)
		if h.dhcpcd && copied && isCopy && strings.HasSuffix(route, " dev eth0") {
			continue
		}
		there = append(there, route)
	}
	return there
}

func (h *hour) marks(s sight, now map[string]standing) []string {
	e := newExpectation()
	for name, st := range all(now) {
		if st == detached || !h.forwards {
			continue
		}
		optional := st == byHand
		mark := fmt.Sprintf("0x%x/0x3fff", number(name))
		chain := "ec2net-" + name
		e.add(optional, ":"+chain, fmt.Sprintf("-A PREROUTING -i %s -j %s", name, chain),
			fmt.Sprintf("-A %s -m conntrack --ctdir ORIGINAL -m addrtype --dst-type LOCAL -j MARK --set-xmark %s", chain, mark),
			fmt.Sprintf("-A %s -m conntrack --ctdir ORIGINAL -m addrtype --dst-type LOCAL -j CONNMARK --set-xmark %s", chain, mark))
		if name == "eth0" {
			e.add(optional, ":ec2net-docker", "-A PREROUTING -j ec2net-docker")
		}
		e.add(optional, fmt.Sprintf("-A ec2net-docker -m conntrack --ctdir REPLY -m connmark --mark %s -j CONNMARK --restore-mark --nfmask 0x3fff --ctmask 0x3fff", mark))
	}
	var there []string
	for _, line := range s.parts["marks"] {
		switch {
		case strings.HasPrefix(line, ":ec2net"):
			there = append(there, strings.Fields(line)[0])
		case strings.HasPrefix(line, "-A") && !strings.Contains(line, "somebody"):
			there = append(there, line)
		}
	}
	wrong := e.differs("marks", there)
	for _, line := range s.parts[map[bool]string{true: "marks of nft", false: "marks of legacy"}[h.legacy]] {
		if strings.Contains(line, "ec2net") {
			wrong = append(wrong, "marks of the other back end: "+line)
		}
	}
	return wrong
}

func (h *hour) files(s sight, now map[string]standing) []string {
	run, ifstate := newExpectation(), newExpectation()
	run.add(true, "watch.log", "eth0.lease", "netns")
	ifstate.add(h.image, "lo=lo")
	if h.image {
		run.add(true, "eth1.network", "eth2.network", "eth3.network") // as networkd has read them
	}
	ifstate.add(h.clientless["eth0"] || h.image, "eth0=eth0")
	marked := false
	for name, st := range now {
		if st == detached {
			continue
		}
		marked = marked || h.forwards && st == serving
		run.add(st == byHand, name+".up")
		run.add(true, name+".lease", name+".cfg") // ec2net has no copy of the stanza that a person's ifup used
		if st == byHand {
			run.add(true, name+".down", "marks")
		}
		ifstate.add(st == byHand || h.clientless[name] || h.image, name+"="+name)
	}
	run.add(!marked && h.forwards, "marks")
	if !h.forwards {
		delete(run.must, "marks")
	}
	var there []string
	for _, file := range s.parts["run"] {
		if !strings.HasSuffix(file, ".lock") && !h.half(file) {
			there = append(there, file)
		}
	}
	wrong := run.differs("/run/ec2net", there)
	wrong = append(wrong, ifstate.differs("ifstate", s.parts["ifstate"])...)
	for _, file := range s.parts["state"] {
		if !remembered.MatchString(file) && !h.half(file) {
			wrong = append(wrong, "left behind: "+file)
		}
	}
	return wrong
}

// remembered matches the files that ec2net keeps on disk.
var remembered = regexp.MustCompile(`^(/.*:|eth[0-3]\.(json|rules|iptables|iptables-down|cfg)|05-ec2net-eth[1-3]\.network|docker\.iptables|moved|settings\.last)$`)

// half reports whether a file is the temporary file of an ec2net that was killed.
func (h *hour) half(file string) bool { return h.killed && strings.HasPrefix(file, ".") }

// clients checks that each interface has one DHCP client, or, if one was killed, none.
func (h *hour) clients(s sight, now map[string]standing) (wrong []string) {
	if h.image {
		return nil // networkd is the client
	}
	with := maps.Clone(now)
	with["eth0"] = serving
	for name, st := range with {
		n := s.clients(name)
		if n > 1 || st == detached && n > 0 || st == serving && n == 0 && !h.clientless[name] {
			wrong = append(wrong, fmt.Sprintf("%d DHCP clients on %s", n, name))
		}
	}
	return wrong
}

// The judge of TestHour finds what is wrong: each case breaks something on a quiet machine,
// on which nothing mends it.
func TestHourJudge(t *testing.T) {
	t.Parallel()
	h := newHour(t, 1, new(hourTally))
	for n, name := range []string{"eth1", "eth2"} {
		h.at[name] = h.spare[n]
		h.at[name].Attach(t, name)
	}
	h.sh("sysctl -qw net.ipv4.ip_forward=1")
	h.forwards = true
	h.wholeAgain()
	h.i.Sh(t, "systemctl stop ec2net-watch")
	judge := func() []string {
		return slices.DeleteFunc(h.judge(h.look()), func(wrong string) bool {
			return wrong == "watch: inactive" || strings.HasPrefix(wrong, "status:")
		})
	}
	if wrong := judge(); len(wrong) > 0 {
		t.Fatalf("before anything is wrong: %q", wrong)
	}
	for _, c := range []struct{ name, breaks, mend string }{
		{"doubled jump", "iptables -t mangle -A PREROUTING -i eth1 -j ec2net-eth1", "iptables -t mangle -D PREROUTING -i eth1 -j ec2net-eth1"},
		{"stale chain", "iptables -t mangle -N ec2net-eth3", "iptables -t mangle -X ec2net-eth3"},
		{"mark missing", "iptables -t mangle -D ec2net-eth1 1", "iptables-restore -w 10 --noflush /var/lib/ec2net/eth1.iptables"},
		{"stale route", "ip route add unreachable default metric 65535 table 1003", "ip route flush table 1003"},
		{"stale route of main", "ip route add 10.0.0.0/24 dev eth2 metric 2000", "ip route del 10.0.0.0/24 dev eth2 metric 2000"},
		{"route missing", "ip route del default table 1001 dev eth1", "ip route add default via 10.0.0.1 dev eth1 table 1001"},
		{"stale rule", "ip rule add pref 1003 from 10.0.1.30 lookup 1003 protocol 236", "ip rule del pref 1003"},
		{"doubled rule", "ip rule add pref 1001 from 10.0.0.20 lookup 1001 protocol 4; ip rule del pref 1001 from 10.0.0.20 lookup 1001 protocol 236; ip rule add pref 1001 from 10.0.0.20 lookup 1001 protocol 236", "ip rule del pref 1001 from 10.0.0.20 lookup 1001 protocol 4"},
		{"rule missing", "ip rule del from 10.0.0.21", "ip rule add pref 1001 from 10.0.0.21 lookup 1001 protocol 236"},
		{"address missing", "ip addr del 10.0.0.21/32 dev eth1", "ip addr add 10.0.0.21/32 dev eth1"},
		{"stale address", "ip addr add 10.0.1.30/32 dev eth2", "ip addr del 10.0.1.30/32 dev eth2"},
		{"note", "echo >/run/ec2net/eth3.up", "rm /run/ec2net/eth3.up"},
		{"ifstate", "echo eth3=eth3 >>/run/network/ifstate", "sed -i /eth3/d /run/network/ifstate"},
		{"a second client", "dhclient -d -sf /bin/true -pf /tmp/pid -lf /tmp/leases eth1 >/dev/null 2>&1 &", "pkill -f 'dhclient -d'"},
		{"a file", "touch /var/lib/ec2net/.eth1.json.1", "rm /var/lib/ec2net/.eth1.json.1"},
		{"a held lock", "flock /run/ec2net/eth1.lock sleep 1000 >/dev/null 2>&1 &", "pkill -f 'sleep 1000'"},
		{"a failed unit", "systemd-run --unit=fails /bin/false; until systemctl is-failed -q fails; do sleep 0.1; done", "systemctl reset-failed"},
		{"strict", "sysctl -qw net.ipv4.conf.eth1.rp_filter=1", "sysctl -qw net.ipv4.conf.eth1.rp_filter=2"},
		{"down", "ip link set eth1 down", "ip link set eth1 up"},
	} {
		h.i.Run(t, lab.Cmd{Args: []string{"sh", "-c", c.breaks}})
		if wrong := judge(); len(wrong) == 0 {
			t.Errorf("%s: the judge finds nothing", c.name)
		} else {
			t.Logf("%s: %q", c.name, wrong)
		}
		h.i.Run(t, lab.Cmd{Args: []string{"sh", "-c", c.mend}})
	}
}
