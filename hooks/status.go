package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
)

// Status is what converge would change now, and what is known of each ENI. Its JSON is a
// part of the interface: later versions may add fields, and remove none.
type Status struct {
	// Differs reports whether there are Commands.
	Differs bool        `json:"differs"`
	ENIs    []ENIStatus `json:"enis"`
	// Commands mend what differs, if root types them in this order.
	Commands []string `json:"commands"`
	// MarksUnseen says that only root may see whether the marks differ.
	MarksUnseen bool        `json:"marks_unseen,omitempty"`
	Watch       WatchStatus `json:"watch"`
}

// ENIStatus is the status of one ENI.
type ENIStatus struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Why gives the reason of the state, or says what is wrong besides; empty if there is
	// nothing to say.
	Why     string `json:"why,omitempty"`
	ID      string `json:"id,omitempty"`
	MAC     string `json:"mac,omitempty"`
	Primary bool   `json:"primary"`
	// Table is 0 if the ENI has none of its own.
	Table int `json:"table,omitempty"`
	// Addresses are those that the ENI should have; if nothing is known of it, those that
	// it has.
	Addresses []netip.Addr `json:"addresses"`
	// FactsSince is when IMDS last said something new about the ENI; nil if never.
	FactsSince *time.Time `json:"facts_since,omitempty"`
	// Commands are those that are about this ENI.
	Commands []string `json:"commands"`
}

// State is the state of an ENI, in a word.
type State string

// The states of an ENI.
const (
	StateOK      State = "ok"         // it is what it should be
	StateDiffers State = "differs"    // commands would mend it
	StateDown    State = "down"       // it is not up, and should have nothing
	StateLeft    State = "left alone" // somebody else configures it
	StateUnknown State = "unknown"    // what it should be is not known
)

// lookLimit bounds how long Status waits for an ec2net that is changing something.
const lookLimit = 2 * time.Second

// Status looks at the machine and changes nothing. With a name it returns that ENI alone,
// and only the commands about it or about the whole machine. If something could not be
// read, Status returns the rest too, with an error.
func (h *Host) Status(ctx context.Context, name string) (*Status, error) {
	marks, unseen, badMarks := h.marksDiffer(ctx)
	unlock := h.lockToLook(ctx, "kernel")
	defer unlock()
	l, err := h.look(news{})
	if err != nil {
		return nil, err
	}
	changes, want, _ := h.changes(ctx, l)
	s := &Status{ENIs: []ENIStatus{}, Commands: []string{}, MarksUnseen: unseen}
	commands := append(l.commandsFor(changes), marks...)
	of := make(map[string][]string)
	for _, c := range commands {
		of[c.eni] = append(of[c.eni], c.line)
	}
	failed := badMarks
	links := l.eniLinks()
	for _, eni := range l.namesOf(links) {
		if name == "" && !hasLink(links, eni) && of[eni] == nil || name != "" && name != eni {
			continue
		}
		row, err := h.statusOf(ctx, l, links, eni, of[eni])
		failed = errors.Join(failed, err)
		row.Why = joined(row.Why, l.waitsFor(want, eni))
		s.ENIs = append(s.ENIs, row)
	}
	if name != "" && len(s.ENIs) == 0 {
		return nil, l.nobodys(name)
	}
	for _, c := range commands {
		if name == "" || c.eni == name || !slices.Contains(l.namesOf(links), c.eni) {
			s.Commands = append(s.Commands, c.line)
		}
	}
	s.Differs = len(s.Commands) > 0
	s.Watch, err = h.watchStatus()
	return s, errors.Join(failed, err)
}

// joined joins two texts, each of which may be empty.
func joined(a, b string) string {
	return strings.Join(slices.DeleteFunc([]string{a, b}, func(s string) bool { return s == "" }), "; ")
}

// lockToLook takes a lock, so that the look does not see half a change. It goes on without
// the lock if that takes too long, if only root may, or if nobody has ever taken it.
func (h *Host) lockToLook(ctx context.Context, name string) (unlock func()) {
	if there, err := h.lockThere(name); err != nil || !there {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return func() {}
	}
	return unlock
}

// eniLinks returns the links of all attached ENIs, the primary's first.
func (l *look) eniLinks() []plan.Link {
	ours, left := l.MACs()
	links := plan.ENIsAmong(l.State.Links, slices.Concat(devices(l.State), ours, left))
	primary := l.Primary()
	slices.SortStableFunc(links, func(a, b plan.Link) int {
		switch {
		case a.MAC == primary && b.MAC != primary:
			return -1
		case b.MAC == primary && a.MAC != primary:
			return 1
		}
		return cmp.Or(len(a.Name)-len(b.Name), cmp.Compare(a.Name, b.Name)) // eth9, eth10
	})
	return links
}

func hasLink(links []plan.Link, name string) bool {
	return slices.ContainsFunc(links, func(l plan.Link) bool { return l.Name == name })
}

// namesOf returns the names of the attached ENIs, then those of the others that ec2net
// knows.
func (l *look) namesOf(links []plan.Link) []string {
	var names []string
	for _, link := range links {
		names = append(names, link.Name)
	}
	for _, k := range l.Known {
		if !slices.Contains(names, k.Name) {
			names = append(names, k.Name)
		}
	}
	return names
}

// nobodys returns the error for the name of no ENI.
func (l *look) nobodys(name string) error {
	if _, there := l.State.LinkNamed(name); !there {
		return &kernel.GoneError{Name: name}
	}
	return &fault.Error{Kind: fault.Usage, Err: fmt.Errorf("%s is not an ENI", name), Try: `"ec2net status" lists those of this machine`}
}

// command is a line for a shell, and the interface that it is about.
type command struct{ eni, line string }

// commandsFor returns the commands for changes. At the end are those for what is not
// ec2net's to change: the leased address belongs to the DHCP client.
func (l *look) commandsFor(changes []plan.Change) []command {
	var all []command
	for i, lines := range plan.Commands(l.State, changes) {
		for _, line := range lines {
			all = append(all, command{changes[i].Of(), line})
		}
	}
	for _, v := range l.Judge() {
		k, _ := l.Of(v.Name)
		if l.withoutLease(v) {
			all = append(all, command{v.Name, fmt.Sprintf("ec2ifdown %s && ec2ifup %s # systemd-networkd has no lease for it", v.Name, v.Name)})
		}
		if v.Do != plan.Serve || !k.Lease.Held(v.Link) || l.State.Has(v.Link.Index, k.Lease.Addr) {
			continue
		}
		line := fmt.Sprintf("ec2ifdown %s && ec2ifup %s # its DHCP client's address, %s, is missing", v.Name, v.Name, k.Lease.Addr)
		if v.Facts.Primary {
			line = fmt.Sprintf("# %s, which the DHCP client of %s has leased, is missing: restart that client", k.Lease.Addr, v.Name)
		}
		all = append(all, command{v.Name, line})
	}
	return all
}

// withoutLease reports whether systemd-networkd has no lease for an ENI that ec2net has brought
// up. Its lease is no news of a hook's that ec2net would remember.
func (l *look) withoutLease(v plan.Verdict) bool {
	k, _ := l.Of(v.Name)
	return v.Do == plan.Serve && !v.Facts.Primary && k.Stanza && l.stackOf(v.Name) == render.Networkd && !k.Lease.Of(v.Link)
}

// statusOf returns the status of one ENI.
func (h *Host) statusOf(ctx context.Context, l *look, links []plan.Link, name string, commands []string) (ENIStatus, error) {
	s := ENIStatus{Name: name, Addresses: []netip.Addr{}, Commands: append([]string{}, commands...)}
	of := *l
	of.name, of.link = name, plan.Link{}
	if hasLink(links, name) {
		of.link, _ = l.State.LinkNamed(name)
		s.MAC = of.link.MAC.String()
	}
	k, known := l.Of(name)
	if !known {
		k = plan.Known{Name: name}
		if l.readStanza(h, l.kind, &k); l.unread[name] != nil {
			err := l.unread[name]
			s.State, s.Why = StateUnknown, err.Error()
			return s, err
		}
		of.Machine.Known = slices.Clone(l.Known)
		of.Set(k)
	}
	s.Primary = of.link.Index != 0 && of.link.MAC == l.Primary()
	v := verdictOn(&of)
	s.fill(&of, k, v)
	var err error
	if k.Facts.Name != "" {
		var since time.Time
		if since, err = h.Tree.Modified(factsPath(name)); err == nil {
			s.FactsSince = &since
		}
	}
	var unread error
	s.State, s.Why, unread = h.stateOf(ctx, &of, k, v, len(commands) > 0)
	return s, errors.Join(err, unread, l.damaged[name])
}

func verdictOn(l *look) plan.Verdict {
	for _, v := range l.Judge() {
		if v.Name == l.name {
			return v
		}
	}
	return plan.Verdict{Name: l.name, Link: l.link}
}

// fill fills in what is known of the ENI.
func (s *ENIStatus) fill(l *look, k plan.Known, v plan.Verdict) {
	e, known := k.FactsOf(l.link)
	if l.link.Index == 0 {
		e, known = k.Facts, k.Facts.Name != ""
	}
	if v.Do == plan.Serve {
		e = v.Facts
	}
	s.ID = e.ID
	switch {
	case k.Note.Of(l.link):
		s.Table = k.Note.Number
	case e.Routed:
		s.Table = e.Number
	}
	for _, a := range e.IPv4 {
		if !l.MovedFrom(e.MAC, a) {
			s.Addresses = append(s.Addresses, a)
		}
	}
	if v.Lease.IsValid() && !slices.Contains(s.Addresses, v.Lease) {
		s.Addresses = append(s.Addresses, v.Lease)
	}
	for _, a := range l.State.Addrs {
		if !known && a.Link == l.link.Index && !slices.Contains(s.Addresses, a.Prefix.Addr()) {
			s.Addresses = append(s.Addresses, a.Prefix.Addr())
		}
	}
}

// stateOf returns the state of an ENI, and why. An error says that something could not be
// read.
func (h *Host) stateOf(ctx context.Context, l *look, k plan.Known, v plan.Verdict, differs bool) (State, string, error) {
	_, known := k.FactsOf(l.link)
	switch {
	case l.unread[l.name] != nil:
		return StateUnknown, l.unread[l.name].Error(), l.unread[l.name]
	case k.Left != "":
		return StateLeft, k.Left, nil
	case differs:
		return StateDiffers, cmp.Or(brokenIn(l.rendered[l.name]), withIPv6(v.Facts)), nil
	case v.Do == plan.Serve && known:
		return StateOK, cmp.Or(brokenIn(l.rendered[l.name]), withIPv6(v.Facts)), nil
	case v.Do == plan.Serve, l.link.Index != 0 && l.link.MAC == l.Primary():
		return StateUnknown, fmt.Sprintf("IMDS has not answered about it yet: \"ec2net refresh %s\" asks", l.name), nil
	}
	return h.stateUnserved(ctx, l, k)
}

// stateUnserved says why ec2net does not serve an interface.
func (h *Host) stateUnserved(ctx context.Context, l *look, k plan.Known) (State, string, error) {
	_, known := k.FactsOf(l.link)
	if why := l.downBecause(k); why != "" {
		return StateDown, why, nil
	}
	if known && k.Note.Of(l.link) {
		return StateUnknown, fmt.Sprintf("another ENI has its number, %d", k.Facts.Number), nil
	}
	var other *UnmanagedError
	switch err := h.checkOwner(ctx, l); {
	case errors.As(err, &other):
		return StateLeft, other.Why, nil
	case known && k.Ours && errors.Is(err, fs.ErrPermission):
		return StateDown, fmt.Sprintf("\"ec2ifup %s\" brings it up, unless somebody else configures it, as only root sees", l.name), nil
	case err != nil:
		return StateUnknown, err.Error(), err
	}
	if known {
		return StateDown, fmt.Sprintf("\"ec2ifup %s\" brings it up", l.name), nil
	}
	if l.Primary() == (facts.MAC{}) && l.link.Up {
		return StateUnknown, fmt.Sprintf("which ENI is the primary is not known: \"ec2net refresh %s\" asks IMDS", l.name), nil
	}
	return StateUnknown, fmt.Sprintf("nothing is known of it: \"ec2ifup %s\" brings it up, or says why not", l.name), nil
}

// downBecause says why an interface is down that ec2net knows; empty if no reason is known.
func (l *look) downBecause(k plan.Known) string {
	switch {
	case l.link.Index == 0:
		return "it is not attached"
	case k.Lease.EndedOf(l.link):
		return "its lease has ended"
	case k.Note.Of(l.link) && !l.link.Up:
		return "somebody has set it down"
	}
	return ""
}

// brokenIn says what is wrong with the template of an ENI's rules.
func brokenIn(s *ruleScript) string {
	if s == nil || s.broken == nil {
		return ""
	}
	return "its ip rules are those that were rendered last: " + s.broken.Error()
}
