package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// addRoutes adds n routes through an interface to main, many with one request.
func addRoutes(t testing.TB, k *Kernel, link, n int) {
	t.Helper()
	var batch []byte
	for i := range n {
		header := append([]byte{unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BGP, unix.RT_SCOPE_LINK, unix.RTN_UNICAST}, uint32s(0)...)
		req := request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, header)
		add(req, unix.RTA_DST, []byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
		addNumber(req, unix.RTA_OIF, link)
		batch = append(batch, req.Serialize()...)
		if len(batch) > 32<<10 || i == n-1 {
			if err := k.route.send(batch); err != nil {
				t.Fatal(err)
			}
			batch = nil
		}
	}
}

// crowded makes a namespace with 20,000 routes outside of a scope, and a few in it.
func crowded(t testing.TB) (k *Kernel, scope func([]plan.Link) plan.Scope, wanted []plan.Route) {
	t.Helper()
	k = inNetns(t)
	l, other := addVeth(t, "eth1", mac1), addVeth(t, "eth2", mac1)
	addRoutes(t, k, other.Index, 20_000)
	route := func(table, link int, dst string) {
		r := plan.Route{Table: table, Link: link, Dst: netip.MustParsePrefix(dst), Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_BOOT}
		if err := k.Apply(plan.AddRoute{Route: r}); err != nil {
			t.Fatal(err)
		}
		wanted = append(wanted, r)
	}
	route(1001, l.Index, "0.0.0.0/0")
	route(1001, other.Index, "10.1.0.0/16")
	route(unix.RT_TABLE_MAIN, other.Index, "0.0.0.0/0")
	route(unix.RT_TABLE_MAIN, l.Index, "10.2.0.0/16")
	route(unix.RT_TABLE_MAIN, other.Index, "169.254.169.254/32")
	return k, func(links []plan.Link) plan.Scope {
		eth1, _ := plan.State{Links: links}.LinkNamed("eth1")
		return plan.Scope{Tables: []int{1001}, Main: []int{eth1.Index}, To: netip.MustParseAddr("169.254.169.254")}
	}, wanted
}

// Among many routes a look keeps those in its scope. It needs no more requests than
// usual, and no more memory.
func TestLooksAtFew(t *testing.T) {
	k, scope, wanted := crowded(t)
	var requests []string
	k.Before = func(what string) error {
		requests = append(requests, what)
		return nil
	}
	allocated(t, 256<<10, func() {
		s, err := k.Look(scope)
		check(t, err)
		if !slices.Equal(s.Routes, wanted) {
			t.Errorf("%+v", s.Routes)
		}
	})
	if want := []string{"links", "addresses", "rules", "routes"}; !slices.Equal(requests, want) {
		t.Errorf("asked for %q", requests)
	}
	if s := look(t, k); len(s.Routes) != 20_000+len(wanted) {
		t.Errorf("%d routes without a scope", len(s.Routes))
	}
}

func BenchmarkLook(b *testing.B) {
	k, scope, _ := crowded(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Look(scope); err != nil {
			b.Fatal(err)
		}
	}
}
