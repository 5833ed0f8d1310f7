package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
)

// crowd makes so many links, addresses, rules and routes that the kernel lists none of
// them in one piece.
func crowd(t *testing.T, k *Kernel) {
	t.Helper()
	for i := range 40 {
		l := addVeth(t, fmt.Sprintf("eth%d", i), facts.MAC{2, 0, 0, 0, 2, byte(i)})
		for j := range 15 {
			check(t, k.Apply(plan.AddAddr{Link: l, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j)}), 32)}))
		}
	}
	l, err := netlink.LinkByName("eth0")
	check(t, err)
	for i := range 1000 {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 32)
		check(t, k.Apply(plan.AddRule{Rule: iprule.Rule{Priority: 1001, Table: 1001, From: a, Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}}))
		check(t, k.Apply(plan.AddRoute{Route: plan.Route{Table: 1001, Link: l.Attrs().Index, Dst: a, Scope: unix.RT_SCOPE_LINK, Protocol: iprule.Protocol}}))
	}
}

// churn returns a function that makes one change of somebody else at each call.
func churn(t *testing.T) func() {
	h, err := netlink.NewHandle()
	check(t, err)
	t.Cleanup(h.Close)
	lo, err := h.LinkByName("lo")
	check(t, err)
	n := 0
	var bridge *netlink.Bridge
	r := rand.New(rand.NewPCG(1, 1))
	return func() {
		// Rules at the front come and go, so that the kernel's count is off; not in
		// step with the pieces, since nobody can notice a rule that every list lacks.
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table = netlink.FAMILY_V4, 1, 70+r.IntN(4)
		if err := h.RuleAdd(rule); err != nil {
			check(t, h.RuleDel(rule))
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 1, 0, byte(n)), Mask: net.CIDRMask(32, 32)}}
		check(t, h.AddrAdd(lo, addr))
		check(t, h.AddrDel(lo, addr))
		if n++; n > 50 {
			return // the kernel needs some time to remove a link
		}
		if n%2 == 1 {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("br%d", n)
			bridge = &netlink.Bridge{LinkAttrs: attrs}
			check(t, h.LinkAdd(bridge))
			check(t, h.LinkSetName(bridge, fmt.Sprintf("other%d", n)))
		} else {
			check(t, h.LinkDel(bridge))
		}
	}
}

// If something changes between any two pieces of each list, a look ends all the same, and
// has everything once that was there all the time.
func TestLooksWhileAllChanges(t *testing.T) {
	k := inNetns(t)
	crowd(t, k)
	want := look(t, k)
	k.route.received = churn(t)
	requests := 0
	k.Before = func(string) error { requests++; return nil }
	got, err := k.Look(nil)
	check(t, err)
	if requests < 3*tries {
		t.Errorf("%d requests: nothing changed while a list was read", requests)
	}
	once(t, "link", got.Links, want.Links, func(l plan.Link) string { return l.Name })
	once(t, "address", got.Addrs, want.Addrs, func(a plan.Addr) string { return a.Prefix.String() })
	once(t, "rule", got.Rules, want.Rules, func(r plan.Rule) string { return r.String() })
	once(t, "route", got.Routes, want.Routes, func(r plan.Route) string { return r.Dst.String() })
	if !slices.IsSortedFunc(got.Rules, func(a, b plan.Rule) int { return a.Priority - b.Priority }) {
		t.Error("the rules are in another order than the kernel's")
	}
}

func once[T comparable](t *testing.T, what string, got, want []T, name func(T) string) {
	t.Helper()
	for _, w := range want {
		n := 0
		for _, g := range got {
			if g == w {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s %s is there %d times", what, name(w), n)
		}
	}
	names := map[string]int{}
	for _, g := range got {
		if names[name(g)]++; names[name(g)] == 2 {
			t.Errorf("two are %s %s", what, name(g))
		}
	}
}

// While another program makes and deletes veths and addresses at its own pace, a look has
// everything that was there all the time.
func TestLooksBesideAnother(t *testing.T) {
	k := inNetns(t)
	crowd(t, k)
	want := look(t, k)
	h, err := netlink.NewHandle()
	check(t, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	check(t, err)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 1, 0, 1), Mask: net.CIDRMask(32, 32)}}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth1"}
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := errors.Join(h.AddrAdd(lo, addr), h.LinkAdd(veth), h.AddrDel(lo, addr), h.LinkDel(veth)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for range 20 {
		got := look(t, k)
		once(t, "link", got.Links, want.Links, func(l plan.Link) string { return l.Name })
		once(t, "address", got.Addrs, want.Addrs, func(a plan.Addr) string { return a.Prefix.String() })
		once(t, "rule", got.Rules, want.Rules, func(r plan.Rule) string { return r.String() })
	}
	close(stop)
	check(t, <-stopped)
}
