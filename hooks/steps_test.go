package hooks

// The steps of a random sequence: what people, EC2, the kernel and other programs do.

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ec2net/facts"
	"ec2net/hooks/mangle"
	"ec2net/iprule"
	"ec2net/kernel"
	"ec2net/plan"
)

// meddle is what other programs do to an ENI.
func (s *sequence) meddle(name string) {
	state := s.state(s.t)
	l, _ := state.LinkNamed(name)
	switch s.rng.IntN(3) {
	case 0:
		s.note("another program flushes table %d", s.numbers[name])
		for _, r := range state.Routes {
			if r.Table == s.numbers[name] && r.Link == l.Index {
				check(s.t, s.kernel.Apply(plan.DelRoute{Link: l, Route: r}))
			}
		}
	case 1:
		s.note("another program flushes the rules")
		for _, r := range state.Rules {
			if r.Protocol == iprule.Protocol {
				check(s.t, s.kernel.Apply(plan.DelRule{Rule: r}))
			}
		}
		clear(s.holds)
	case 2:
		group := []int{0, 7}[s.rng.IntN(2)]
		s.note("another program puts %s into group %d", name, group)
		s.ungrouped = s.ungrouped || group == 0
		check(s.t, s.kernel.Apply(plan.SetGroup{Link: l, Group: group}))
	}
}

func (s *sequence) plug(name string, mac facts.MAC, ips []netip.Addr) {
	s.world.plug(s.t, name, mac, ips)
	s.numbers[name] = numberOf(name, mac)
}

// newENI makes an ENI that can be attached under a name; the MAC is zero if none can.
func (s *sequence) newENI(name string) (facts.MAC, []netip.Addr) {
	i := byte(1 + s.rng.IntN(4))
	mac := facts.MAC{2, 0, 0, 0, 1, i}
	if _, there := s.nameOf(mac); there || s.taken(name, mac) {
		return facts.MAC{}, nil
	}
	subnet := 1 + i%2
	first := 10*i + byte(4*s.rng.IntN(2))
	ips := []netip.Addr{netip.AddrFrom4([4]byte{10, 0, subnet, first})}
	maps.DeleteFunc(s.lagging, func(_ netip.Addr, of facts.MAC) bool { return of == mac })
	for n := range s.rng.IntN(3) {
		if a := netip.AddrFrom4([4]byte{10, 0, subnet, first + 1 + byte(n)}); s.free(a) {
			ips = append(ips, a)
		}
	}
	return mac, ips
}

// changeAddresses gives an ENI another number of secondary addresses, as EC2 does.
func (s *sequence) changeAddresses(name string) {
	mac := s.attached[name]
	maps.DeleteFunc(s.lagging, func(_ netip.Addr, of facts.MAC) bool { return of == mac })
	s.says(mac, func(e *facts.ENI) { e.IPv4 = e.IPv4[:1] })
	first := s.vpc.enis[mac].IPv4[0].As4()
	for n := range s.rng.IntN(4) {
		if a := netip.AddrFrom4([4]byte{first[0], first[1], first[2], first[3] + 1 + byte(n)}); s.free(a) {
			s.says(mac, func(e *facts.ENI) { e.IPv4 = append(e.IPv4, a) })
		}
	}
	s.happened.changes.Add(1)
	s.note("IMDS has %v for %s", s.vpc.enis[mac].IPv4, name)
	s.soon(name)
}

// soon tells ec2net of a change at once, or leaves it to a later step, at which IMDS may
// not answer.
func (s *sequence) soon(name string) {
	if _, up := s.up[name]; up && s.rng.IntN(2) == 0 {
		s.leaseEvent(name, "RENEW")
		if _, still := s.up[name]; still && s.rng.IntN(4) == 0 {
			s.vpc.err, *s.strike = errSilent, strike{}
			s.note("IMDS: %v", s.vpc.err)
			s.leaseEvent(name, "RENEW")
		}
	}
}

func (s *sequence) shuffled() []string {
	all := slices.Sorted(maps.Keys(s.attached))
	s.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// rename gives an interface another name, and calls ec2net, as an administrator does.
func (s *sequence) rename(name string) {
	other := names[s.rng.IntN(len(names))]
	if _, there := s.attached[other]; there || s.taken(other, s.attached[name]) {
		return
	}
	early := s.rng.IntN(2) == 0 // the remove comes first
	s.note("%s is now %s; remove first: %t", name, other, early)
	delete(s.holds, name)
	for _, a := range s.addrsNow(s.t, name) { // they belong to no interface under the new name
		s.slack = append(s.slack, strings.TrimSuffix(a, "/32"))
	}
	s.world.rename(s.t, name, other)
	s.numbers[other] = numberOf(other, s.attached[other])
	if early {
		s.remove(name)
	}
	s.add(other)
	if !early {
		s.remove(name)
	}
}

func (s *sequence) add(name string) {
	s.happened.plugs.Add(1)
	if _, there := s.attached[name]; !there {
		var gone *kernel.GoneError
		if err := survive(func() error { return s.Add(s.t.Context(), name) }); !errors.As(err, &gone) && s.strike.hit == "" {
			s.fail("no device: %v", err)
		}
		return
	}
	before := s.kernelRules(s.t)
	lease, was := s.up[name]
	s.later = nil
	if !s.ran1(name, func() error { return s.Add(s.t.Context(), name) }) || !s.askedLater() {
		if was {
			s.kept(name, lease, before)
		}
		if s.networkd != nil && !s.up[name].IsValid() {
			delete(s.holds, name) // networkd had brought it up, and hotplug has taken it down
		}
		if s.said == nil { // the hook was struck, and Add made the rule in its place
			s.answer(name)
		}
		return
	}
	s.told(name)
	s.whole(name)
	s.alone()
	s.marked()
}

// keepMarks makes the marks, as watch does when a machine begins or ceases to forward packets.
func (s *sequence) keepMarks() {
	if s.ran1("marks", func() error { return s.KeepMarks(s.t.Context(), "") }) {
		s.marked()
	}
}

func (s *sequence) remove(name string) {
	s.happened.unplugs.Add(1)
	hadDevice := s.up[name].IsValid()
	if !s.ran1(name, func() error { return s.RemoveIfGone(s.t.Context(), name) }) {
		return
	}
	if _, there := s.attached[name]; there && hadDevice {
		return // a late event
	}
	if _, there := s.attached[name]; !there {
		s.none(name)
		if lines := s.firewall.text(mangle.NFT); slices.Contains(lines, "-N ec2net-"+name) {
			s.fail("%s is gone, and has marks:\n%s", name, strings.Join(lines, "\n"))
		}
	}
}

func (s *sequence) down(name string) {
	delete(s.holds, name)
	s.happened.unplugs.Add(1)
	before, _, err := s.linkOf(name)
	check(s.t, err)
	if s.ran1(name, func() error {
		err := s.Down(s.t.Context(), name)
		if never := new(UnmanagedError); errors.As(err, &never) { // nothing was to be taken down
			return nil
		}
		return err
	}) {
		s.none(name)
		if left := s.addrsNow(s.t, name); before.Up && len(left) > 0 {
			s.fail("%s is down, and has %q", name, left)
		}
	}
}

func (s *sequence) leaseEvent(name, reason string) {
	s.happened.leases.Add(1)
	s.note("%s of %s", reason, name)
	before, lease := s.kernelRules(s.t), s.up[name]
	live := s.addrsNow(s.t, name)
	well := s.ran1(name, func() error { return s.renewed(s.t, name, reason) })
	if leaseEvents[reason] == leaseEnds {
		delete(s.holds, name)
		if well {
			s.none(name)
		}
		return
	}
	s.never(name, before)
	if s.vpc.err != nil {
		s.silent(name, live, before)
	}
	if !well {
		s.kept(name, lease, before)
		return
	}
	s.told(name)
	s.whole(name)
	s.alone()
}

// askedLater asks IMDS in the background, if ec2net has begun that. It reports whether ec2net
// knows of all ENIs what IMDS says now.
func (s *sequence) askedLater() bool {
	asked := s.later
	s.later = nil
	for _, name := range asked {
		if !s.ran1(name, func() error { return s.Refresh(s.t.Context(), name) }) && s.vpc.err == nil {
			return false
		}
	}
	return true
}

// networkdActs is what systemd-networkd does to an ENI, or misses, between leases.
func (s *sequence) networkdActs(name string) {
	l, _, err := s.linkOf(name)
	check(s.t, err)
	acts := []struct {
		what string
		do   func() error
	}{
		{"gets another lease for", func() error { return errors.Join(s.networkd.lose(l), s.networkd.lease(l)) }},
		{"configures anew", func() error { return s.networkd.configure(l) }},
		{"starts again, and has", func() error { return s.networkd.restart() }},
		{"gives up", func() error { return s.networkd.giveUp(l) }},
		{"does not see that a person has flushed", func() error { return s.takeAll(name) }},
	}
	i := s.rng.IntN(len(acts))
	if n, err := s.memory().note(notePath(name)); err != nil || !n.Of(l) {
		i = min(i, 3) // hotplug would wait for a lease, and succeed at the second try
	}
	s.note("systemd-networkd %s %s", acts[i].what, name)
	if well := s.ran1(name, acts[i].do); !well || i > 2 {
		delete(s.holds, name) // for a moment there was no lease
	}
	if i > 2 {
		delete(s.up, name)
	}
}

// replayed does what ec2net asked udev to do.
func (s *sequence) replayed() {
	asked, gone := s.added, s.gone
	s.added, s.gone = nil, nil
	for _, name := range gone {
		s.remove(name)
	}
	for _, name := range asked {
		if name != "eth0" {
			s.add(name)
		}
	}
}
