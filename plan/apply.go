package plan

import (
	"slices"
)

// Apply records a change that the kernel has made, which saves a look. Only a look
// shows the side effects, such as a route that comes or goes with an address.
func (s *State) Apply(c Change) {
	switch c := c.(type) {
	case AddRule:
		s.Rules = append(slices.Clip(s.Rules), Rule{Rule: c.Rule})
	case DelRule:
		s.Rules = dropFirst(s.Rules, c.Rule)
	case AddAddr:
		s.Addrs = append(slices.Clip(s.Addrs), Addr{c.Link.Index, c.Addr})
	case DelAddr:
		s.Addrs = dropFirst(s.Addrs, Addr{c.Link.Index, c.Addr})
	case SetGroup:
		s.changeLink(c.Link, func(l *Link) { l.Group = c.Group })
	case SetLoose:
		s.changeLink(c.Link, func(l *Link) { l.Strict = false })
	case AddRoute:
		s.Routes = append(slices.Clip(s.Routes), c.Route)
	case DelRoute:
		s.Routes = dropFirst(s.Routes, c.Route)
	case MoveRoute:
		to := c.Route
		to.Metric = c.Metric
		s.Routes = dropFirst(s.Routes, c.Route)
		if !slices.Contains(s.Routes, to) {
			s.Routes = append(slices.Clip(s.Routes), to)
		}
	}
}

func (s *State) changeLink(which Link, change func(*Link)) {
	s.Links = slices.Clone(s.Links)
	for i := range s.Links {
		if s.Links[i].Index == which.Index {
			change(&s.Links[i])
		}
	}
}

// dropFirst returns the list without the first element that equals one.
func dropFirst[T comparable](all []T, one T) []T {
	i := slices.Index(all, one)
	if i < 0 {
		return all
	}
	return slices.Delete(slices.Clone(all), i, i+1)
}
