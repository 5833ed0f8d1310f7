package kernel

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/iprule"
	"ec2net/plan"
)

// Rules of one priority and one table that ec2net makes or could make. Any two differ in
// an attribute.
var ownKinds = map[string]func(*iprule.Rule){
	"from all":     func(*iprule.Rule) {},
	"from":         func(r *iprule.Rule) { r.From = netip.MustParsePrefix("10.0.1.20/32") },
	"from a block": func(r *iprule.Rule) { r.From = netip.MustParsePrefix("10.0.1.0/24") },
	"to":           func(r *iprule.Rule) { r.To = netip.MustParsePrefix("10.0.1.0/24") },
	"mark":         func(r *iprule.Rule) { r.Mark, r.MarkMask = 0x3e9, 0x3fff },
	"another mask": func(r *iprule.Rule) { r.Mark, r.MarkMask = 0x3e9, 0xffffffff },
	"mark 0":       func(r *iprule.Rule) { r.MarkMask = 0x3fff },
	"mask 0":       func(r *iprule.Rule) { r.Mark = 0x3e9 },
	"iif":          func(r *iprule.Rule) { r.IIF = "eth1" },
	"oif":          func(r *iprule.Rule) { r.OIF = "docker0" },
	"length":       func(r *iprule.Rule) { r.SuppressPrefixLength = 0 },
	"group":        func(r *iprule.Rule) { r.SuppressGroup = 1000 },
	"no protocol":  func(r *iprule.Rule) { r.Protocol = 0 },
	"static":       func(r *iprule.Rule) { r.Protocol = unix.RTPROT_STATIC },
	"from and to": func(r *iprule.Rule) {
		r.From, r.To = netip.MustParsePrefix("10.0.1.20/32"), netip.MustParsePrefix("10.0.1.0/24")
	},
}

// Rules of other programs, with attributes that ec2net's rules never have.
var oddKinds = map[string]func(*netlink.Rule){
	"tos":         func(r *netlink.Rule) { r.Tos = 8 },
	"ip protocol": func(r *netlink.Rule) { r.IPProto = unix.IPPROTO_TCP },
	"to a port":   func(r *netlink.Rule) { r.Dport = netlink.NewRulePortRange(443, 443) },
	"to ports":    func(r *netlink.Rule) { r.Dport = netlink.NewRulePortRange(443, 444) },
	"from a port": func(r *netlink.Rule) { r.Sport = netlink.NewRulePortRange(443, 443) },
	"user":        func(r *netlink.Rule) { r.UIDRange = netlink.NewRuleUIDRange(0, 0) },
	"inverted": func(r *netlink.Rule) {
		r.Invert, r.Src = true, &net.IPNet{IP: net.IPv4(10, 0, 1, 20), Mask: net.CIDRMask(32, 32)}
	},
	"goto": func(r *netlink.Rule) { r.Table, r.Goto = 0, 32766 },
}

func ownRule(change func(*iprule.Rule)) plan.Rule {
	r := iprule.Rule{Priority: 1001, Table: 1001, Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
	change(&r)
	return plan.Rule{Rule: r}
}

// others returns the rules that are not the kernel's own.
func others(t *testing.T, k *Kernel) []plan.Rule {
	t.Helper()
	all, err := k.rules(unix.AF_INET)
	check(t, err)
	return slices.DeleteFunc(all, func(r plan.Rule) bool { return r.Protocol == unix.RTPROT_KERNEL })
}

// everyKind adds a rule of each kind to a namespace of its own, and returns them as the
// kernel lists them.
func everyKind(t *testing.T, k *Kernel) map[string]plan.Rule {
	t.Helper()
	found := make(map[string]plan.Rule)
	for name, change := range ownKinds {
		r := ownRule(change)
		check(t, k.Apply(plan.AddRule{Rule: r.Rule}))
		if all := others(t, k); len(all) != 1 || all[0] != r {
			t.Fatalf("%s: %v\ngot %v", name, r, all)
		}
		found[name] = r
		check(t, k.Apply(plan.DelRule{Rule: r}))
	}
	for name, change := range oddKinds {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Protocol = netlink.FAMILY_V4, 1001, 1001, iprule.Protocol
		change(r)
		check(t, netlink.RuleAdd(r))
		all := others(t, k)
		if len(all) != 1 || !all[0].Odd() {
			t.Fatalf("%s is not odd: %+v", name, all)
		}
		found[name] = all[0]
		check(t, k.Apply(plan.DelRule{Rule: all[0]}))
	}
	// The library has no valid tunnel.
	tunnel := ownRule(func(*iprule.Rule) {})
	req := request(0, 0, nil)
	add(req, unix.FRA_TUN_ID, []byte{7: 7})
	tunnel.Extra = string(plainHeader) + string(req.Serialize()[unix.SizeofNlMsghdr:])
	addAgain(t, k, tunnel)
	if all := others(t, k); len(all) != 1 || all[0] != tunnel {
		t.Fatalf("tunnel: %+v", all)
	}
	found["tunnel"] = tunnel
	check(t, k.Apply(plan.DelRule{Rule: tunnel}))
	if all := others(t, k); len(all) > 0 {
		t.Fatalf("left %v", all)
	}
	different := make(map[plan.Rule]string)
	for name, r := range found {
		if other, there := different[r]; there {
			t.Errorf("%s and %s are the same: %+v", name, other, r)
		}
		different[r] = name
	}
	return found
}

// addAgain adds a rule that the kernel has listed.
func addAgain(t *testing.T, k *Kernel, r plan.Rule) {
	t.Helper()
	check(t, k.route.do(ruleRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE, r), nil))
}

// Of two rules, deleting one never deletes the other, whichever came first, and the other
// one exists at every moment.
func TestDelRuleHitsNoOther(t *testing.T) {
	k := inNetns(t)
	kinds := everyKind(t, k)
	second, err := Open()
	check(t, err)
	defer second.Close()
	for _, deleted := range slices.Sorted(maps.Keys(kinds)) {
		for _, kept := range slices.Sorted(maps.Keys(kinds)) {
			if deleted == kept {
				continue
			}
			for i, order := range [][2]string{{deleted, kept}, {kept, deleted}, {deleted, kept}, {kept, deleted}} {
				addAgain(t, k, kinds[order[0]])
				addAgain(t, k, kinds[order[1]])
				if i > 1 {
					look(t, k) // with its rules delRule may need one request less
				}
				k.route.received = func() {
					if !slices.Contains(others(t, second), kinds[kept]) {
						t.Errorf("%s is missing for a moment while %s is deleted", kept, deleted)
					}
				}
				check(t, k.Apply(plan.DelRule{Rule: kinds[deleted]}))
				k.route.received = nil
				if left := others(t, k); len(left) != 1 || left[0] != kinds[kept] {
					t.Errorf("%v: deleted %s, and there is %+v", order, deleted, left)
				}
				check(t, k.Apply(plan.DelRule{Rule: kinds[kept]}))
				check(t, k.Apply(plan.DelRule{Rule: kinds[kept]}))
				if left := others(t, k); len(left) > 0 {
					t.Fatalf("%v are left", left)
				}
			}
		}
	}
}

// With rules of all kinds at once, each is deleted alone.
func TestDelRuleOfMany(t *testing.T) {
	k := inNetns(t)
	kinds := slices.Collect(maps.Values(everyKind(t, k)))
	slices.SortFunc(kinds, func(a, b plan.Rule) int { return strings.Compare(fmt.Sprint(a, a.Extra), fmt.Sprint(b, b.Extra)) })
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 0))
		rest := slices.Clone(kinds)
		r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		for _, rule := range rest {
			addAgain(t, k, rule)
		}
		r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		for len(rest) > 0 {
			check(t, k.Apply(plan.DelRule{Rule: rest[0]}))
			rest = rest[1:]
			left := others(t, k)
			if len(left) != len(rest) || slices.ContainsFunc(rest, func(r plan.Rule) bool { return !slices.Contains(left, r) }) {
				t.Fatalf("left %v\nwant %v", left, rest)
			}
		}
	}
}

// A rule is added although the kernel takes another one for it, which has the same
// attributes and more. It is not added twice.
func TestAddRuleBesideAnother(t *testing.T) {
	k := inNetns(t)
	kinds := everyKind(t, k)
	for there := range kinds {
		for added := range ownKinds {
			if there == added {
				continue
			}
			addAgain(t, k, kinds[there])
			for range 2 {
				check(t, k.Apply(plan.AddRule{Rule: kinds[added].Rule}))
				if all := others(t, k); len(all) != 2 || all[1] != kinds[added] {
					t.Errorf("there was %s, and %s was added: %v", there, added, all)
				}
			}
			for _, r := range others(t, k) {
				check(t, k.Apply(plan.DelRule{Rule: r}))
			}
		}
	}
}

// A rule reads the same whether or not the interface that it names, or the rule that it
// goes to, exists.
func TestRuleOfWhatIsNotThere(t *testing.T) {
	k := inNetns(t)
	iif := ownRule(func(r *iprule.Rule) { r.IIF, r.OIF = "eth1", "eth1" })
	check(t, k.Apply(plan.AddRule{Rule: iif.Rule}))
	jump := netlink.NewRule()
	jump.Family, jump.Priority, jump.Goto = netlink.FAMILY_V4, 1001, 1002
	check(t, netlink.RuleAdd(jump))
	before := others(t, k)
	addVeth(t, "eth1", mac1)
	target := ownRule(func(r *iprule.Rule) { r.Priority = 1002 })
	check(t, k.Apply(plan.AddRule{Rule: target.Rule}))
	if after := others(t, k); !slices.Equal(after, append(before, target)) {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if before[0] != iif {
		t.Errorf("%+v", before[0])
	}
}

// The same code reads and names IPv6 rules.
func TestRuleOfIPv6(t *testing.T) {
	k := inNetns(t)
	for _, r := range []plan.Rule{
		ownRule(func(r *iprule.Rule) { r.From = netip.MustParsePrefix("2001:db8::20/128") }),
		ownRule(func(r *iprule.Rule) { r.IPv6, r.Mark, r.MarkMask = true, 0x3e9, 0x3fff }),
	} {
		all := func() []plan.Rule {
			rules, err := k.rules(unix.AF_INET6)
			check(t, err)
			return rules
		}
		check(t, k.Apply(plan.AddRule{Rule: r.Rule}))
		if !slices.Contains(all(), r) {
			t.Errorf("no %+v in %+v", r, all())
		}
		check(t, k.Apply(plan.DelRule{Rule: r}))
		if slices.Contains(all(), r) {
			t.Errorf("%+v is left", r)
		}
	}
}

// The largest numbers are read without loss.
func TestRuleOfLargeNumbers(t *testing.T) {
	k := inNetns(t)
	r := ownRule(func(r *iprule.Rule) {
		r.Priority, r.Table, r.Mark, r.MarkMask, r.SuppressGroup = 1<<32-2, 1<<32-1, 1<<32-1, 1<<32-1, 1<<31-1
	})
	check(t, k.Apply(plan.AddRule{Rule: r.Rule}))
	if all, err := k.rules(unix.AF_INET); err != nil || len(all) != 4 || all[3] != r {
		t.Errorf("%v, %v", all, err)
	}
	check(t, k.Apply(plan.DelRule{Rule: r}))
	if all := others(t, k); len(all) > 0 {
		t.Errorf("%v", all)
	}
}

// Reading any message ends, and so does sending it back.
func FuzzMessages(f *testing.F) {
	for _, change := range ownKinds {
		req := ruleRequest(unix.RTM_NEWRULE, 0, ownRule(change))
		f.Add(req.Serialize()[unix.SizeofNlMsghdr:])
	}
	f.Add([]byte{unix.AF_INET, 24, 0, 0, 254, 2, 253, unix.RTN_UNICAST, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 1, 0, 8, 0, 4, 0, 2, 0, 0, 0})
	f.Add([]byte{unix.AF_INET, 24, 0, 0, 2, 0, 0, 0, 8, 0, 1, 0, 10, 0, 1, 20})
	f.Fuzz(func(_ *testing.T, data []byte) {
		for m := range messages(data) {
			_ = m.errno()
		}
		k := &Kernel{IsENI: func(plan.Link) bool { return true }}
		k.link(data)
		addr(data)
		if r, ok := route(data); ok {
			routeRequest(unix.RTM_NEWROUTE, 0, r).Serialize()
			hitsRoute(r, r)
		}
		if r, ok := rule(data); ok {
			ruleRequest(unix.RTM_NEWRULE, 0, r).Serialize()
			hits(r, r)
		}
	})
}
