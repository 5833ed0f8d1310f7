package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/lab/unshared"
	"ec2net/plan"
	"ec2net/render"
)

// vpc is an IMDS that a test can change: facts by MAC, or a failure.
type vpc struct {
	mu   sync.Mutex
	enis map[facts.MAC]facts.ENI
	err  error
	asks int
	// asked, unless nil, is called before each answer.
	asked func()
}

func (v *vpc) ENI(ctx context.Context, name string, mac facts.MAC, n facts.Numbers) (facts.ENI, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asks++
	if v.asked != nil {
		v.asked()
	}
	if v.err != nil {
		return facts.ENI{}, v.err
	}
	e, ok := v.enis[mac]
	if !ok {
		return e, errors.New("404")
	}
	return facts.Renamed(e, name, n)
}

func (v *vpc) MACs(context.Context) ([]facts.MAC, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var macs []facts.MAC
	for mac := range v.enis {
		macs = append(macs, mac)
	}
	return macs, v.err
}

// machine is a network namespace with eth0, eth1 and eth2, a folder as its root, and an
// IMDS. It records the calls of ifup and ifdown.
type machine struct {
	*Host
	vpc      *vpc
	log      []string
	warned   []string // the warnings in log
	ran      []string
	added    []string         // the interfaces that ec2net asked udev to add
	gone     []string         // the interfaces that ec2net asked to have taken down
	later    []string         // the interfaces to ask IMDS for again
	fails    map[string]error // by program
	asked    atomic.Int64     // netlink requests
	kernel   Kernel           // uncounted, unstruck
	netns    *netlink.Handle
	onLogged func(line string)
	firewall *firewall
}

// record writes to the log of a machine.
type record struct{ *machine }

func (r record) Info(iface, format string, args ...any) {
	line := iface + ": " + fmt.Sprintf(format, args...)
	r.log = append(r.log, line)
	if r.onLogged != nil {
		r.onLogged(line)
	}
}

func (r record) Warn(iface, format string, args ...any) {
	r.warned = append(r.warned, iface+": "+fmt.Sprintf(format, args...))
	r.Info(iface, format, args...)
}

// quiet is a log that drops all lines.
type quiet struct{}

func (quiet) Info(string, string, ...any) {}
func (quiet) Warn(string, string, ...any) {}

// onMachine runs a test in a network namespace of its own.
func onMachine(t *testing.T, test func(m *machine)) {
	t.Helper()
	unshared.Netns(t)
	test(newMachine(t))
}

var (
	primaryMAC = facts.MAC{2, 0, 0, 0, 0, 0x10}
	macs       = map[string]facts.MAC{"eth0": primaryMAC, "eth1": {2, 0, 0, 0, 1, 0x20}, "eth2": {2, 0, 0, 0, 2, 0x30}}
)

func addrs(texts ...string) []netip.Addr {
	list := []netip.Addr{}
	for _, s := range texts {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

func newMachine(t *testing.T) *machine {
	counted, eyes := openKernel(t), openKernel(t)
	netns, err := netlink.NewHandle()
	check(t, err)
	t.Cleanup(netns.Close)
	for _, name := range []string{"eth0", "eth1", "eth2"} {
		addVeth(t, netns, name, macs[name])
	}
	tree, err := disk.OpenTree(t.TempDir(), false)
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	templates, err := render.Load(nil)
	check(t, err)
	m := &machine{netns: netns, kernel: eyes, fails: map[string]error{}, vpc: &vpc{enis: map[facts.MAC]facts.ENI{
		primaryMAC: {MAC: primaryMAC, ID: "eni-0", Primary: true, PrimaryMAC: primaryMAC,
			IPv4: addrs("10.0.0.10"), Subnet: netip.MustParsePrefix("10.0.0.0/24")},
		macs["eth1"]: {MAC: macs["eth1"], ID: "eni-1", DeviceNumber: 1, PrimaryMAC: primaryMAC,
			IPv4: addrs("10.0.1.20", "10.0.1.21"), Subnet: netip.MustParsePrefix("10.0.1.0/24")},
		macs["eth2"]: {MAC: macs["eth2"], ID: "eni-2", DeviceNumber: 2, PrimaryMAC: primaryMAC,
			IPv4: addrs("10.0.1.30"), Subnet: netip.MustParsePrefix("10.0.1.0/24")},
	}}}
	numbers := facts.DefaultNumbers
	numbers.Primary = false // primary_test.go has it
	m.Host = &Host{Stack: render.Ifupdown, Source: m.vpc, Templates: templates, Tree: tree, Numbers: numbers,
		Log: record{m}, Kernel: counted,
		Later: func(name string) error {
			m.later = append(m.later, name)
			return nil
		},
		Replay: func(name string) error {
			m.added = append(m.added, name)
			return nil
		},
		Unplug: func(name string) error {
			m.gone = append(m.gone, name)
			return nil
		},
		Run: func(_ context.Context, program string, args ...string) error {
			m.ran = append(m.ran, program+" "+strings.Join(args, " "))
			if is, err := m.firewall.run(program, args); is {
				return errors.Join(err, m.fails[program])
			}
			if program == "ifup" && m.fails[program] == nil {
				m.setIPv6(t, args[0], false)
				m.setUp(t, args[0])
			}
			return m.fails[program]
		}}
	m.firewall = newFirewall(tree)
	m.Output = m.firewall.output
	m.forward(t, false) // a namespace has what the machine of the test has
	counted.Before = func(string) error {
		m.asked.Add(1)
		return nil
	}
	_, err = tree.Write(interfacesFile, []byte("source /etc/network/interfaces.d/*.cfg\n"))
	check(t, err)
	m.address(t, "eth0", "10.0.0.10/24")
	return m
}

// forward sets net.ipv4.ip_forward of the thread's namespace.
func (m *machine) forward(t *testing.T, on bool) {
	t.Helper()
	text := map[bool]string{false: "0", true: "1"}[on]
	check(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(text), 0))
}

// setIPv6 switches IPv6 on or off on an interface, as its stanza does.
func (m *machine) setIPv6(t *testing.T, name string, on bool) {
	t.Helper()
	text := map[bool]string{false: "1", true: "0"}[on]
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte(text), 0))
}

func addVeth(t *testing.T, h *netlink.Handle, name string, mac facts.MAC) {
	t.Helper()
	check(t, veths{h}.add(name, mac))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// address gives an interface an address, as dhclient-script does.
func (m *machine) address(t *testing.T, name, addr string) {
	t.Helper()
	l, err := m.netns.LinkByName(name)
	check(t, err)
	a, err := netlink.ParseAddr(addr)
	check(t, err)
	check(t, m.netns.AddrReplace(l, a))
	check(t, m.netns.LinkSetUp(l))
}

func (m *machine) lease(t *testing.T, name, reason, addr string) {
	t.Helper()
	l := Lease{Interface: name, Reason: reason}
	if addr != "" {
		l.Address = netip.MustParseAddr(addr)
	}
	check(t, m.OnLease(t.Context(), l))
}

func (m *machine) setUp(t *testing.T, name string) {
	t.Helper()
	l, err := m.netns.LinkByName(name)
	check(t, err)
	check(t, m.netns.LinkSetUp(l))
}

// rulesNow returns the rules of the kernel, without the three of every machine.
func (m *machine) rulesNow(t *testing.T) []string {
	t.Helper()
	var texts []string
	for _, k := range m.rules(t) {
		if k.Table < 253 || k.Table > 255 || k.Priority == 999 {
			texts = append(texts, k.String())
		}
	}
	return texts
}

func (m *machine) addrsNow(t *testing.T, name string) []string {
	s := m.state(t)
	l, ok := s.LinkNamed(name)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	var texts []string
	for _, a := range s.Addrs {
		if a.Link == l.Index {
			texts = append(texts, a.Prefix.String())
		}
	}
	slices.Sort(texts)
	return texts
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

const interfacesFile = "/etc/network/interfaces"

const (
	// The group rules of eth1: one for its subnet, one for its mark.
	group1001 = "pref 999 from 10.0.1.0/24 lookup main suppress_prefixlength 1 suppress_ifgroup 1000 protocol 236"
	groupMark = "pref 999 from all fwmark 0x3e9/0x3fff lookup main suppress_prefixlength 1 suppress_ifgroup 1000 protocol 236"
	mark1001  = "pref 1001 from all fwmark 0x3e9/0x3fff lookup 1001 protocol 236"
)

// isGroupRule reports whether the text of a rule is that of a group rule.
func isGroupRule(rule string) bool {
	return strings.HasPrefix(rule, "pref 999 ") || strings.HasPrefix(rule, "pref 32764 ")
}

func from1001(addr string) string {
	return fmt.Sprintf("pref 1001 from %s lookup 1001 protocol 236", addr)
}

// foreign adds rules as another program would.
func (m *machine) foreign(t *testing.T, rules ...iprule.Rule) {
	t.Helper()
	for _, r := range rules {
		check(t, m.kernel.Apply(plan.AddRule{Rule: r}))
	}
}

// state returns the state of the kernel, with all routes.
func (m *machine) state(t *testing.T) plan.State {
	s, err := m.kernel.Look(nil)
	check(t, err)
	return s
}

func (m *machine) rules(t *testing.T) []plan.Rule   { return m.state(t).Rules }
func (m *machine) routes(t *testing.T) []plan.Route { return m.state(t).Routes }

func named(links []plan.Link, name string) (plan.Link, bool) {
	return plan.State{Links: links}.LinkNamed(name)
}

func (m *machine) linkNamed(t *testing.T, name string) plan.Link {
	t.Helper()
	l, ok := m.state(t).LinkNamed(name)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	return l
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
