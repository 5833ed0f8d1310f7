package plan

import (
	"slices"
)

// Apply records changes that the kernel has made, which saves a look. Only a look
// shows the side effects, such as a route that comes or goes with an address. Apply makes new
// lists, that of the routes once: they may be thousands.
func (s *State) Apply(changes ...Change) {
	var routes routeChanges
	for _, c := range changes {
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
		case DisableIPv6:
			s.changeLink(c.Link, func(l *Link) { l.NoIPv6 = true })
		case AddRoute:
			routes.add(c.Route)
		case DelRoute:
			routes.del(c.Route)
		case MoveRoute:
			to := c.Route
			to.Metric = c.Metric
			routes.del(c.Route)
			if !slices.Contains(s.Routes, to) {
				routes.add(to)
			}
		}
	}
	s.Routes = routes.apply(s.Routes)
}

// routeChanges are the routes that were added, and how often each route was deleted.
type routeChanges struct {
	added []Route
	gone  map[Route]int
}

func (c *routeChanges) add(r Route) { c.added = append(c.added, r) }

func (c *routeChanges) del(r Route) {
	if c.gone == nil {
		c.gone = make(map[Route]int)
	}
	c.gone[r]++
}

func (c *routeChanges) apply(routes []Route) []Route {
	if c.added == nil && c.gone == nil {
		return routes
	}
	return slices.DeleteFunc(slices.Concat(routes, c.added), func(r Route) bool {
		if c.gone[r] == 0 {
			return false
		}
		c.gone[r]--
		return true
	})
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
