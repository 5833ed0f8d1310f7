package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"ec2net/facts"
	"ec2net/fault"
)

// AnswerError says that an answer of IMDS's cannot be about the device that it was
// asked for: it counts as none.
type AnswerError struct{ Name, Why string }

func (e *AnswerError) Error() string {
	return fmt.Sprintf("what IMDS says of %s is not believed: %s", e.Name, e.Why)
}

// Status is that of facts that are missing.
func (*AnswerError) Status() fault.Status { return fault.Facts }

// Check rejects an answer that contradicts what is known: an ENI that is up keeps
// its id, and no two ENIs that are here share one. If the leased address is in the
// answer and not in the remembered facts, those are wrong.
func (m *Machine) Check(l Link, answer facts.ENI) error {
	k, _ := m.Of(l.Name)
	last, known := k.FactsOf(l)
	lease := k.Lease.addrOf(l)
	gives := func(e facts.ENI) bool { return slices.Contains(e.IPv4, lease) }
	switch {
	case lease.IsValid() && !answer.HasIPv4() && !lease.IsLinkLocalUnicast():
		return &AnswerError{l.Name, fmt.Sprintf("no IPv4 address, where %s is leased", lease)}
	case known && last.ID == answer.ID && last.Primary == answer.Primary:
		return nil
	case known && gives(answer) && !gives(last):
		return nil
	case known && (last.Primary || k.Note.Of(l)):
		return &AnswerError{l.Name, fmt.Sprintf("it is %s, and is to be %s (primary: %t)", last.ID, answer.ID, answer.Primary)}
	}
	if other, ok := m.withID(answer.ID); ok && other != answer.MAC {
		return &AnswerError{l.Name, fmt.Sprintf("%s is the ENI with the MAC %s", answer.ID, other)}
	}
	return nil
}

// withID finds the ENI that is here and has an id.
func (m *Machine) withID(id string) (facts.MAC, bool) {
	k, ok := find(m.Known, func(k Known) bool {
		l, there := m.State.LinkNamed(k.Name)
		return there && k.Facts.ID == id && k.Facts.MAC == l.MAC
	})
	return k.Facts.MAC, ok
}

// Learn takes in an answer about the device that has the name now: it is what is
// known from here on, and an address that is new to the ENI has moved to it.
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
		// It is back if IMDS gives it anew. Of an ENI that is not here no answer will
		// come that says that it has the address no more.
		stays := slices.Contains(answer.IPv4, v.Addr) && !m.isHere(v.To)
		return v.From == answer.MAC && (k.isNew(v.Addr) || stays)
	})
	for i, v := range m.Moved {
		if k.isNew(v.Addr) {
			m.Moved[i].To = answer.MAC // and not the one in between
		}
	}
	for _, other := range m.Known {
		for _, a := range other.Facts.IPv4 {
			if other.Facts.MAC != answer.MAC && k.isNew(a) && !m.movedFrom(other.Facts.MAC, a) {
				m.Moved = append(m.Moved, Moved{Addr: a, From: other.Facts.MAC, To: answer.MAC})
			}
		}
	}
	m.prune()
}

// isNew reports whether IMDS's answer of now gives an address that the one before did
// not.
func (k Known) isNew(a netip.Addr) bool {
	return k.Fresh && slices.Contains(k.Facts.IPv4, a) && !slices.Contains(k.Had, a)
}

// prune forgets the moves that the facts of both sides do not speak of any more.
func (m *Machine) prune() {
	m.Moved = filter(m.Moved, func(v Moved) bool { return m.gives(v.From, v.Addr) && m.gives(v.To, v.Addr) })
}

// gives reports whether IMDS gave an address to an ENI when it was asked last. Facts
// under a name that the ENI has no more are older than those under the one that it has.
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

// Elsewhere are the facts that IMDS gave last for a device when it had another
// name, with the numbers of the one that it has now. It is nil without any, or if
// nothing says which were last.
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

// Distinct refuses an ENI whose number, MAC or id another one has that is here. An
// address that both have has moved since the other was asked for.
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
