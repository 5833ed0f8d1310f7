package hooks

import (
	"net/netip"
	"slices"

	"ec2net/facts"
)

// EC2 moves an address from one attached ENI to another; the answers of IMDS about the
// first may lag behind. This is how a sequence does that, and how its model knows whose the
// address is.

// moves is what the model knows of addresses that move.
type moves struct {
	// lagging has, by address, the ENI that has lost it, but for which IMDS still lists it.
	lagging map[netip.Addr]facts.MAC
	// claims has, by address, the ENI that got it last, as far as IMDS has told ec2net.
	// That ENI is the owner as long as ec2net knows the address of another ENI too.
	claims map[netip.Addr]claim
	// begun says that an address has moved.
	begun bool
}

// claim is an ENI that has got an address; not sure if ec2net may have missed it.
type claim struct {
	mac  facts.MAC
	sure bool
}

// move moves a secondary address of an ENI to another one of its subnet, or lets IMDS
// catch up.
func (s *sequence) move(name string) {
	if len(s.lagging) > 0 && s.rng.IntN(2) == 0 {
		s.note("IMDS has caught up")
		s.catchUp()
		return
	}
	from := s.vpc.enis[s.attached[name]]
	for _, other := range s.shuffled() {
		to := s.vpc.enis[s.attached[other]]
		if other == name || to.Subnet != from.Subnet || len(from.IPv4) < 2 {
			continue
		}
		a := from.IPv4[1+s.rng.IntN(len(from.IPv4)-1)]
		if _, late := s.lagging[a]; late {
			return // then nobody could tell whose the address is
		}
		late := s.rng.IntN(2) == 0
		s.note("%v moves from %s to %s; IMDS lags: %t", a, name, other, late)
		s.happened.moves.Add(1)
		s.says(to.MAC, func(e *facts.ENI) { e.IPv4 = append(e.IPv4, a) })
		s.lagging[a], s.begun = from.MAC, true
		if !late {
			s.caughtUp(a)
		}
		s.soon(other)
		return
	}
}

func (s *sequence) catchUp() {
	for a := range s.lagging {
		s.caughtUp(a)
	}
}

func (s *sequence) caughtUp(a netip.Addr) {
	if mac := s.lagging[a]; s.vpc.enis[mac].IPv4 != nil {
		s.says(mac, func(e *facts.ENI) { e.IPv4 = slices.DeleteFunc(e.IPv4, func(o netip.Addr) bool { return o == a }) })
	}
	delete(s.lagging, a)
}

// free reports whether no ENI has an address, by IMDS or in truth.
func (s *sequence) free(a netip.Addr) bool {
	for _, e := range s.vpc.enis {
		if slices.Contains(e.IPv4, a) {
			return false
		}
	}
	return true
}

// onDisk returns the facts of ENIs that ec2net has on disk.
func (s *sequence) onDisk() (all []facts.ENI) {
	for _, name := range append(names, "eth0") {
		if k, err := s.memory().facts(name); err == nil && k.Name != "" {
			all = append(all, k.ENI)
		}
	}
	return all
}

// known returns the facts that ec2net may know: those on disk, and the last answers of IMDS
// under each name, whether ec2net wrote them or not.
func (s *sequence) known() []facts.ENI {
	all := s.onDisk()
	for _, name := range names {
		all = append(all, s.seen[name]...)
	}
	return all
}

// contested returns the addresses that ec2net may know of ENIs other than this one.
func (s *sequence) contested(mac facts.MAC) []netip.Addr {
	var addrs []netip.Addr
	for _, e := range s.known() {
		if e.MAC != mac {
			addrs = append(addrs, e.IPv4...)
		}
	}
	return addrs
}

// another reports whether an address surely belongs to an ENI other than this one.
func (s *sequence) another(mac facts.MAC, a netip.Addr) bool {
	c := s.claims[a]
	return c.sure && c.mac != mac && slices.ContainsFunc(s.onDisk(), func(e facts.ENI) bool {
		return e.MAC == c.mac && slices.Contains(e.IPv4, a)
	})
}

// claim updates the claims: IMDS has told ec2net of the ENI with a name. s.seen still has
// the answers of before.
func (s *sequence) claim(name string) {
	e := s.vpc.enis[s.attached[name]]
	for _, a := range e.IPv4 {
		knew := 0 // how many of the facts that may be on disk have the address
		for _, before := range s.seen[name] {
			if before.MAC == e.MAC && slices.Contains(before.IPv4, a) {
				knew++
			}
		}
		_, here := s.nameOf(s.claims[a].mac)
		switch {
		case knew == 0, s.claims[a].sure && !here: // the owner of before is gone
			s.claims[a] = claim{e.MAC, true}
		case knew < len(s.seen[name]):
			s.claims[a] = claim{}
		}
	}
	contested := s.contested(e.MAC)
	for a, c := range s.claims {
		if c.mac == e.MAC && !slices.Contains(e.IPv4, a) {
			if delete(s.claims, a); slices.Contains(contested, a) {
				s.claims[a] = claim{}
			}
		}
	}
}

// doubt makes the claims of an ENI unsure: ec2net may have got an answer about it, or used
// its facts under another name.
func (s *sequence) doubt(name string) {
	mac := s.attached[name]
	for _, e := range append(s.known(), s.vpc.enis[mac]) {
		for _, a := range e.IPv4 {
			if _, ok := s.claims[a]; e.MAC == mac && ok {
				s.claims[a] = claim{}
			}
		}
	}
}

func (s *sequence) nameOf(mac facts.MAC) (string, bool) {
	for name, m := range s.attached {
		if m == mac {
			return name, true
		}
	}
	return "", false
}

// expected returns the facts of an ENI without the addresses that now belong to another,
// and the addresses that may belong to it or not.
func (s *sequence) expected(e facts.ENI, lease netip.Addr) (theirs facts.ENI, doubt []netip.Addr) {
	if !s.begun || e.IPv4 == nil {
		return e, nil
	}
	contested := s.contested(e.MAC)
	theirs = e
	theirs.IPv4 = []netip.Addr{}
	for _, a := range e.IPv4 {
		switch {
		case a == lease, !slices.Contains(contested, a), s.claims[a] == claim{e.MAC, true}:
			theirs.IPv4 = append(theirs.IPv4, a)
		case !s.another(e.MAC, a):
			doubt = append(doubt, a)
		}
	}
	return theirs, doubt
}

// alone checks that an address that two ENIs are known to have has a rule of one of them
// only: of the one that got it last.
func (s *sequence) alone() {
	rules := s.kernelRules(s.t)
	for _, name := range names {
		lease, up := s.up[name]
		for a := range s.claims {
			if up && a != lease && slices.Contains(rules, s.rule(name, a)) && s.another(s.attached[name], a) {
				s.fail("%v is an address of %s, and there is %s", a, s.claims[a].mac, s.rule(name, a))
			}
		}
	}
}
