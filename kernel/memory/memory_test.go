package memory

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/kernel"
	"ec2net/lab/unshared"
	"ec2net/plan"
)

func TestMain(m *testing.M) { unshared.Main(m) }

// pair is a machine in memory and one in a network namespace. Both go through the same
// steps.
type pair struct {
	t      *testing.T
	memory *Kernel
	real   *kernel.Kernel
	steps  []string
	// requests are the requests for the last change to each.
	requests [2][]string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	unshared.Netns(t)
	// A new namespace inherits the settings of the machine.
	for _, name := range []string{"all", "default"} {
		for _, setting := range []string{"promote_secondaries", "rp_filter"} {
			check(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/"+setting, []byte("0"), 0))
		}
	}
	genuine, err := kernel.Open()
	check(t, err)
	t.Cleanup(genuine.Close)
	genuine.IsENI = func(l plan.Link) bool { return !strings.HasPrefix(l.Name, "peer") }
	p := &pair{t: t, memory: New(), real: genuine}
	for i, before := range []*func(string) error{&p.memory.Before, &p.real.Before} {
		*before = func(request string) error {
			p.requests[i] = append(p.requests[i], request)
			return nil
		}
	}
	p.memory.SetUp("lo")
	check(t, netlink.LinkSetUp(netlinkOf(t, "lo")))
	return p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// link returns an interface by its name, as each of the two knows it.
func (p *pair) link(name string) (inMemory, inKernel plan.Link) {
	ours, err := p.memory.Links()
	check(p.t, err)
	theirs, err := p.real.Links()
	check(p.t, err)
	inMemory, _ = plan.State{Links: ours}.LinkNamed(name)
	inKernel, _ = plan.State{Links: theirs}.LinkNamed(name)
	if inMemory.Name == "" {
		inMemory = plan.Link{Name: name, Index: 9999}
	}
	if inKernel.Name == "" {
		inKernel = plan.Link{Name: name, Index: 9999}
	}
	return inMemory, inKernel
}

func (p *pair) has(name string) bool {
	l, _ := p.link(name)
	return l.Index != 9999
}

// apply applies a change to both: change returns it for the interface of each.
func (p *pair) apply(name string, change func(plan.Link) plan.Change) {
	inMemory, inKernel := p.link(name)
	p.steps = append(p.steps, change(inMemory).String())
	p.requests = [2][]string{}
	ours, theirs := p.memory.Apply(change(inMemory)), p.real.Apply(change(inKernel))
	// It takes more requests if the kernel would take one rule, or one route outside of
	// main, for another.
	switch change(inKernel).(type) {
	case plan.AddRule, plan.DelRule, plan.DelRoute:
	default:
		if !slices.Equal(p.requests[0], p.requests[1]) {
			p.t.Errorf("%q to the one in memory, %q to the kernel", p.requests[0], p.requests[1])
		}
	}
	if !alike(ours, theirs) {
		p.t.Errorf("%s: %v in memory, %v of the kernel", p.steps[len(p.steps)-1], ours, theirs)
	}
}

// alike reports whether two errors have the same errno, or are both nil.
func alike(a, b error) bool {
	var number unix.Errno
	if errors.As(a, &number) {
		return errors.Is(b, number)
	}
	return !errors.As(b, &number) && (a == nil) == (b == nil)
}

func (p *pair) addLink(name string, mac facts.MAC) {
	p.memory.AddLink(name, mac, true)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, net.HardwareAddr(mac[:])
	peer := fmt.Sprintf("peer%d", len(p.steps))
	check(p.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}))
	l, err := netlink.LinkByName(peer)
	check(p.t, err)
	check(p.t, netlink.LinkSetUp(l))
}

func netlinkOf(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	return l
}

// text returns a state as text, without indexes and without the veths' other ends.
func text(s plan.State) string {
	var b strings.Builder
	name := func(index int) string {
		l, _ := s.LinkAt(index)
		return l.Name
	}
	for _, l := range s.Links {
		if !strings.HasPrefix(l.Name, "peer") {
			fmt.Fprintf(&b, "%s %v group %d up %v device %v master %q\n", l.Name, l.MAC, l.Group, l.Up, l.Device, name(l.Master))
			if l.Strict {
				fmt.Fprintf(&b, "%s strict\n", l.Name)
			}
			if l.NoIPv6 {
				fmt.Fprintf(&b, "%s without IPv6\n", l.Name)
			}
		}
	}
	for _, a := range s.Addrs {
		fmt.Fprintf(&b, "%s %v\n", name(a.Link), a.Prefix)
	}
	for _, r := range s.Rules {
		fmt.Fprintf(&b, "%v %q\n", r, r.Extra)
	}
	for _, r := range s.Routes {
		by := name(r.Link)
		r.Link = 0
		extra := r.Extra
		r.Extra = ""
		fmt.Fprintf(&b, "%s %+v %q\n", by, r, extra)
	}
	return b.String()
}

// same compares the two machines.
func (p *pair) same() {
	p.t.Helper()
	inMemory, err := p.memory.Look(nil)
	check(p.t, err)
	ofKernel, err := p.real.Look(nil)
	check(p.t, err)
	if text(inMemory) != text(ofKernel) {
		p.t.Errorf("in memory:\n%s\nof the kernel:\n%s", text(inMemory), text(ofKernel))
	}
	for _, to := range []string{"10.0.1.1", "10.0.1.20", "10.0.2.9", "10.7.0.1", "192.0.2.1"} {
		a := netip.MustParseAddr(to)
		// To an address of the machine the kernel may send from another one of the machine.
		if ours, theirs := p.memory.Source(a), p.real.Source(a); ours != theirs && (ours != a || !theirs.IsValid()) {
			p.t.Errorf("to %s: from %v in memory, from %v of the kernel", a, ours, theirs)
			p.t.Log(text(inMemory))
		}
	}
	if p.t.Failed() {
		p.t.Fatalf("after:\n%s", strings.Join(p.steps, "\n"))
	}
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

var names = []string{"eth0", "eth1", "eth2", "br0"}

func (p *pair) prefix(r *rand.Rand) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/%d", 1+r.IntN(2), 20+r.IntN(3), pick(r, 24, 32, 32, 25)))
}

func (p *pair) rule(r *rand.Rand) iprule.Rule {
	rule := iprule.Rule{Priority: pick(r, 1001, 1001, 1001, 1002, 999), Table: pick(r, 1001, 1001, 1002, 254),
		Protocol: pick(r, 236, 236, 0, 3), SuppressPrefixLength: pick(r, -1, -1, -1, 1, 0), SuppressGroup: pick(r, -1, -1, -1, 1000)}
	if r.IntN(2) == 0 {
		rule.From = pick(r, netip.MustParsePrefix("10.0.1.20/32"), netip.MustParsePrefix("10.0.1.0/24"))
	}
	if r.IntN(4) == 0 {
		rule.To = netip.MustParsePrefix("10.0.2.0/24")
	}
	if r.IntN(3) == 0 {
		rule.Mark, rule.MarkMask = pick(r, facts.Mark(0), 0x3e9), pick(r, facts.Mark(0x3fff), 0xffffffff)
	}
	if r.IntN(4) == 0 {
		rule.IIF = pick(r, "eth1", "lo")
	}
	if r.IntN(5) == 0 {
		rule.OIF = "eth2"
	}
	return rule
}

func (p *pair) route(r *rand.Rand, l plan.Link) plan.Route {
	route := plan.Route{Table: pick(r, 254, 1001, 1002), Link: l.Index, Metric: pick(r, 0, 0, 100, 1001), Protocol: pick(r, 236, 3, 16),
		Dst:   pick(r, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("10.0.1.77/24")),
		Scope: pick(r, 253, 253, 0)}
	if r.IntN(2) == 0 {
		route.Scope, route.Gateway, route.OnLink = 0, pick(r, netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("10.0.2.1")), r.IntN(3) == 0
	}
	if r.IntN(3) == 0 {
		route.Source = netip.MustParseAddr(fmt.Sprintf("10.0.1.%d", 20+r.IntN(3)))
	}
	if r.IntN(3) == 0 {
		route.TOS = pick(r, 0xfc, 0x10)
	}
	if r.IntN(3) == 0 {
		route.Extra = pick(r, mtu(1400), mtu(1300))
	}
	if r.IntN(4) == 0 {
		return plan.Route{Kind: pick(r, iproute.Unreachable, iproute.Unreachable, iproute.Blackhole, iproute.Prohibit, iproute.Throw),
			Table: route.Table, Dst: route.Dst, Metric: route.Metric, Protocol: route.Protocol, TOS: route.TOS}
	}
	return route
}

// mtu returns the Extra of a route with an MTU.
func mtu(n uint32) string {
	metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
	metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(n))
	return string(metrics.Serialize())
}

// step does something to both machines.
func (p *pair) step(r *rand.Rand) {
	name := pick(r, names...)
	switch r.IntN(22) {
	case 0:
		if !p.has(name) {
			p.steps = append(p.steps, "link add "+name)
			p.addLink(name, facts.MAC{2, 0, 0, 0, 1, byte(r.IntN(4))})
		}
	case 1:
		if p.has(name) && r.IntN(3) == 0 {
			p.steps = append(p.steps, "link del "+name)
			p.memory.DelLink(name)
			check(p.t, netlink.LinkDel(netlinkOf(p.t, name)))
		}
	case 2:
		if other := pick(r, names...); p.has(name) && !p.has(other) {
			p.steps = append(p.steps, "link rename "+name+" "+other)
			p.memory.Rename(name, other)
			check(p.t, netlink.LinkSetName(netlinkOf(p.t, name), other))
		}
	case 3, 4:
		if p.has(name) {
			p.steps = append(p.steps, "link up "+name)
			p.memory.SetUp(name)
			check(p.t, netlink.LinkSetUp(netlinkOf(p.t, name)))
		}
	case 5:
		if p.has(name) && r.IntN(3) == 0 {
			p.steps = append(p.steps, "link down "+name)
			p.memory.SetDown(name)
			check(p.t, netlink.LinkSetDown(netlinkOf(p.t, name)))
		}
	case 6:
		group := pick(r, 0, 7, 1000)
		p.apply(name, func(l plan.Link) plan.Change { return plan.SetGroup{Link: l, Group: group} })
	case 7, 8, 9:
		a := p.prefix(r)
		p.apply(name, func(l plan.Link) plan.Change { return plan.AddAddr{Link: l, Addr: a} })
	case 10:
		a := p.prefix(r)
		p.apply(name, func(l plan.Link) plan.Change { return plan.DelAddr{Link: l, Addr: a} })
	case 11, 12:
		seed := r.Uint64()
		p.apply(name, func(l plan.Link) plan.Change {
			again := rand.New(rand.NewPCG(seed, 0))
			return plan.AddRoute{Link: l, Route: p.route(again, l), Append: again.IntN(2) == 0}
		})
		p.addAlike(r)
	case 13:
		p.changeRoute(r)
	case 14, 15:
		rule := p.rule(r)
		p.apply(name, func(plan.Link) plan.Change { return plan.AddRule{Rule: rule} })
	case 16:
		p.changeRule(r)
	case 17:
		p.foreignRule(r)
	case 18:
		if p.has(name) {
			p.steps = append(p.steps, "rp_filter strict "+name)
			p.memory.SetStrict(name)
			check(p.t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("1"), 0))
		}
	case 19:
		p.apply(name, func(l plan.Link) plan.Change { return plan.SetLoose{Link: l} })
	case 20:
		p.apply(name, func(l plan.Link) plan.Change { return plan.DisableIPv6{Link: l} })
	case 21:
		if p.has(name) {
			p.steps = append(p.steps, "IPv6 on "+name)
			p.memory.SetIPv6(name, true)
			check(p.t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0))
		}
	}
}

// addAlike adds a route that differs from an existing one in one attribute.
func (p *pair) addAlike(r *rand.Rand) {
	s, err := p.memory.Look(nil)
	check(p.t, err)
	if len(s.Routes) == 0 {
		return
	}
	route := pick(r, s.Routes...)
	l, _ := s.LinkAt(route.Link)
	switch r.IntN(6) {
	case 0:
		if route.Kind != iproute.Unicast {
			return
		}
		route.Gateway = pick(r, netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("10.0.1.9"))
		route.Scope = 0
	case 1:
		route.Source = pick(r, netip.Addr{}, netip.MustParseAddr("10.0.1.20"), netip.MustParseAddr("10.0.1.21"))
	case 2:
		route.Extra = pick(r, "", mtu(1400), mtu(1300))
	case 3:
		route.TOS = pick(r, 0, 0xfc, 0x10)
	case 4:
		route.Metric = pick(r, 0, 100, 1001)
	case 5:
		route.Protocol = pick(r, 236, 3, 16)
	}
	behind := r.IntN(3) > 0
	p.apply(l.Name, func(l plan.Link) plan.Change {
		if route.Kind == iproute.Unicast {
			route.Link = l.Index
		}
		return plan.AddRoute{Link: l, Route: route, Append: behind}
	})
}

// changeRoute deletes or moves a route that exists, or did a moment ago.
func (p *pair) changeRoute(r *rand.Rand) {
	s, err := p.memory.Look(nil)
	check(p.t, err)
	if len(s.Routes) == 0 {
		return
	}
	route := pick(r, s.Routes...)
	l, _ := s.LinkAt(route.Link)
	metric := pick(r, 0, 100, 1001)
	if metric == route.Metric {
		metric = 2000
	}
	move := r.IntN(2) == 0
	for range pick(r, 1, 1, 2) {
		p.apply(l.Name, func(l plan.Link) plan.Change {
			route := route
			if route.Kind == iproute.Unicast {
				route.Link = l.Index
			}
			if move {
				return plan.MoveRoute{Link: l, Route: route, Metric: metric}
			}
			return plan.DelRoute{Link: l, Route: route}
		})
	}
}

// changeRule deletes a rule that is not the kernel's own.
func (p *pair) changeRule(r *rand.Rand) {
	s, err := p.memory.Look(nil)
	check(p.t, err)
	others := slices.DeleteFunc(s.Rules, func(r plan.Rule) bool { return r.Protocol == unix.RTPROT_KERNEL })
	if len(others) > 0 {
		rule := pick(r, others...)
		p.apply("", func(plan.Link) plan.Change { return plan.DelRule{Rule: rule} })
	}
}

// foreignRule adds a rule as another program might, or deletes one by naming only some of
// its attributes.
func (p *pair) foreignRule(r *rand.Rand) {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Protocol = netlink.FAMILY_V4, pick(r, 1001, 1002), pick(r, 1001, 1002), pick(r, uint8(0), 236)
	if r.IntN(2) == 0 {
		rule.Src = &net.IPNet{IP: net.IPv4(10, 0, 1, 20), Mask: net.CIDRMask(32, 32)}
	}
	if r.IntN(2) == 0 {
		said := plan.Rule{Rule: iprule.Rule{Priority: rule.Priority, Table: rule.Table, Protocol: int(rule.Protocol), SuppressPrefixLength: -1, SuppressGroup: -1}}
		if rule.Src != nil {
			said.From = netip.MustParsePrefix("10.0.1.20/32")
		}
		p.steps = append(p.steps, "another program: ip rule del "+said.String())
		ours, theirs := p.memory.DelRule(said), netlink.RuleDel(rule)
		if !errors.Is(ours, theirs) {
			p.t.Errorf("%v in memory, %v of the kernel", ours, theirs)
		}
		return
	}
	switch r.IntN(3) {
	case 0:
		rule.Tos = 8
	case 1:
		rule.IPProto = 6
	case 2:
		rule.Dport = netlink.NewRulePortRange(8080, 8080)
	}
	before, err := p.real.Look(nil)
	check(p.t, err)
	if err := netlink.RuleAdd(rule); errors.Is(err, unix.EEXIST) {
		return
	} else if err != nil {
		p.t.Fatal(err)
	}
	after, err := p.real.Look(nil)
	check(p.t, err)
	for _, r := range after.Rules {
		if !slices.Contains(before.Rules, r) {
			p.steps = append(p.steps, fmt.Sprintf("another program: ip rule add %v %q", r, r.Extra))
			check(p.t, p.memory.AddRule(r))
		}
	}
}

// A machine in memory behaves like a real one.
func TestAsTheKernel(t *testing.T) {
	for seed := range uint64(*sequences) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			r := rand.New(rand.NewPCG(seed, 1))
			for range 150 {
				p.step(r)
				p.same()
			}
		})
	}
}

var sequences = flag.Int("sequences", 20, "how many random sequences of changes")

// A look sees at once what has changed about a link.
func TestLinks(t *testing.T) {
	k := New()
	eth1 := k.AddLink("eth1", facts.MAC{2, 0, 0, 0, 1, 1}, true)
	bridge := k.AddLink("docker0", facts.MAC{2, 0, 0, 0, 1, 2}, false)
	k.SetMaster("eth1", "docker0")
	links, err := k.Links()
	check(t, err)
	if l, _ := (plan.State{Links: links}).LinkNamed("eth1"); l.Master != bridge.Index {
		t.Errorf("%+v", l)
	}
	k.DelLink("docker0")
	links, err = k.Links()
	check(t, err)
	if want := []plan.Link{{Name: "lo", Index: 1, Loopback: true, Device: true}, eth1}; !slices.Equal(links, want) {
		t.Errorf("got  %+v\nwant %+v", links, want)
	}
	k.DelLink("eth1")
	if again := k.AddLink("eth1", eth1.MAC, true); again.Is(eth1) {
		t.Errorf("%+v was given the index of %+v", again, eth1)
	}
}

// If Before fails, the change is not made.
func TestBefore(t *testing.T) {
	k := New()
	l := k.AddLink("eth1", facts.MAC{2, 0, 0, 0, 1, 1}, true)
	k.SetUp("eth1")
	a := plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")}
	check(t, k.Apply(a))
	was, err := k.Look(nil)
	check(t, err)
	for _, c := range []plan.Change{
		plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.21/32")}, plan.DelAddr(a),
		plan.SetGroup{Link: l, Group: 1000}, plan.SetLoose{Link: l}, plan.DisableIPv6{Link: l},
		plan.AddRoute{Link: l, Route: plan.Route{Table: 1001, Link: l.Index, Dst: netip.MustParsePrefix("0.0.0.0/0")}},
		plan.DelRoute{Link: l, Route: was.Routes[0]}, plan.MoveRoute{Link: l, Route: was.Routes[0], Metric: 1001},
		plan.AddRule{Rule: iprule.Rule{Priority: 1001}}, plan.DelRule{Rule: was.Rules[0]},
		plan.DropFlows{Mark: 0x3e9, Mask: 0x3fff},
	} {
		for _, refused := range []error{unix.EPERM, unix.EEXIST} {
			k.Before = func(string) error { return refused }
			if err := k.Apply(c); !errors.Is(err, refused) {
				t.Errorf("%v: %v", c, err)
			}
			if _, err := k.Look(nil); !errors.Is(err, refused) {
				t.Error(err)
			}
			k.Before = nil
			if is, err := k.Look(nil); err != nil || text(is) != text(was) {
				t.Errorf("%v: %v\n%s", c, err, text(is))
			}
		}
	}
}

// DropFlows drops the connections with a mark, and no others.
func TestFlows(t *testing.T) {
	k := New()
	for _, m := range []facts.Mark{0x3e9, 0x83e9, 0x3ea, 0} {
		k.AddFlow(m)
	}
	check(t, k.Apply(plan.DropFlows{Mark: 0x3e9, Mask: 0x3fff}))
	if got := k.Flows(); !slices.Equal(got, []facts.Mark{0x3ea, 0}) {
		t.Errorf("%v", got)
	}
}

// A watch has a token after changes, none without a change, and ends with its context.
func TestWatch(t *testing.T) {
	k := New()
	ctx, cancel := context.WithCancel(t.Context())
	w, err := k.Watch(ctx)
	check(t, err)
	for range 2 {
		k.AddLink("eth1", facts.MAC{2, 0, 0, 0, 1, 1}, true)
		k.SetUp("eth1")
		<-w.C
		if len(w.C) > 0 {
			t.Error("two tokens")
		}
		_, err := k.Look(nil)
		check(t, err)
		if len(w.C) > 0 {
			t.Error("a token without a change")
		}
		k.DelLink("eth1")
		<-w.C
	}
	cancel()
	for range w.C {
	}
	check(t, w.Err())
}
