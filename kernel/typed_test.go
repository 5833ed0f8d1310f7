package kernel

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
)

// The commands of a change, typed, do what Apply does.
func TestTyped(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip(8)")
	}
	main := func(dst string, metric int) plan.Route {
		return plan.Route{Table: iprule.MainTable, Dst: netip.MustParsePrefix(dst), Metric: metric, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_LINK}
	}
	with := func(r plan.Route, change func(*plan.Route)) plan.Route {
		change(&r)
		return r
	}
	gateway := func(r *plan.Route) { r.Gateway, r.Scope = netip.MustParseAddr("10.0.1.1"), unix.RT_SCOPE_UNIVERSE }
	rule := iprule.Rule{Priority: 1001, Table: 1001, Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
	from, mark, group, loose, other := rule, rule, rule, rule, rule
	from.From, other.From = netip.MustParsePrefix("10.0.1.20/32"), netip.MustParsePrefix("10.0.1.21/32")
	mark.Mark, mark.MarkMask = 0x3e9, 0x3fff
	group.Priority, group.Table, group.SuppressPrefixLength, group.SuppressGroup = 999, iprule.MainTable, 1, 1000
	loose.Protocol = 0
	ofKernel := plan.Rule{Rule: from}
	del := func(r iprule.Rule) plan.Change { return plan.DelRule{Rule: plan.Rule{Rule: r}} }

	for name, c := range map[string]struct {
		routes []plan.Route
		rules  []plan.Rule
		typed  func(plan.Link) []plan.Change
		lines  int // unless one a change
	}{
		"a group": {typed: func(l plan.Link) []plan.Change { return []plan.Change{plan.SetGroup{Link: l, Group: 1000}} }},
		"addresses": {typed: func(l plan.Link) []plan.Change {
			return []plan.Change{plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.21/32")},
				plan.DelAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.22/32")}}
		}},
		"rules": {rules: []plan.Rule{ofKernel}, typed: func(plan.Link) []plan.Change {
			return []plan.Change{plan.AddRule{Rule: group}, plan.AddRule{Rule: mark}, plan.AddRule{Rule: other}, del(from)}
		}},
		"a rule that says less than earlier ones": {rules: []plan.Rule{{Rule: from}, {Rule: other}, {Rule: loose}, {Rule: mark}}, lines: 5,
			typed: func(plan.Link) []plan.Change { return []plan.Change{del(loose)} }},
		"routes": {routes: []plan.Route{main("10.7.0.0/16", 5)}, typed: func(l plan.Link) []plan.Change {
			table := func(r *plan.Route) { r.Table = 1001 }
			return []plan.Change{
				plan.AddRoute{Link: l, Route: with(with(main("10.0.1.0/24", 0), table), func(r *plan.Route) { r.Source = netip.MustParseAddr("10.0.1.20") })},
				plan.AddRoute{Link: l, Route: with(with(main("0.0.0.0/0", 0), table), gateway)},
				plan.AddRoute{Link: l, Route: with(with(main("0.0.0.0/0", 999), gateway), func(r *plan.Route) { r.TOS, r.Protocol = 0xfc, iprule.Protocol })},
				plan.AddRoute{Link: l, Append: true, Route: with(with(main("0.0.0.0/0", 999), gateway), func(r *plan.Route) {
					r.Extra, r.OnLink = extra(unix.RTAX_MTU, 1400, unix.RTAX_INITCWND, 20), true
				})},
				plan.DelRoute{Link: l, Route: main("10.7.0.0/16", 5)},
			}
		}},
		"routes that move": {routes: []plan.Route{
			with(with(main("0.0.0.0/0", 5), gateway), func(r *plan.Route) { r.Protocol = unix.RTPROT_DHCP }),
			with(with(main("0.0.0.0/0", 7), gateway), func(r *plan.Route) { r.Protocol = unix.RTPROT_DHCP }),
			with(main("10.8.0.0/16", 0), func(r *plan.Route) { r.Source, r.Protocol = netip.MustParseAddr("10.0.1.20"), unix.RTPROT_KERNEL }),
		}, typed: func(l plan.Link) []plan.Change {
			dhcp := func(r *plan.Route) { r.Protocol = unix.RTPROT_DHCP }
			return []plan.Change{
				plan.MoveRoute{Link: l, Metric: 1001, Route: with(with(main("0.0.0.0/0", 5), gateway), dhcp)},
				plan.MoveRoute{Link: l, Metric: 1001, Route: with(with(main("0.0.0.0/0", 7), gateway), dhcp)},
				plan.MoveRoute{Link: l, Metric: 1001, Route: with(main("10.8.0.0/16", 0), func(r *plan.Route) {
					r.Source, r.Protocol = netip.MustParseAddr("10.0.1.20"), unix.RTPROT_KERNEL
				})},
			}
		}},
		"routes by a gateway of IPv6": {routes: []plan.Route{
			with(main("10.9.0.0/16", 0), func(r *plan.Route) { r.Gateway, r.Scope = netip.MustParseAddr("fe80::1"), unix.RT_SCOPE_UNIVERSE }),
		}, typed: func(l plan.Link) []plan.Change {
			six := with(main("10.9.0.0/16", 0), func(r *plan.Route) { r.Gateway, r.Scope = netip.MustParseAddr("fe80::1"), unix.RT_SCOPE_UNIVERSE })
			return []plan.Change{
				plan.AddRoute{Link: l, Route: with(six, func(r *plan.Route) { r.Table = 1001 })}, plan.DelRoute{Link: l, Route: six},
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var ends [2]plan.State
			for i := range ends {
				t.Run([]string{"applied", "typed"}[i], func(t *testing.T) {
					k := inNetns(t)
					l := addVeth(t, "eth1", mac1)
					for _, a := range []string{"10.0.1.20/24", "10.0.1.22/32"} {
						check(t, k.Apply(plan.AddAddr{Link: l, Addr: netip.MustParsePrefix(a)}))
					}
					on := func(c plan.Change) plan.Change {
						switch c := c.(type) {
						case plan.AddRoute:
							c.Route.Link = l.Index
							return c
						case plan.DelRoute:
							c.Route.Link = l.Index
							return c
						case plan.MoveRoute:
							c.Route.Link = l.Index
							return c
						}
						return c
					}
					for _, r := range c.routes {
						check(t, k.Apply(on(plan.AddRoute{Link: l, Route: r})))
					}
					for _, r := range c.rules {
						check(t, k.Apply(plan.AddRule{Rule: r.Rule}))
					}
					before := look(t, k)
					var changes []plan.Change
					for _, change := range c.typed(l) {
						changes = append(changes, on(change))
					}
					if i == 0 {
						for _, change := range changes {
							check(t, k.Apply(change))
						}
					} else {
						lines := slices.Concat(plan.Commands(before, changes)...)
						if want := max(c.lines, len(changes)); len(lines) != want {
							t.Errorf("%d commands, want %d", len(lines), want)
						}
						typed(t, lines)
					}
					ends[i] = look(t, k)
					if fmt.Sprint(ends[i]) == fmt.Sprint(before) {
						t.Error("nothing changed")
					}
				})
			}
			for at, ends := range map[string][2]string{
				"addresses": {fmt.Sprint(ends[0].Addrs), fmt.Sprint(ends[1].Addrs)},
				"rules":     {fmt.Sprint(ends[0].Rules), fmt.Sprint(ends[1].Rules)},
				"routes":    {fmt.Sprintf("%+v", ends[0].Routes), fmt.Sprintf("%+v", ends[1].Routes)},
				"links":     {fmt.Sprint(groups(ends[0])), fmt.Sprint(groups(ends[1]))},
			} {
				if ends[0] != ends[1] {
					t.Errorf("%s applied\n%s\ntyped\n%s", at, ends[0], ends[1])
				}
			}
		})
	}
}

func groups(s plan.State) map[string]int {
	of := make(map[string]int)
	for _, l := range s.Links {
		of[l.Name] = l.Group
	}
	return of
}

// typed types commands into a shell, each of which has to succeed.
func typed(t *testing.T, lines []string) {
	t.Helper()
	for _, line := range lines {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
}

// A route by a nexthop object is named by that alone.
func TestTypedNexthop(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	check(t, k.Apply(plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
	typed(t, []string{"ip nexthop add id 7 via 10.0.1.1 dev eth1", "ip route add 10.7.0.0/16 nhid 7"})
	to := func() []plan.Route { return routesTo(t, k, netip.MustParsePrefix("10.7.0.0/16")) }
	before := to()
	if len(before) != 1 || before[0].Extra == "" {
		t.Fatalf("%+v", before)
	}
	copied := before[0]
	copied.Metric = 5
	typed(t, slices.Concat(plan.Commands(look(t, k), []plan.Change{
		plan.AddRoute{Link: l, Route: copied}, plan.DelRoute{Link: l, Route: before[0]}})...))
	wantRoutes(t, to(), []plan.Route{copied})
}

// What no command says exactly is a comment, and hits nothing.
func TestUntypable(t *testing.T) {
	l := plan.Link{Name: "eth1", Index: 3}
	plain := plan.Route{Table: iprule.MainTable, Link: 3, Dst: netip.MustParsePrefix("10.7.0.0/16"), Protocol: unix.RTPROT_BOOT}
	large, strange := plain, plain
	large.Extra, strange.Extra = extra(unix.RTAX_MTU, 9001), extra(unix.RTAX_FEATURES, 1)
	odd := plan.Rule{Rule: iprule.Rule{Priority: 1001, Table: 1001, SuppressPrefixLength: -1, SuppressGroup: -1}, Extra: "x"}
	less := odd
	less.Extra = ""
	for _, c := range []struct {
		change plan.Change
		state  plan.State
	}{
		{plan.DelRoute{Link: l, Route: plain}, plan.State{Routes: []plan.Route{large, plain}}},
		{plan.MoveRoute{Link: l, Route: plain, Metric: 7}, plan.State{Routes: []plan.Route{large, plain}}},
		{plan.AddRoute{Link: l, Route: strange}, plan.State{}},
		{plan.MoveRoute{Link: l, Route: strange, Metric: 7}, plan.State{Routes: []plan.Route{strange}}},
		{plan.DelRule{Rule: odd}, plan.State{Rules: []plan.Rule{odd}}},
		{plan.DelRule{Rule: less}, plan.State{Rules: []plan.Rule{odd, less}}},
	} {
		c.state.Links = []plan.Link{l}
		lines := slices.Concat(plan.Commands(c.state, []plan.Change{c.change})...)
		if len(lines) != 1 || !strings.HasPrefix(lines[0], "# ") || !strings.Contains(lines[0], c.change.String()) {
			t.Errorf("%s: %q", c.change, lines)
		}
	}
	drop := plan.DropFlows{Mark: 0x3e9, Mask: facts.DefaultNumbers.MarkMask}
	if lines := plan.Commands(plan.State{}, []plan.Change{drop}); lines[0][0] != "conntrack -D --mark 0x3e9/0x3fff" {
		t.Errorf("%q", lines)
	}
}
