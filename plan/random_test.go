package plan_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// chance makes the decisions of a random machine: by a seed, or by the bytes of a fuzzer,
// and by zeros when those are used up.
type chance func(n int) int

func (c chance) one(of ...string) string { return of[c(len(of))] }

// mostly returns i in most cases, else any number below n.
func (c chance) mostly(i, n int) int {
	if c.often(2) {
		return c(n)
	}
	return i
}

// often reports true this many times of ten.
func (c chance) often(ofTen int) bool { return c(10) < ofTen }

func seeded(seed uint64) chance { return rand.New(rand.NewPCG(seed, 0)).IntN }

func fromBytes(data []byte) chance {
	return func(n int) int {
		if len(data) == 0 {
			return 0
		}
		b := int(data[0])
		data = data[1:]
		return b % n
	}
}

// holds has what holds for any machine. The test logs a machine that fails as text, which
// can become a case.
func TestRandomMachines(t *testing.T) {
	for seed := range uint64(400) {
		randomMachine(t, seeded(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\x01\x05\x02\x09", 100)))
	for seed := range uint64(20) {
		data := make([]byte, 600)
		next := seeded(seed)
		for i := range data {
			data[i] = byte(next(256))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { randomMachine(t, fromBytes(data)) })
}

func randomMachine(t *testing.T, c chance) {
	t.Helper()
	text := machineByChance(c)
	m, err := read("", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, change := range m.holds(t) {
		if change.String() == "" {
			t.Errorf("%T has no text", change)
		}
	}
	m.Marked("")
	m.Scope(m.State.Links)
	if t.Failed() {
		t.Logf("the machine:\n%s", text)
	}
}

var (
	someNames = []string{"eth0", "eth1", "eth2", "ens5"}
	// One for each ENI: the primary, and others whose ids have their device numbers.
	someMACs = []string{primaryMAC, "02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:01:03", "02:00:00:00:01:05"}
	someIDs  = []string{"eni-0", "eni-1", "eni-2", "eni-3", "eni-5"}
)

// machineByChance returns a machine as text. It uses few names, MACs and addresses, so
// that they often clash.
func machineByChance(c chance) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if c.often(4) {
		line("primary-table yes")
	}
	if c.often(1) {
		line("base 3000")
	}
	var up, all, copies []string
	for i, name := range someNames {
		if !c.often(8) {
			continue
		}
		mac, index, state := someMACs[c.mostly(i, len(someMACs))], i+2, ""
		if c.often(8) {
			up, state = append(up, name), " up"
		}
		all = append(all, name)
		if c.often(1) {
			line("link br%d %d %s up virtual", i, 20+i, mac)
			up = append(up, fmt.Sprintf("br%d", i))
			if c.often(5) {
				state += fmt.Sprintf(" master br%d", i)
			}
		}
		line("link %s %d %s%s%s%s group %s", name, index, mac, state, c.one("", "", " strict"), c.one("", " no-ipv6"), []string{"1000", "0", "3000", "42"}[c.mostly(0, 4)])
		if c.often(2) {
			line("route unreachable default metric %s table %d", c.one("0", "65535"), 1000+c(6))
		}
	}
	if c.often(5) {
		line("link docker0 30 02:42:00:00:00:01 up virtual")
		up = append(up, "docker0")
		line("%s", c.one("docker up", "docker down", "# docker"))
	}
	for _, name := range all {
		for range c(4) {
			addr := c.address(c(2))
			line("addr %s %s/%s", name, addr, c.one("24", "32"))
			if name == "eth0" && len(up) > 0 && up[0] == name {
				copies = append(copies, "src "+addr)
			}
		}
	}
	if c.often(3) {
		line("link vpn 40 none up virtual")
		up = append(up, "vpn")
	}
	for range c(12) {
		line("rule %s", c.rule())
	}
	for range c(20) {
		if len(up) > 0 {
			line("route %s", c.route(up))
		}
	}
	for _, src := range copies {
		line("route %s via %s dev eth0 %s proto 236 %s", c.one("default", "10.50.0.0/16"), c.address(c(2)), src, c.one("metric 1000", "metric 999 tos 0xfc", "metric 3000"))
	}
	for _, name := range someNames {
		c.known(name, line)
		if c.often(2) {
			line("makes %s ip route replace %s via %s dev %s table %d", name, c.one("default", "10.50.0.0/16"), c.address(c(2)), name, 1000+c(3))
		}
		if c.often(2) {
			line("loose %s", name)
		}
		if c.often(5) {
			line("no-ipv6 %s", name)
		}
	}
	for range c(3) {
		from, to := c.one(someNames...), c.one(someNames...)
		line("moved %s from %s to %s", c.address(c(2)), from, to)
	}
	for range c(4) {
		line("answer %s", c.facts(c.one(someNames...)))
	}
	return b.String()
}

func (c chance) address(subnet int) string { return fmt.Sprintf("10.0.%d.%d", subnet, 20+c(6)) }

func (c chance) number() string { return c.one("1000", "1001", "1002", "1005", "3001", "1077") }

func (c chance) rule() string {
	n := c.number()
	protocol := c.one("236", "236", "236", "0", "4")
	suffix := c.one("", "", "", "", "", "", " odd")
	switch c(8) {
	case 0:
		return "pref 999 from " + c.one("all", "10.0.1.0/24", "10.0.0.0/24", "10.0.1.20", "all fwmark 0x3e9/0x3fff") + " lookup main suppress_prefixlength " + c.one("0", "1") + " suppress_ifgroup " + c.one("1000", "7") + " protocol 236" + suffix
	case 1:
		return "pref " + c.number() + " from " + c.address(c(2)) + " lookup " + n + " protocol " + protocol
	case 2:
		return "pref " + n + " from all fwmark 0x3e9/0x3fff lookup " + n + " protocol " + protocol
	case 3:
		return "pref " + n + " from 10.0.0.32/28 lookup " + n + " protocol " + protocol + suffix
	}
	return "pref " + n + " from " + c.address(c(2)) + " lookup " + n + " protocol " + protocol + suffix
}

var copyProtocol = regexp.MustCompile(`proto [a-z]+`)

func (c chance) route(up []string) string {
	text := c.one("default", "10.0.0.0/24", "10.0.1.0/24", "172.17.0.0/16", "10.50.0.0/16")
	if c.often(1) {
		text += " tos 0xfc"
	}
	if c.often(5) {
		text += " via " + c.address(c(2))
	}
	text += " dev " + c.one(up...) + " metric " + c.one("0", "0", "100", "1000", "1001", "1002", "1003") + " proto " + c.one("kernel", "boot", "static", "dhcp")
	text += c.one("", "", "", " extra mtu-1400")
	if c.often(4) {
		text += " table " + c.number()
		if c.often(3) {
			text = copyProtocol.ReplaceAllString(text, "proto 236")
		}
	}
	return text
}

// facts returns the words for the facts of some ENI under a name.
func (c chance) facts(name string) string {
	i := c.mostly(slices.Index(someNames, name), len(someMACs))
	text := name + " " + someIDs[i] + " " + someMACs[i]
	if i == 0 {
		text += " primary"
	} else if c.often(1) {
		text += " primary-mac unknown"
	}
	if c.often(1) {
		return text + " 2001:db8::1"
	}
	subnet, first := i%2, c(6)
	for n := range 1 + c(3) {
		text += fmt.Sprintf(" 10.0.%d.%d", subnet, 20+(first+n)%6)
	}
	if c.often(2) {
		text += fmt.Sprintf(" 10.0.%d.32/28", subnet)
	}
	return text
}

func (c chance) known(name string, line func(string, ...any)) {
	another := " of " + c.one(someMACs...) + " " + c.one("2", "3", "4", "5", "9")
	if c.often(8) {
		line("facts %s", c.facts(name))
	} else {
		line("script %s", name)
	}
	if c.often(7) {
		line("stanza %s", name)
	}
	if c.often(6) {
		number := []string{"1000", "1001", "1002", "1005"}[c.mostly(slices.Index(someNames, name), 4)]
		line("note %s number %s%s", name, number, c.one("", "", "", another))
	}
	if c.often(7) {
		line("lease %s %s%s", name, c.one(c.address(0), c.address(1), "unknown", "ended"), c.one("", "", "", another))
	}
	if c.often(1) {
		line("left %s EC2NET_UNMANAGED names it", name)
	}
	if c.often(1) {
		line("%s %s", c.one("coming", "going"), name)
	}
}
