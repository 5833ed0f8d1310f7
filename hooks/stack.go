package hooks

import (
	"context"
	"errors"
	"time"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/plan"
	"ec2net/render"
	"ec2net/stack"
	"ec2net/stack/ifupdown"
	"ec2net/stack/networkd"
)

// Stack brings interfaces up and takes them down: a network stack of the system.
type Stack interface {
	Format
	// Prepare is called before ec2net writes the file of an interface. It returns an error if
	// the stack would not read that.
	Prepare(name string) error
	// Owner says who else configures an interface. ours says that ec2net has configured one of
	// that name before.
	Owner(ctx context.Context, link plan.Link, ours bool) (stack.Owner, error)
	// Up brings an interface up by its file, and waits for its lease. live says that ec2net has
	// brought it up before: what has changed in the file then waits for Down and Up.
	Up(ctx context.Context, link plan.Link, live bool) error
	// Down takes one down, by the file that brought it up, also if that is gone now. ran
	// reports whether there was something to do.
	Down(ctx context.Context, link plan.Link) (ran bool, err error)
	// Health says what may be the matter with an interface that is up. state has its
	// addresses.
	Health(state plan.State, link plan.Link) (stack.Health, error)
}

// Format is the file of an interface, of a stack.
type Format interface {
	Path(name string) string
	Parse(text []byte, name string) stack.Stanza
}

// stack returns a network stack of this machine.
func (h *Host) stack(kind render.Stack) Stack {
	if kind == render.Networkd {
		return h.networkd()
	}
	return h.ifupdown()
}

func (h *Host) ifupdown() *ifupdown.Stack {
	return &ifupdown.Stack{Tree: h.Tree, Run: h.Run, Tell: h.tell}
}

func (h *Host) networkd() *networkd.Stack {
	return &networkd.Stack{Tree: h.Tree, Run: h.Run, Tell: h.tell, AwaitAddress: h.awaitAddress, LeaveCloudInit: h.LeaveCloudInit}
}

func (h *Host) tell(iface, what string) { h.Log.Info(iface, "%s", what) }

// stackBy returns the stack that brings the ENIs up. links are those of the machine; primary
// is zero if unknown.
func (h *Host) stackBy(links []plan.Link, primary facts.MAC) render.Stack {
	if h.Stack != "" {
		return h.Stack
	}
	index := 0
	for _, link := range plan.ENIsAmong(links, []facts.MAC{primary}) {
		index = link.Index
	}
	return StackOf(h.Tree, index)
}

// StackOf returns the stack of a machine: systemd-networkd if that manages the primary ENI and
// can be reached, or runs where ifupdown is not installed; else ifupdown. While networkd starts,
// it has not decided about the primary yet: then it counts if there is a file of ec2net's for
// it. primary is the index of the primary's link; 0: unknown.
func StackOf(tree *disk.Tree, primary int) render.Stack {
	runs, err := networkd.Runs(tree)
	if err != nil || !runs {
		return render.Ifupdown
	}
	reached, unknown := networkd.Reachable(tree)
	reached = reached || unknown != nil
	state, err := stack.ReadLinkState(tree, primary)
	if err == nil && state.File != "" && reached {
		return render.Networkd
	}
	there, failed := ifupdown.Installed(tree)
	if err == nil && failed == nil && there && reached && networkd.Undecided(state) {
		used, err := networkd.Used(tree)
		there = err != nil || !used
	}
	if failed != nil || there {
		return render.Ifupdown
	}
	return render.Networkd
}

// awaitStack waits, up to two seconds, until systemd-networkd has decided about the primary, if
// that says which stack brings the ENIs up. Then it looks again.
func (h *Host) awaitStack(ctx context.Context, l *look) (*look, error) {
	link, here := l.PrimaryLink()
	runs, err := networkd.Runs(h.Tree)
	if err != nil || !runs || h.Stack != "" || !here || l.kind == render.Networkd {
		return l, err
	}
	before, err := stack.ReadLinkState(h.Tree, link.Index)
	if err != nil || !networkd.Undecided(before) {
		return l, err
	}
	if _, err := stack.AwaitLinkState(ctx, h.Tree, link.Index, networkd.Undecided); err != nil {
		return l, err
	}
	return h.look(news{name: l.name})
}

// stackOf returns the stack by whose file an interface comes up.
func (l *look) stackOf(name string) render.Stack {
	if by, ok := l.by[name]; ok {
		return by
	}
	return l.kind
}

// has reports whether a stack can take down what it has brought up: ifupdown may have been
// removed.
func (h *Host) has(kind render.Stack) (bool, error) {
	if kind == render.Networkd {
		return true, nil
	}
	return ifupdown.Installed(h.Tree)
}

// fileOf reads the file by which an interface comes up: that of the stack that brings the ENIs
// up; that of another, if only it has one that says EC2SYNC=no, or one of ec2net's. With ec2net's
// the machine or its settings have changed since the interface came up, and it stays as it is
// until it comes up again.
func (h *Host) fileOf(kind render.Stack, name string) (render.Stack, []byte, error) {
	text, err := h.Tree.Read(h.stack(kind).Path(name))
	if err != nil || text != nil {
		return kind, text, err
	}
	for _, other := range render.Stacks {
		text, err := h.Tree.Read(h.stack(other).Path(name))
		says := parseStanza(h.stack(other), text, name)
		if err != nil || says.Unmanaged {
			return other, text, err
		}
		if there, err := h.has(other); err != nil || there && says.Generated {
			return other, text, err
		}
	}
	return kind, nil, nil
}

// primaryLimit bounds the wait for the primary's address. Then the unit tries again.
const primaryLimit = 60 * time.Second

// awaitPrimary waits for the primary's address where no hook of its DHCP client tells of that,
// and reports whether it has one now. With a hook, that has hotplug happen again.
func (h *Host) awaitPrimary(ctx context.Context) (up bool, err error) {
	l, err := h.look(news{})
	if err != nil {
		return false, err
	}
	link, here := l.PrimaryLink()
	if !here || l.kind != render.Networkd {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, primaryLimit)
	defer cancel()
	if err := h.awaitAddress(ctx, link); err != nil {
		return false, errors.Join(errNotYet, err)
	}
	return true, nil
}

// awaitAddress waits until a link has an address with the length of a subnet, which ec2net
// never gives: that of the DHCP client.
func (h *Host) awaitAddress(ctx context.Context, link plan.Link) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changed, err := h.Kernel.Watch(ctx)
	if err != nil {
		return err
	}
	for {
		l := look{name: link.Name}
		if l.State, err = h.Kernel.Look(func([]plan.Link) plan.Scope { return plan.Scope{} }); err != nil {
			return err
		}
		if l.link, _ = l.State.LinkNamed(link.Name); l.stillThere(news{name: link.Name, device: &link}) != nil || l.hasSubnet(link) {
			return nil // who calls looks whether the device is there
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, open := <-changed.C:
			if !open {
				return changed.Err()
			}
		}
	}
}

// hearStack adds what is known of leases if no DHCP client has a hook: the lease that networkd
// keeps, else an address with the length of a subnet, which an administrator's file may give.
// Without either, networkd may be configuring the link again: the rules stay, and the other
// addresses answer.
func (l *look) hearStack(h *Host) {
	for i := range l.Known {
		k := &l.Known[i]
		link, there := l.State.LinkNamed(k.Name)
		if !there || !k.Stanza || l.stackOf(k.Name) != render.Networkd {
			continue
		}
		addr, _ := h.networkd().Leased(link.Index) // else the address tells
		for _, a := range l.State.Addrs {
			if !addr.IsValid() && a.Link == link.Index && !a.Prefix.IsSingleIP() && a.Prefix.Addr().Is4() {
				addr = a.Prefix.Addr()
			}
		}
		k.Lease = plan.Lease{}
		if addr.IsValid() {
			k.Lease = plan.Lease{MAC: link.MAC, Index: link.Index, Addr: addr}
		}
	}
}
