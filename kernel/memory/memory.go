// Package memory is a kernel in memory, for tests: links, addresses, rules and routes as
// plain data, with the habits of the kernel that matter to a plan. Its test compares it
// with package kernel. Of IPv6 it knows only whether it is on. It has no local or broadcast
// routes, and does not promote secondary addresses (net.ipv4.conf.*.promote_secondaries=0).
package memory

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/plan"
)

// Kernel is a connection to the kernel of a machine in memory.
type Kernel struct {
	// Before is the same seam as kernel.Kernel's: it is called before each request, with
	// what is asked for or with the text of the change. If it fails, the request is not
	// made, and fails with its error.
	Before func(request string) error

	*network
}

// network is the network of a machine.
type network struct {
	mu      sync.Mutex
	last    int // the last index given
	links   []plan.Link
	addrs   []addr
	rules   []plan.Rule
	routes  []plan.Route
	flows   []facts.Mark
	watches []watch
	forward bool
	looked  []plan.Rule // the rules of the last look, without those deleted since
}

// New returns a kernel as it is when a machine starts: with lo, which is down, and the
// kernel's own three rules.
func New() *Kernel {
	k := &Kernel{network: &network{}}
	k.addLink(plan.Link{Name: "lo", Loopback: true, Device: true})
	for _, r := range []struct{ priority, table int }{{0, 255}, {32766, iprule.MainTable}, {32767, 253}} {
		k.rules = append(k.rules, plan.Rule{Rule: iprule.Rule{Priority: r.priority, Table: r.table,
			Protocol: unix.RTPROT_KERNEL, SuppressPrefixLength: -1, SuppressGroup: -1}})
	}
	return k
}

// Another returns another connection to the same kernel, with its own seam.
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
	links := slices.Clone(k.links)
	for i := range links {
		links[i].Forwards = k.forward
	}
	return links, nil
}

// Look reads what the kernel has, as kernel.Kernel's Look does.
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

// Forwards reports whether the machine forwards packets: kernel.Kernel's Forwards.
func (k *Kernel) Forwards() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.forward
}

// Forward sets net.ipv4.ip_forward.
func (k *Kernel) Forward(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forward = on
	k.changed()
}

// within returns the routes that are in a scope; all if it is nil.
func within(s *plan.Scope, all []plan.Route) (found []plan.Route) {
	if s == nil {
		return slices.Clone(all)
	}
	shared := make(map[netip.Prefix]bool) // by a link of the scope
	for _, r := range all {
		if r.Table == iprule.MainTable && r.Kind == iproute.Unicast && slices.Contains(s.Main, r.Link) {
			shared[r.Dst] = true
		}
	}
	for _, r := range all {
		if slices.Contains(s.Tables, r.Table) || r.Table == iprule.MainTable && r.Kind == iproute.Unicast &&
			(shared[r.Dst] || s.To.IsValid() && r.Dst.Contains(s.To)) {
			found = append(found, r)
		}
	}
	return found
}

// Apply makes one change, as kernel.Kernel's Apply does, with as many calls of Before.
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
	case plan.SetLoose:
		return k.request(c, func() error { return k.change(c.Link.Index, func(l *plan.Link) { l.Strict = false }) })
	case plan.DisableIPv6:
		return k.request(c, func() error { return k.change(c.Link.Index, func(l *plan.Link) { l.NoIPv6 = true }) })
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
	return fmt.Errorf("the kernel cannot make a change of type %T", c)
}

// known first looks for the object to delete, as kernel.Kernel does, and makes no change
// if it is gone.
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

// Flows returns the marks of the connections.
func (k *Kernel) Flows() []facts.Mark {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.flows)
}

// Source returns the address from which the kernel would send to another one, as
// kernel.Kernel's Source does.
func (k *Kernel) Source(to netip.Addr) netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.local(to) {
		return to
	}
	source := k.source(to)
	// With the source the kernel looks once more: its rules may lead nowhere.
	if r, ok := k.lookup(source, to, 0); !ok || r.Kind != iproute.Unicast {
		return netip.Addr{}
	}
	return source
}

// source returns the address from which the kernel would send to another one, by the rules
// that look at no source.
func (k *Kernel) source(to netip.Addr) netip.Addr {
	r, ok := k.lookup(netip.Addr{}, to, 0)
	if !ok || r.Kind != iproute.Unicast {
		return netip.Addr{}
	}
	if r.Source.IsValid() {
		if !k.local(r.Source) {
			return netip.Addr{} // the kernel does not use a route whose source is gone
		}
		return r.Source
	}
	return k.sourceOn(r.Link, r.Gateway)
}
