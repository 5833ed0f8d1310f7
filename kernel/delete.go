package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// delRule deletes this rule and no other. RTM_DELRULE deletes the first rule that has
// every attribute in the request, and a request cannot say that an attribute is absent:
// "from all lookup 1001" also matches "from 10.0.1.20 lookup 1001". So delRule first
// adds a copy of each earlier rule that the request would hit behind this one, and then
// deletes as often as there are hits: no other rule is ever missing. It skips all that,
// and the list of rules, if the last look shows that the request hits no other rule.
func (k *Kernel) delRule(c plan.DelRule) error {
	r := c.Rule
	if k.unmistakable(r) {
		return k.change(c, ruleRequest(unix.RTM_DELRULE, 0, r))
	}
	rules, err := k.rules(familyOfRule(r))
	if err != nil {
		return err
	}
	at := slices.Index(rules, r)
	if at < 0 {
		return nil
	}
	requests := 1
	for _, o := range rules[:at] {
		if !hits(r, o) {
			continue
		}
		if err := k.change(plan.AddRule{ENI: c.ENI, Rule: o.Rule}, ruleRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE, o)); err != nil {
			return fmt.Errorf("cannot keep the rule %v while deleting another one: %w", o, err)
		}
		requests++
	}
	for range requests {
		if err := k.change(c, ruleRequest(unix.RTM_DELRULE, 0, r)); err != nil {
			return err
		}
	}
	return nil
}

// unmistakable reports whether the last look saw this rule, nobody has deleted it through
// k since, and a request to delete it would hit no other rule of that look.
func (k *Kernel) unmistakable(r plan.Rule) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := slices.Index(k.looked, r)
	if at < 0 || slices.ContainsFunc(k.looked, func(o plan.Rule) bool { return o != r && hits(r, o) }) {
		return false
	}
	k.looked = slices.Delete(k.looked, at, at+1)
	return true
}

// hits reports whether a request to delete the rule named would match the rule has:
// rule_find of net/core/fib_rules.c.
func hits(named, has plan.Rule) bool {
	switch {
	case familyOfRule(has) != familyOfRule(named),
		has.Priority != named.Priority,
		named.Table != 0 && has.Table != named.Table,
		named.From.IsValid() && has.From != named.From,
		named.To.IsValid() && has.To != named.To,
		named.Mark != 0 && has.Mark != named.Mark,
		named.MarkMask != 0 && has.MarkMask != named.MarkMask,
		named.IIF != "" && has.IIF != named.IIF,
		named.OIF != "" && has.OIF != named.OIF,
		named.Protocol != 0 && has.Protocol != named.Protocol,
		named.SuppressPrefixLength >= 0 && has.SuppressPrefixLength != named.SuppressPrefixLength,
		named.SuppressGroup >= 0 && has.SuppressGroup != named.SuppressGroup:
		return false
	}
	return hitsExtra(extraOf(named), extraOf(has))
}

// hitsExtra compares the attributes that iprule has no words for. The kernel does not
// compare the flags of two rules, nor the target of a goto.
func hitsExtra(named, has []byte) bool {
	tos, action := named[0], named[1]
	if tos != 0 && has[0] != tos || has[1] != action {
		return false
	}
	for attr, value := range attributes(named[sizeofExtraHeader:]) {
		same := attr == unix.FRA_GOTO
		for other, o := range attributes(has[sizeofExtraHeader:]) {
			same = same || attr == other && string(value) == string(o)
		}
		if !same {
			return false
		}
	}
	return true
}

// delRoute deletes this route and no other, or refuses: RTM_DELROUTE deletes the first
// route to a destination that has every attribute in the request, and a request cannot
// ask for a metric of 0, or for no gateway, preferred source or MTU. An ENI's table may have
// thousands of routes: if the last look shows that the request hits no other route, delRoute
// does not list them again.
func (k *Kernel) delRoute(c plan.DelRoute) error {
	if k.unmistakableRoute(c.Route) {
		err := k.change(c, routeRequest(unix.RTM_DELROUTE, 0, c.Route))
		if errors.Is(err, unix.ESRCH) {
			return nil // somebody else was quicker
		}
		return err
	}
	there, err := k.canName(c.Route)
	if err != nil || !there {
		return err
	}
	return k.change(c, routeRequest(unix.RTM_DELROUTE, 0, c.Route))
}

// seenRoutes are the routes of the last look, without those deleted since, and the hops of
// routes with several.
type seenRoutes struct {
	all, hops []plan.Route              // nil once they are sorted
	by, hopBy map[routeKey][]plan.Route // sorted, without main's; nil until a route is deleted
}

// routeKey is what a request to delete a route always names.
type routeKey struct {
	table, link, tos int
	dst              netip.Prefix
}

func keyOf(r plan.Route) routeKey { return routeKey{r.Table, r.Link, r.TOS, r.Dst} }

// byKey sorts the routes outside of main by their keys.
func byKey(routes []plan.Route) map[routeKey][]plan.Route {
	by := make(map[routeKey][]plan.Route)
	for _, r := range routes {
		if r.Table != unix.RT_TABLE_MAIN {
			by[keyOf(r)] = append(by[keyOf(r)], r)
		}
	}
	return by
}

// unmistakableRoute reports whether, by the last look, a request to delete a route hits that
// route alone. It is false for every route of main. It counts the route as deleted.
func (k *Kernel) unmistakableRoute(r plan.Route) bool {
	if r.Table == unix.RT_TABLE_MAIN {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen.by == nil {
		k.seen.by, k.seen.hopBy = byKey(k.seen.all), byKey(k.seen.hops)
		k.seen.all, k.seen.hops = nil, nil
	}
	alike := k.seen.by[keyOf(r)]
	at := slices.Index(alike, r)
	if at < 0 || slices.ContainsFunc(alike, func(o plan.Route) bool { return o != r && hitsRoute(r, o) }) ||
		slices.ContainsFunc(k.seen.hopBy[keyOf(r)], func(o plan.Route) bool { return hitsRoute(r, o) }) {
		return false
	}
	k.seen.by[keyOf(r)] = slices.Delete(alike, at, at+1)
	return true
}

// moveRoute gives a route another metric. If another interface has a route to the same
// destination with that metric, the moved one goes behind it.
func (k *Kernel) moveRoute(c plan.MoveRoute) error {
	there, err := k.canName(c.Route)
	if err != nil || !there {
		return err // if the route is gone there is nothing to move
	}
	to := c.Route
	to.Metric = c.Metric
	err = k.change(c, routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, to))
	if err != nil {
		return err
	}
	err = k.change(c, routeRequest(unix.RTM_DELROUTE, 0, c.Route))
	if errors.Is(err, unix.ESRCH) {
		return nil // somebody else was quicker
	}
	return err
}

// canName reports whether a route exists. It fails if a request to delete the route
// would hit another one.
func (k *Kernel) canName(r plan.Route) (bool, error) {
	alike, _, err := list(k, "routes", func(each func(listed)) error {
		return k.dumpRoutes(familyOf(r.Dst.Addr()), r.Table, r.Link, func(o listed) {
			if o.Route == r || hitsRoute(r, o.Route) {
				each(o)
			}
		})
	})
	if err != nil {
		return false, err
	}
	at := slices.Index(alike, listed{Route: r})
	if at > 0 {
		first := alike[0]
		return false, fmt.Errorf("the kernel cannot tell this route from another one to %v with metric %d", first.Dst, first.Metric)
	}
	return at == 0, nil
}

// hitsRoute reports whether a request to delete the route named would match the route
// has, of the same table and interface: fib_table_delete of net/ipv4/fib_trie.c.
func hitsRoute(named, has plan.Route) bool {
	return has.Kind == named.Kind && has.Dst == named.Dst && has.TOS == named.TOS && has.Scope == named.Scope &&
		(named.Protocol == 0 || has.Protocol == named.Protocol) &&
		(named.Metric == 0 || has.Metric == named.Metric) &&
		(!named.Gateway.IsValid() || has.Gateway == named.Gateway) &&
		(!named.Source.IsValid() || has.Source == named.Source) &&
		hasAll([]byte(has.Extra), []byte(named.Extra))
}

// hasAll reports whether a route has all named attributes: fib_nh_match and
// fib_metrics_match of net/ipv4/fib_semantics.c.
func hasAll(has, named []byte) bool {
	for attr, value := range attributes(named) {
		same := false
		for other, o := range attributes(has) {
			same = same || attr == other && (string(value) == string(o) || attr == unix.RTA_METRICS && hasAll(o, value))
		}
		if !same {
			return false
		}
	}
	return true
}
