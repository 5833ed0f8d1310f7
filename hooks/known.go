package hooks

import (
	"errors"
	"slices"

	"ec2net/facts"
)

// Known is what is known of all ENIs of the machine.
type Known struct {
	Base    int
	Primary facts.MAC // zero: not known
	MACs    []facts.MAC
	// Others are the ENIs other than the primary. One that has had several
	// names is there under each.
	Others []facts.ENI
	// Unmanaged are those that an administrator keeps from ec2net.
	Unmanaged []facts.MAC
}

// number is that of the ENI which an interface is now.
func (k Known) number(l Link) (int, bool) {
	for _, e := range k.Others {
		if e.Name == l.Name && e.MAC == l.MAC {
			return e.Table(), true
		}
	}
	return 0, false
}

// members are the interfaces that belong into the group: those of the known
// ENIs, and a bridge, bond or VLAN on top of one, which has its MAC too.
func (k Known) members(all []Link) []Link {
	return slices.DeleteFunc(slices.Clone(all), func(l Link) bool { return !slices.Contains(k.MACs, l.MAC) })
}

// links are the interfaces of the known ENIs alone: they were there before
// what is on top of them, and come before it in the list.
func (k Known) links(all []Link) []Link {
	var found []Link
	for _, l := range all {
		if slices.Contains(k.MACs, l.MAC) && !slices.ContainsFunc(found, func(f Link) bool { return f.MAC == l.MAC }) {
			found = append(found, l)
		}
	}
	return found
}

// canBeENI says whether an interface may be an ENI's, or is on top of one and so
// has its MAC.
func (k Known) canBeENI(l Link, all []Link) bool {
	return l.Device || slices.Contains(k.MACs, l.MAC) ||
		slices.ContainsFunc(all, func(o Link) bool { return o.Device && o.MAC == l.MAC })
}

// foreign are the ENIs that are not in the group and stay out of it: somebody else
// has put them into another, keeps them from ec2net, or configures them.
func (k Known) foreign(actual Actual) []Link {
	return slices.DeleteFunc(slices.Clone(actual.Links), func(l Link) bool {
		ours := slices.Contains(k.MACs, l.MAC)
		configured := l.Device && !l.Loopback && slices.ContainsFunc(actual.Addrs, func(a Addr) bool { return a.LinkIndex == l.Index })
		return l.Group == k.Base || !(ours && l.Group != 0 || !ours && configured || slices.Contains(k.Unmanaged, l.MAC))
	})
}

// known is what is known of the machine's ENIs, those named among them. Neither
// the group nor the routes of one that an administrator keeps from ec2net are
// touched for the sake of another.
func (h *Host) known(also ...facts.ENI) (Known, error) {
	k := Known{Base: h.Numbers.Base}
	remembered, err := h.state().all()
	if err != nil {
		return k, err
	}
	add := func(e facts.ENI) {
		k.MACs = append(k.MACs, e.MAC)
		if !e.Primary {
			k.Others = append(k.Others, e)
		}
	}
	for _, e := range remembered {
		k.notePrimary(e)
		var left *UnmanagedError
		if e.Primary || !errors.As(h.managed(e.Name), &left) {
			add(e)
		} else {
			k.Unmanaged = append(k.Unmanaged, e.MAC)
		}
	}
	for _, e := range also {
		if e.MAC != (facts.MAC{}) {
			k.notePrimary(e)
			add(e)
		}
	}
	return k, nil
}

func (k *Known) notePrimary(e facts.ENI) {
	if e.PrimaryMAC != (facts.MAC{}) {
		k.Primary = e.PrimaryMAC
		k.MACs = append(k.MACs, e.PrimaryMAC)
	}
}
