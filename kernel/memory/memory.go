// Package memory is a kernel without one, for tests: links, addresses, rules and
// routes as plain data, with those of the kernel's habits that a plan has to reckon
// with. Its test holds it against package kernel. It has no IPv6, no local or
// broadcast routes, and secondary addresses are not promoted
// (net.ipv4.conf.*.promote_secondaries=0).
package memory

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
)

// Kernel is a connection to the kernel of a machine.
type Kernel struct {
	// Before is the seam of kernel.Kernel: it is called before each request with what
	// is asked for or the text of the change, and an error is returned in place of the
	// answer.
	Before func(request string) error

	*network
}

// network is the network of a machine.
type network struct {
	mu      sync.Mutex
	last    int // index that was given
	links   []plan.Link
	addrs   []addr
	rules   []plan.Rule
	routes  []plan.Route
	flows   []facts.Mark
	watches []chan struct{}
	looked  []plan.Rule // those of the last look that were not deleted since
}

// New makes a kernel as it is when a machine starts: with lo, which is down, and the
// three rules.
func New() *Kernel {
	k := &Kernel{network: &network{}}
	k.addLink(plan.Link{Name: "lo", Loopback: true, Device: true})
	for _, r := range []struct{ priority, table int }{{0, 255}, {32766, iprule.MainTable}, {32767, 253}} {
		k.rules = append(k.rules, plan.Rule{Rule: iprule.Rule{Priority: r.priority, Table: r.table,
			Protocol: unix.RTPROT_KERNEL, SuppressPrefixLength: -1, SuppressGroup: -1}})
	}
	return k
}

// Another is another connection to the same kernel, with a seam of its own.
func (k *Kernel) Another() *Kernel { return &Kernel{network: k.network} }

// before calls the test's seam.
func (k *Kernel) before(request string) error {
	if k.Before == nil {
		return nil
	}
	return k.Before(request)
}

// Links lists the interfaces.
func (k *Kernel) Links() ([]plan.Link, error) {
	if err := k.before("links"); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.links), nil
}

// Look reads what there is: kernel.Kernel's Look.
func (k *Kernel) Look(scope func([]plan.Link) plan.Scope) (s plan.State, err error) {
	if s.Links, err = k.Links(); err != nil {
		return plan.State{}, err
	}
	for _, request := range []string{"addresses", "rules", "routes"} {
		if err := k.before(request); err != nil {
			return plan.State{}, err
		}
	}
	var wanted *plan.Scope
	if scope != nil {
		of := scope(slices.Clone(s.Links))
		wanted = &of
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.links {
		for _, a := range k.addrs {
			if a.Link == l.Index {
				s.Addrs = append(s.Addrs, a.Addr)
			}
		}
	}
	s.Rules = slices.Clone(k.rules)
	k.looked = slices.Clone(k.rules)
	s.Routes = within(wanted, k.routes)
	return s, nil
}

// within are the routes that are in a scope; all with nil.
func within(s *plan.Scope, all []plan.Route) (found []plan.Route) {
	if s == nil {
		return slices.Clone(all)
	}
	shared := make(map[netip.Prefix]bool) // by a link of the scope
	for _, r := range all {
		if r.Table == iprule.MainTable && slices.Contains(s.Main, r.Link) {
			shared[r.Dst] = true
		}
	}
	for _, r := range all {
		if slices.Contains(s.Tables, r.Table) || r.Table == iprule.MainTable &&
			(shared[r.Dst] || s.To.IsValid() && r.Dst.Contains(s.To)) {
			found = append(found, r)
		}
	}
	return found
}

// Apply makes one change: kernel.Kernel's Apply. Before is called as often as there.
func (k *Kernel) Apply(c plan.Change) error {
	switch c := c.(type) {
	case plan.AddRule:
		return k.request(c, func() error { return k.addRule(plan.Rule{Rule: c.Rule}) })
	case plan.DelRule:
		del := func() error { return k.request(c, func() error { return k.delRule(c.Rule) }) }
		if k.unmistakable(c.Rule) {
			return del()
		}
		return k.known("rules", func() (bool, error) { return slices.Contains(k.rules, c.Rule), nil }, del)
	case plan.AddAddr:
		return k.request(c, func() error { return k.addAddr(plan.Addr{Link: c.Link.Index, Prefix: c.Addr}) })
	case plan.DelAddr:
		return k.request(c, func() error { return k.delAddr(plan.Addr{Link: c.Link.Index, Prefix: c.Addr}) })
	case plan.SetGroup:
		return k.request(c, func() error { return k.change(c.Link.Index, func(l *plan.Link) { l.Group = c.Group }) })
	case plan.AddRoute:
		return k.request(c, func() error { return k.addRoute(c.Route, c.Append) })
	case plan.DelRoute:
		return k.known("routes", func() (bool, error) { return k.find(c.Route) }, func() error {
			return k.request(c, func() error { return k.delRoute(c.Route) })
		})
	case plan.MoveRoute:
		return k.known("routes", func() (bool, error) { return k.find(c.Route) }, func() error {
			return k.moveRoute(c)
		})
	case plan.DropFlows:
		return k.request(c, func() error {
			k.flows = slices.DeleteFunc(k.flows, func(m facts.Mark) bool { return m&c.Mask == c.Mark })
			return nil
		})
	}
	return fmt.Errorf("%T is no change that the kernel can make", c)
}

// known lists what is to be deleted first, as kernel.Kernel does, and changes nothing
// if it is not there.
func (k *Kernel) known(what string, find func() (bool, error), change func() error) error {
	if err := k.before(what); err != nil {
		return err
	}
	k.mu.Lock()
	there, err := find()
	k.mu.Unlock()
	if err != nil || !there {
		return err
	}
	return change()
}

// request makes a change, or a part of one.
func (k *Kernel) request(c plan.Change, change func() error) error {
	if err := k.before(c.String()); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	err := change()
	switch {
	case err == nil:
		k.changed()
	case !c.Removes() && errors.Is(err, unix.EEXIST):
		return nil
	case c.Removes() && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL) ||
		errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)):
		return nil
	}
	return err
}

// AddFlow adds a connection with a mark.
func (k *Kernel) AddFlow(m facts.Mark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.flows = append(k.flows, m)
}

// Flows are the marks of the connections.
func (k *Kernel) Flows() []facts.Mark {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.flows)
}

// Source is the address that would be sent from to another one: kernel.Kernel's
// Source.
func (k *Kernel) Source(to netip.Addr) netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.local(to) {
		return to
	}
	r, ok := k.lookup(to, 0)
	if !ok {
		return netip.Addr{}
	}
	if r.Source.IsValid() {
		if !k.local(r.Source) {
			return netip.Addr{} // nothing is sent by a route with a source that is gone
		}
		return r.Source
	}
	return k.sourceOn(r.Link, r.Gateway)
}
