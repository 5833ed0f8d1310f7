package hooks

import (
	"context"
	"slices"
	"strings"

	"ec2net/facts"
	"ec2net/plan"
	"ec2net/render"
	"ec2net/stack"
	"ec2net/stack/ifupdown"
)

// checkOwner returns an error if somebody else configures the device: two programs that
// configure one interface are worse than either.
func (h *Host) checkOwner(ctx context.Context, l *look) error {
	owner, err := h.ownerByFile(ctx, l)
	if err == nil && owner.Nobody() {
		var own func(table int) bool
		own, err = h.ownTables(l)
		owner = stack.ByRules(l.State, l.link, own)
	}
	if err != nil {
		return err
	}
	if !owner.Nobody() {
		return &UnmanagedError{l.name, owner.Who, owner.Hint}
	}
	return nil
}

// ownerByFile finds the owner of a device by the files of a network stack.
func (h *Host) ownerByFile(ctx context.Context, l *look) (stack.Owner, error) {
	k, _ := l.Of(l.name)
	if o, err := h.stack(l.kind).Owner(ctx, l.link, k.Ours); err != nil || !o.Nobody() {
		return o, err
	}
	return h.ownerBySecondStack(l, k.Ours)
}

// ownerBySecondStack finds the owner of a stanza for ifupdown, where that is installed and
// networkd brings the ENIs up.
func (h *Host) ownerBySecondStack(l *look, ours bool) (stack.Owner, error) {
	if l.kind != render.Networkd {
		return stack.Owner{}, nil
	}
	if there, err := ifupdown.Installed(h.Tree); err != nil || !there {
		return stack.Owner{}, err
	}
	o, err := h.ifupdown().StanzaOwner(l.name, ours)
	if !o.Nobody() {
		o.Hint += "; if nothing here needs ifupdown, \"apt-get purge ifupdown\""
	}
	return o, err
}

// leave marks the interfaces that ec2net leaves alone by what a look has found.
func (l *look) leave() {
	for i := range l.Known {
		k := &l.Known[i]
		link, there := l.State.LinkNamed(k.Name)
		if !there {
			link = plan.Link{Name: k.Name, MAC: k.Note.MAC}
		}
		switch why := l.named(link); {
		case l.unread[k.Name] != nil:
		case why != "":
			k.Left = why
		case k.Left == "" && !l.pods.Nobody():
			k.Left, k.Try = l.pods.Who, l.podsHint()
		}
	}
	l.LeavePorts()
}

// lookForPods finds out by the kernel's rules whether the ENIs are for pods. If it
// cannot tell, no interface gets an address: it might be a pod's.
func (l *look) lookForPods() {
	if byRules := stack.PodsByRules(l.State); !byRules.Nobody() {
		l.pods = byRules
	}
	l.NoAddresses = l.NoAddresses || l.podsUnread != nil
	l.leave()
}

// podsHint says how a person gives the ENIs of a Kubernetes node to ec2net.
func (l *look) podsHint() string {
	forget := "rm " + podsPath + ", and ec2net configures the ENIs"
	if l.pods.Hint == "" {
		return forget
	}
	return l.pods.Hint + "; then " + forget
}

// rememberPods remembers that the ENIs are for pods: after a reboot it has to be known
// before the agent that gives them away makes its rules.
func (h *Host) rememberPods(l *look) {
	if l.pods.Nobody() || l.podsKept || l.podsUnread != nil {
		return
	}
	if wrote, err := h.Tree.Write(podsPath, []byte(l.pods.Who+"\n")); err != nil {
		h.Log.Warn("", "%v", err)
	} else if wrote {
		h.Log.Warn("", "%s: leaving all ENIs alone, also after a reboot (%s)", l.pods.Who, l.podsHint())
	}
}

// named says that the settings name an interface; empty if they do not.
func (l *look) named(link plan.Link) string {
	id := ""
	for _, k := range l.Known {
		if k.Facts.MAC == link.MAC && k.Facts.Name != "" {
			id = k.Facts.ID
		}
	}
	switch word := l.unmanaged.match(link.Name, link.MAC, id); {
	case word == "":
		return ""
	case word == id || strings.Contains(word, ":"):
		return "EC2NET_UNMANAGED names " + word
	}
	return "EC2NET_UNMANAGED names it"
}

// leftAlone reports whether ec2net leaves an interface alone of which it may remember
// nothing.
func (l *look) leftAlone(link plan.Link) bool {
	k, _ := l.Of(link.Name)
	return k.Left != "" || link.Master != 0 || l.named(link) != "" || !l.pods.Nobody()
}

// ownTables is ownTable with the tables of what ec2net takes over from cloud-init.
func (h *Host) ownTables(l *look) (func(table int) bool, error) {
	own := h.ownTable(l.name)
	if l.kind != render.Networkd {
		return own, nil
	}
	theirs, err := h.networkd().Tables(l.link)
	return func(table int) bool { return own(table) || slices.Contains(theirs, table) }, err
}

// ownTable returns a function that reports whether a table can be the interface's own,
// by ec2net's numbers.
func (h *Host) ownTable(name string) func(table int) bool {
	if e, err := facts.Bare(name, facts.MAC{}, h.Numbers); err == nil {
		return func(table int) bool { return table == e.Number }
	}
	const indexes = 100 * 100 // device numbers, network cards
	return func(table int) bool { return table >= h.Numbers.Base && table < h.Numbers.Base+indexes }
}
