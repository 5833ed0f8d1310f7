package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
)

// maxRounds is how often the changes are made before they have to be enough: what is
// taken away is looked at again.
const maxRounds = 4

// holds makes the changes on the machine's state, and checks what holds whatever the
// machine: the second plan is empty, nothing of others is touched, and a leased
// address keeps its rule all the time. It gives the first changes.
func (m *machine) holds(t *testing.T) []plan.Change {
	t.Helper()
	verdicts, want := m.want()
	first := plan.Diff(m.State, want)
	before := m.State
	after := *m
	after.State = clone(m.State)
	changes := first
	for round := 1; ; round++ {
		removes := false
		for _, c := range changes {
			if err := apply(&after.State, c); err != nil {
				t.Errorf("%s: %v", text(c), err)
			}
			for _, v := range verdicts {
				if r, leased := ruleOfLease(v); leased && has(before, r) && !has(after.State, r) && !m.templated(v) {
					t.Errorf("after %s the leased address of %s lacks its rule", text(c), v.Name)
				}
			}
			removes = removes || c.Removes()
		}
		if _, want := after.want(); true {
			changes = plan.Diff(after.State, want)
		}
		if !removes || round == maxRounds {
			break
		}
	}
	for _, c := range changes {
		t.Errorf("in the second plan: %s", text(c))
	}
	for _, lost := range m.lost(after.State) {
		t.Errorf("%s: was not ec2net's to take", lost)
	}
	for _, v := range verdicts {
		if r, leased := ruleOfLease(v); leased && len(m.rules(verdicts)(v.Name)) > 0 && !has(after.State, r) && !m.templated(v) {
			t.Errorf("the leased address of %s has no rule", v.Name)
		}
	}
	return first
}

// ruleOfLease is the plain rule of the address that an ENI has by DHCP.
func ruleOfLease(v plan.Verdict) (plan.Rule, bool) {
	return plan.Rule{Rule: iprule.Rule{Priority: v.Facts.Number, From: netip.PrefixFrom(v.Lease, v.Lease.BitLen()), Table: v.Facts.Number,
		Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}}, v.Do == plan.Serve && v.Lease.IsValid() && v.Facts.Routed
}

// templated reports whether a template has rules for the leased address in a shape of
// its own.
func (m *machine) templated(v plan.Verdict) bool {
	return slices.ContainsFunc(m.templates[v.Name], func(r iprule.Rule) bool { return r.From.Addr() == v.Lease })
}

func has(s plan.State, r plan.Rule) bool { return slices.Contains(s.Rules, r) }

func clone(s plan.State) plan.State {
	return plan.State{Links: slices.Clone(s.Links), Addrs: slices.Clone(s.Addrs), Rules: slices.Clone(s.Rules), Routes: slices.Clone(s.Routes)}
}

// apply makes a change as the kernel does. What is there already, or gone already,
// is no error.
func apply(s *plan.State, c plan.Change) error {
	switch c := c.(type) {
	case plan.AddRule:
		s.Rules = add(s.Rules, plan.Rule{Rule: c.Rule})
	case plan.DelRule:
		return del(&s.Rules, c.Rule)
	case plan.AddAddr:
		s.Addrs = add(s.Addrs, plan.Addr{Link: c.Link.Index, Prefix: c.Addr})
	case plan.DelAddr:
		return del(&s.Addrs, plan.Addr{Link: c.Link.Index, Prefix: c.Addr})
	case plan.SetGroup:
		i := slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Index == c.Link.Index })
		s.Links[i].Group = c.Group
	case plan.AddRoute:
		if l, ok := s.LinkAt(c.Route.Link); !ok || !l.Up {
			return fmt.Errorf("the interface is not up")
		}
		taken := func(r plan.Route) bool {
			return r.Table == c.Route.Table && r.Dst == c.Route.Dst && r.Metric == c.Route.Metric
		}
		if !slices.ContainsFunc(s.Routes, taken) {
			s.Routes = append(s.Routes, c.Route)
		}
	case plan.DelRoute:
		return del(&s.Routes, c.Route)
	case plan.MoveRoute:
		to := c.Route
		to.Metric = c.Metric
		s.Routes = add(s.Routes, to)
		return del(&s.Routes, c.Route)
	default:
		return fmt.Errorf("%T is no change of the kernel's state", c)
	}
	return nil
}

func add[T comparable](all []T, one T) []T {
	if slices.Contains(all, one) {
		return all
	}
	return append(all, one)
}

func del[T comparable](all *[]T, one T) error {
	i := slices.Index(*all, one)
	if i < 0 {
		return fmt.Errorf("there is none")
	}
	*all = slices.Delete(*all, i, i+1)
	return nil
}

// lost are the rules, addresses and routes that are gone and were not ec2net's, by
// what ARCHITECTURE.md says: a rule is if its priority and table are those of an
// ENI; an address if IMDS has given it; a route if it is in the primary's own table
// by the primary, in an ENI's table to docker's bridge, or in main by an ENI other
// than the primary and there again with another metric.
func (m *machine) lost(now plan.State) (lost []string) {
	for _, r := range m.State.Rules {
		group := r.Priority == m.Numbers.Base-1 && r.Table == iprule.MainTable && r.SuppressGroup == m.Numbers.Base
		if !group && !(r.Priority == r.Table && m.isNumber(r.Table)) && !has(now, r) {
			lost = append(lost, "rule "+r.String())
		}
	}
	for _, a := range m.State.Addrs {
		if !slices.Contains(now.Addrs, a) && !m.given(a) {
			lost = append(lost, "address "+a.Prefix.String())
		}
	}
	for _, r := range m.State.Routes {
		if !slices.Contains(now.Routes, r) && !m.ownRoute(r, now) {
			lost = append(lost, fmt.Sprintf("route %+v", r))
		}
	}
	return lost
}

func (m *machine) isNumber(n int) bool {
	return slices.ContainsFunc(m.Known, func(k plan.Known) bool {
		e, err := facts.Bare(k.Name, facts.MAC{}, m.Numbers)
		return k.Left == "" && (k.Facts.Number == n || k.Note.Number == n || err == nil && e.Number == n)
	})
}

// given reports whether IMDS has given an address to the ENI that has it.
func (m *machine) given(a plan.Addr) bool {
	l, _ := m.State.LinkAt(a.Link)
	k, _ := m.Of(l.Name)
	return k.Left == "" && k.Facts.MAC == l.MAC && (slices.Contains(k.Facts.IPv4, a.Prefix.Addr()) || slices.Contains(k.Had, a.Prefix.Addr()))
}

func (m *machine) ownRoute(r plan.Route, now plan.State) bool {
	l, _ := m.State.LinkAt(r.Link)
	switch {
	case r.Table != iprule.MainTable:
		return m.isNumber(r.Table) && (l.Name == plan.Bridge && !r.Gateway.IsValid() || l.MAC == m.Primary())
	case l.MAC == m.Primary():
		return false
	}
	return slices.ContainsFunc(now.Routes, func(o plan.Route) bool {
		moved := o.Metric > r.Metric
		o.Metric = r.Metric
		return moved && o == r
	})
}
