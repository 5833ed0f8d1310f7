package hooks

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
)

// Actual is what the kernel has, as far as a plan looks at it.
type Actual struct {
	Links  []Link
	Addrs  []Addr
	Rules  []KernelRule
	Routes []Route
}

// Wanted is what one ENI is to have.
type Wanted struct {
	ENI facts.ENI
	// Rules are those of the ENI; none takes them all away. With KeepRules, those
	// that it has besides stay: nobody has said that they should go.
	Rules     []iprule.Rule
	KeepRules bool
	// KeepLive has those stay that are of an address which the interface has and
	// the facts do not: they are old, and IMDS may know better.
	KeepLive bool
	// Fresh says that the facts are IMDS's of now: an address that is new to this
	// ENI is no other's any more.
	Fresh bool
	// Attached is the device that all of this is for. If it has gone meanwhile,
	// or is taken down, nothing is changed. Nil if it does not matter.
	Attached *Link
	// Own are the addresses that were the ENI's at the last time, and so may
	// be taken from the interface; Addrs are those that it has now; nil leaves
	// the addresses alone. Lease is that of the DHCP client, which is its own.
	Own, Addrs []netip.Addr
	Lease      netip.Addr
	// Known are the ENIs of this machine as far as known, the primary too.
	Known Known
}

// plan finds what leads from the actual to the wanted: what is missing before
// what is too much, so that nothing is without a rule in between. Rules and
// addresses of others are not in it.
func plan(actual Actual, want Wanted) []Change {
	changes := planGroups(actual.Links, want.Known)
	changes = append(changes, planAddrs(actual, want)...)
	changes = append(changes, planTable(actual, want)...)
	changes = append(changes, planRoutes(actual, want.Known)...)
	return append(changes, planRules(actual, want)...)
}

// stillThere says what has become of the device while IMDS or a lock was waited for.
func (w Wanted) stillThere(links []Link) error {
	if w.Attached == nil {
		return nil
	}
	switch now, ok := linkNamed(links, w.Attached.Name); {
	case !ok:
		return &GoneError{w.Attached.Name}
	case now.MAC != w.Attached.MAC:
		return errReplaced
	case w.Attached.Up && !now.Up:
		return errTakenDown
	}
	return nil
}

func planGroups(links []Link, known Known) []Change {
	var changes []Change
	for _, l := range known.members(links) {
		if l.Group == 0 {
			changes = append(changes, setGroup{l, known.Base})
		}
	}
	return changes
}

func planAddrs(actual Actual, want Wanted) []Change {
	if want.Addrs == nil {
		return nil
	}
	link, ok := linkNamed(actual.Links, want.ENI.Name)
	if !ok {
		return nil
	}
	var there []Addr
	for _, a := range actual.Addrs {
		if a.LinkIndex == link.Index {
			there = append(there, a)
		}
	}
	var add, del []Change
	for _, a := range want.Addrs {
		if a != want.Lease && !slices.ContainsFunc(there, func(t Addr) bool { return t.Prefix.Addr() == a }) {
			// /32: the address does not hang on the leased one, as one of the
			// same network would, and brings no route of its own.
			add = append(add, changeAddr{link, netip.PrefixFrom(a, 32), true})
		}
	}
	for _, t := range there {
		a := t.Prefix.Addr()
		if a != want.Lease && slices.Contains(want.Own, a) && !slices.Contains(want.Addrs, a) {
			del = append(del, changeAddr{link, t.Prefix, false})
		}
	}
	return append(add, del...)
}

// planTable wants the two routes of the ENI's own table that the stanza makes:
// the kernel drops them with the interface's last address, and a lease that
// comes back does not have ifup make them again. A route that is there already,
// perhaps an administrator's, is left as it is.
func planTable(actual Actual, want Wanted) []Change {
	link, ok := linkNamed(actual.Links, want.ENI.Name)
	if want.ENI.Primary {
		return planPrimaryTable(actual, want, link)
	}
	if !ok || !link.Up || len(want.Rules) == 0 || !want.ENI.HasIPv4() {
		return nil
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	var changes []Change
	for _, dst := range []netip.Prefix{want.ENI.Subnet, everywhere} {
		if slices.ContainsFunc(actual.Routes, func(r Route) bool { return r.Table == want.ENI.Table() && r.Dst == dst }) {
			continue
		}
		raw := netlink.Route{LinkIndex: link.Index, Dst: toIPNet(dst), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_BOOT}
		if dst == everywhere {
			raw.Scope, raw.Gw = netlink.SCOPE_UNIVERSE, want.ENI.Gateway.AsSlice()
		}
		changes = append(changes, changeRoute{link: link, route: Route{Dst: dst, raw: raw}, table: want.ENI.Table(), add: true})
	}
	return changes
}

// planPrimaryTable makes the primary's own table have the routes that main has
// through the primary, an administrator's among them, and no others through it.
// Without rules there is no such table.
func planPrimaryTable(actual Actual, want Wanted, link Link) []Change {
	type key struct {
		dst    netip.Prefix
		gw     string
		metric int
	}
	of := func(r Route) key { return key{r.Dst, r.raw.Gw.String(), r.Metric} }
	wanted, there := make(map[key]bool), make(map[key]bool)
	for _, r := range actual.Routes {
		if r.LinkIndex == link.Index && r.Table == want.ENI.Table() {
			there[of(r)] = true
		}
	}
	var add, del []Change
	for _, r := range actual.Routes {
		if r.LinkIndex == link.Index && r.Table == unix.RT_TABLE_MAIN && len(want.Rules) > 0 {
			wanted[of(r)] = true
			if !there[of(r)] {
				add = append(add, changeRoute{link: link, route: r, metric: r.Metric, table: want.ENI.Table(), add: true})
			}
		}
	}
	for _, r := range actual.Routes {
		if r.LinkIndex == link.Index && r.Table == want.ENI.Table() && !wanted[of(r)] {
			del = append(del, changeRoute{link: link, route: r, metric: r.Metric, table: want.ENI.Table()})
		}
	}
	return append(add, del...)
}

// planRoutes puts routes of the other ENIs behind those that the primary has to
// the same place: the kernel's own to a subnet, and those of the DHCP client. On
// one subnet both have the kernel's route with metric 0, of which the older one
// wins, so that the order turns when the primary's lease is bound anew; and
// dhcpcd gives the primary a metric of its own choice, perhaps above that of
// the stanza. An administrator's routes stay as they are.
func planRoutes(actual Actual, known Known) []Change {
	var changes []Change
	best := make(map[netip.Prefix]int) // the primary's metric
	links := known.links(actual.Links)
	for _, l := range links {
		for _, r := range actual.Routes {
			if r.Table != unix.RT_TABLE_MAIN || l.MAC != known.Primary || r.LinkIndex != l.Index {
				continue
			}
			if m, ok := best[r.Dst]; !ok || r.Metric < m {
				best[r.Dst] = r.Metric
			}
		}
	}
	for _, l := range links {
		number, ours := known.number(l)
		if !ours || l.MAC == known.Primary { // the primary may have the name of one that was
			continue
		}
		for _, r := range actual.Routes {
			first, shared := best[r.Dst]
			if r.Table != unix.RT_TABLE_MAIN || r.LinkIndex != l.Index || !shared || r.Metric > first {
				continue
			}
			if by := r.raw.Protocol; by != unix.RTPROT_KERNEL && by != unix.RTPROT_DHCP && r.Metric != number {
				continue
			}
			behind := number
			if behind <= first {
				behind = first + number - known.Base
			}
			changes = append(changes,
				changeRoute{link: l, route: r, metric: behind, add: true}, changeRoute{link: l, route: r, metric: r.Metric})
		}
	}
	return changes
}

func planRules(actual Actual, want Wanted) []Change {
	var add, del []Change
	var there []iprule.Rule
	others := false
	group := groupRule(want.Known.Base)
	hasGroup := false
	number := want.ENI.Priority()
	live := want.KeepLive && len(want.Rules) > 0 // else it is to have none, whatever IMDS says
	for _, k := range actual.Rules {
		switch {
		case k.Priority == number && k.Table == number:
			switch {
			case !k.Odd && slices.Contains(want.Rules, k.Rule) && !slices.Contains(there, k.Rule):
				there = append(there, k.Rule)
			case !want.KeepRules && !(live && isLive(k, actual, want.ENI.Name) && !hasRuleFrom(want.Rules, k.From.Addr())):
				del = append(del, deleteRule{k})
			}
		case want.Fresh && ofOther(k, want):
			del = append(del, deleteRule{k})
			others = true
		case k.Priority == k.Table && k.Protocol == iprule.Protocol:
			others = true // of another ENI's, under whichever name
		case isGroupRule(k, want.Known.Base):
			if k.Rule == group && !hasGroup {
				hasGroup = true
			} else {
				del = append(del, deleteRule{k})
			}
		}
	}
	for _, r := range want.Rules {
		if !slices.Contains(there, r) {
			add = append(add, addRule{r})
		}
	}
	switch {
	case len(want.Rules) > 0 && !hasGroup && groupComplete(actual, want.Known):
		// Before the ENI's own rules, which it goes together with.
		add = append([]Change{addRule{group}}, add...)
	case len(want.Rules) == 0 && hasGroup && !others:
		for _, k := range actual.Rules {
			if k.Rule == group {
				del = append(del, deleteRule{k})
				break
			}
		}
	}
	return append(add, del...)
}

// isLive says whether a rule of ours is for one address, which the interface has.
func isLive(k KernelRule, actual Actual, name string) bool {
	if k.Odd || k.Protocol != iprule.Protocol || !k.From.IsSingleIP() {
		return false
	}
	link, ok := linkNamed(actual.Links, name)
	return ok && slices.ContainsFunc(actual.Addrs, func(a Addr) bool {
		return a.LinkIndex == link.Index && a.Prefix.Addr() == k.From.Addr()
	})
}

// ofOther says whether a rule leads an address that is new to the wanted ENI by the
// table of another: EC2 has moved the address. One that it had may have been moved
// to the other, and IMDS not have got that far.
func ofOther(k KernelRule, want Wanted) bool {
	return !k.Odd && k.Priority == k.Table && k.Protocol == iprule.Protocol &&
		k.From.IsSingleIP() && slices.Contains(want.ENI.IPv4, k.From.Addr()) && !slices.Contains(want.Own, k.From.Addr()) &&
		slices.ContainsFunc(want.Known.Others, func(e facts.ENI) bool { return e.Table() == k.Table && e.MAC != want.ENI.MAC })
}

// groupRule takes main's answer when it leads to anything that is not an ENI
// (docker0, a VPN), and leaves the rest to the rules of the ENIs: it drops what
// leads to a member of the group, and default routes, also one in two halves.
func groupRule(base int) iprule.Rule {
	return iprule.Rule{Priority: base - 1, Table: unix.RT_TABLE_MAIN, Protocol: iprule.Protocol,
		SuppressPrefixLength: 1, SuppressGroup: base}
}

// isGroupRule says whether a rule is the group rule, perhaps in another shape.
func isGroupRule(k KernelRule, base int) bool {
	return k.Priority == base-1 && k.Table == unix.RT_TABLE_MAIN && k.SuppressGroup == base
}

// groupComplete says whether every ENI is in the group, or will be by the same
// plan. Without the primary the group rule would lead answers out by it.
func groupComplete(actual Actual, known Known) bool {
	return len(known.foreign(actual)) == 0 &&
		slices.ContainsFunc(known.links(actual.Links), func(l Link) bool { return l.MAC == known.Primary })
}
