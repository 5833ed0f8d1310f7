package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"ec2net/facts"
	"ec2net/fault"
)

// AnswerError says that an answer of IMDS cannot be about the device it was asked
// about: it counts as "could not ask".
type AnswerError struct{ Name, Why string }

func (e *AnswerError) Error() string {
	return fmt.Sprintf("cannot trust IMDS's answer about %s: %s", e.Name, e.Why)
}

// Status is the status of missing facts.
func (*AnswerError) Status() fault.Status { return fault.Facts }

// Check rejects an answer that contradicts what is known: an ENI that is up keeps
// its id, and no two ENIs on this machine share one. If the answer has the leased
// address and the remembered facts do not, the facts are wrong and the answer counts.
func (m *Machine) Check(l Link, answer facts.ENI) error {
	k, _ := m.Of(l.Name)
	last, known := k.FactsOf(l)
	lease := k.Lease.addrOf(l)
	gives := func(e facts.ENI) bool { return slices.Contains(e.IPv4, lease) }
	switch {
	case lease.IsValid() && !answer.HasIPv4() && !lease.IsLinkLocalUnicast():
		return &AnswerError{l.Name, fmt.Sprintf("it lists no IPv4 address, but %s is leased", lease)}
	case known && last.ID == answer.ID && last.Primary == answer.Primary:
		return nil
	case known && gives(answer) && !gives(last):
		return nil
	case known && (last.Primary || k.Note.Of(l)):
		return &AnswerError{l.Name, fmt.Sprintf("the ENI is %s (primary: %t), but the answer says %s (primary: %t)", last.ID, last.Primary, answer.ID, answer.Primary)}
	}
	if other, ok := m.withID(answer.ID); ok && other != answer.MAC {
		return &AnswerError{l.Name, fmt.Sprintf("%s is the ENI with the MAC %s", answer.ID, other)}
	}
	return nil
}

// withID returns the MAC of the ENI on this machine that has an id.
func (m *Machine) withID(id string) (facts.MAC, bool) {
	k, ok := find(m.Known, func(k Known) bool {
		l, there := m.State.LinkNamed(k.Name)
		return there && k.Facts.ID == id && k.Facts.MAC == l.MAC
	})
	return k.Facts.MAC, ok
}

// Overtaken reports whether an answer is older than what is known now. then is what was
// known when the question began. The answer is older if since then another answer has
// changed the facts of this ENI, or has given another ENI an address that the answer
// has as new.
func (m *Machine) Overtaken(answer facts.ENI, then []Known) bool {
	before := Machine{Known: then}
	was, _ := before.Of(answer.Name)
	for _, k := range m.Known {
		old, _ := before.Of(k.Name)
		switch {
		case k.Facts.Name == "" || reflect.DeepEqual(k.Facts, old.Facts):
		case k.Facts.MAC == answer.MAC:
			return true
		case slices.ContainsFunc(k.Facts.IPv4, func(a netip.Addr) bool {
			return slices.Contains(answer.IPv4, a) && (was.Facts.MAC != answer.MAC || !slices.Contains(was.Facts.IPv4, a))
		}):
			return true
		}
	}
	return false
}

// Learn replaces what is known by an answer about the device that has the name now. An
// address has moved that is new to the ENI, and that another ENI's facts list; or that
// the facts of an ENI list which is not here, or taken down: those are older.
func (m *Machine) Learn(answer facts.ENI) {
	k, _ := m.Of(answer.Name)
	k.Name = answer.Name
	k.Had = nil
	if k.Facts.MAC == answer.MAC {
		k.Had = k.Facts.IPv4
	}
	k.Facts, k.Fresh = answer, true
	m.Set(k)
	m.Moved = without(m.Moved, func(v Moved) bool {
		// The address is back if IMDS lists it as new. It is also back if the ENI that got
		// it is not asked about: IMDS will not say that it has lost it.
		stays := slices.Contains(answer.IPv4, v.Addr) && !m.isAsked(v.To)
		return v.From == answer.MAC && (k.isNew(v.Addr) || stays)
	})
	for i, v := range m.Moved {
		if k.isNew(v.Addr) {
			m.Moved[i].To = answer.MAC // it has moved on
		}
	}
	for _, other := range m.Known {
		for _, a := range other.Facts.IPv4 {
			newer := k.isNew(a) || slices.Contains(answer.IPv4, a) && !m.isAsked(other.Facts.MAC) && !m.MovedFrom(answer.MAC, a)
			if other.Facts.MAC != answer.MAC && newer && !m.MovedFrom(other.Facts.MAC, a) {
				m.Moved = append(m.Moved, Moved{Addr: a, From: other.Facts.MAC, To: answer.MAC})
			}
		}
	}
	m.prune()
}

// isAsked reports whether IMDS is asked about an ENI: it is here, and nobody has taken it down
// that had come up.
func (m *Machine) isAsked(mac facts.MAC) bool {
	return slices.ContainsFunc(m.State.Links, func(l Link) bool {
		k, _ := m.Of(l.Name)
		takenDown := !l.Up && (k.Down.Of(l) || k.Lease.Held(l))
		return l.MAC == mac && !takenDown
	})
}

// isNew reports whether the fresh facts list an address that the facts before did not.
func (k Known) isNew(a netip.Addr) bool {
	return k.Fresh && slices.Contains(k.Facts.IPv4, a) && !slices.Contains(k.Had, a)
}

// prune drops the moves whose address is no longer in the facts of both ENIs.
func (m *Machine) prune() {
	m.Moved = filter(m.Moved, func(v Moved) bool { return m.gives(v.From, v.Addr) && m.gives(v.To, v.Addr) })
}

// gives reports whether the last facts of an ENI list an address. Facts under a former
// name of the ENI are older than those under its present name.
func (m *Machine) gives(mac facts.MAC, a netip.Addr) bool {
	of := filter(m.Known, func(k Known) bool { return k.Facts.MAC == mac })
	now := filter(of, func(k Known) bool {
		l, _ := m.State.LinkNamed(k.Name)
		return l.MAC == mac
	})
	if len(now) > 0 {
		of = now
	}
	return slices.ContainsFunc(of, func(k Known) bool { return slices.Contains(k.Facts.IPv4, a) })
}

// Elsewhere returns the last facts of a device that had another name then, with the
// number of its present name. It returns nil if there are none, or if facts under two
// names differ, since nothing says which are later.
func (m *Machine) Elsewhere(l Link) *facts.ENI {
	if !facts.NumberedByName(l.Name) {
		return nil
	}
	var found *facts.ENI
	for _, k := range m.Known {
		if k.Facts.Name == "" || k.Facts.MAC != l.MAC || k.Facts.Primary || k.Name == l.Name {
			continue
		}
		e, err := facts.Renamed(k.Facts, l.Name, m.Numbers)
		if err != nil || (found != nil && !reflect.DeepEqual(*found, e)) {
			return nil
		}
		found = &e
	}
	return found
}

// Distinct refuses an ENI if another one on this machine has its number, MAC or id. Two
// may list one address: it has moved since IMDS was asked about the other.
func (m *Machine) Distinct(e facts.ENI) error {
	present := []facts.ENI{e}
	for _, k := range m.Known {
		if l, ok := m.State.LinkNamed(k.Name); ok && l.MAC == k.Facts.MAC && k.Name != e.Name {
			k.Facts.IPv4 = nil
			present = append(present, k.Facts)
		}
	}
	return facts.Distinct(present)
}
