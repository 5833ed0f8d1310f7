package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"ec2net/facts"
	"ec2net/kernel"
)

// Lease is what a DHCP client tells its hooks: dhclient-script(8),
// dhcpcd-run-hooks(8).
type Lease struct {
	Interface string
	Reason    string
	// Address is the leased one; not valid if there is none.
	Address netip.Addr
}

type leaseEvent int

const (
	leaseNothing leaseEvent = iota
	leaseBegins             // a new lease, for which the boot may wait
	leaseRenewed            // the same lease goes on
	leaseEnds               // no lease any more: the rules go
)

// leaseEvents are the reasons of dhclient and of dhcpcd at which ec2net acts. Those that
// end in 6 are about IPv6, which ec2net does not render.
var leaseEvents = map[string]leaseEvent{
	"BOUND": leaseBegins, "REBOOT": leaseBegins, "TIMEOUT": leaseBegins, "INFORM": leaseBegins, "STATIC": leaseBegins,
	"RENEW": leaseRenewed, "REBIND": leaseRenewed,
	"EXPIRE": leaseEnds, "FAIL": leaseEnds, "RELEASE": leaseEnds, "STOP": leaseEnds, "NAK": leaseEnds,
	"STOPPED": leaseEnds, "DEPARTED": leaseEnds,
}

// OnLease makes the rules and the secondary addresses of an ENI current, or removes the
// rules. It does so by netlink and starts no program, unless a renewal finds that the marks
// of an ENI were never made.
func (h *Host) OnLease(ctx context.Context, lease Lease) error {
	event := leaseEvents[lease.Reason]
	if event == leaseNothing || facts.CheckName(lease.Interface) != nil {
		return nil // such as the VLAN eth0.5, which is not an ENI
	}
	n := news{name: lease.Interface, why: lease.Reason, lease: &leaseNews{addr: lease.Address, ended: event == leaseEnds}}
	l, err := h.converge(ctx, n)
	if event == leaseEnds || l == nil || l.unread[n.name] != nil {
		return err
	}
	if l.link.Index == 0 {
		return &kernel.GoneError{Name: n.name}
	}
	k, _ := l.Of(n.name)
	if k.Left != "" {
		return nil // without a line in the log at every renewal
	}
	n.device, n.rendered = &l.link, l.rendered
	if err == nil || l.refused {
		err = errors.Join(err, h.askForLease(ctx, l, n, event))
	}
	if errors.Is(err, errReplaced) || errors.Is(err, errTakenDown) {
		h.Log.Info(n.name, "%v: nothing done (%s)", err, n.why)
		err = nil
	}
	return errors.Join(err, h.afterLease(ctx, l, event))
}

// afterLease does the rest of a lease. A renewal makes marks that were never made. A new
// lease may be the primary's, for which other ENIs have waited.
func (h *Host) afterLease(ctx context.Context, l *look, event leaseEvent) error {
	k, _ := l.Of(l.name)
	switch e, known := k.FactsOf(l.link); {
	case event == leaseRenewed:
		return h.finishMarks(ctx, l)
	case e.Primary || !known:
		return h.scanAfterPrimary(ctx, l.name)
	}
	return nil
}

// askForLease asks IMDS for the ENI of a lease, and applies the answer.
func (h *Host) askForLease(ctx context.Context, l *look, n news, event leaseEvent) error {
	k, _ := l.Of(n.name)
	_, known := k.FactsOf(l.link)
	if err := l.damaged[n.name]; err != nil {
		h.Log.Warn(n.name, "%v", err)
	}
	patience := leaseIMDS
	if known && event == leaseBegins {
		patience = bootIMDS
	}
	for tries := 1; ; tries++ {
		e, failure := h.ask(ctx, l, patience)
		if failure != nil {
			return h.withoutAnswer(l, n, event, failure)
		}
		err := h.take(ctx, l, n, e)
		switch {
		case !errors.Is(err, errOvertaken):
			return err
		case tries == maxTries:
			h.Log.Info(n.name, "%v again and again: using that (%s)", err, n.why)
			return nil
		}
		h.Log.Info(n.name, "%v: asking again (%s)", err, n.why)
		if l, err = h.look(news{name: n.name}); err != nil {
			return err
		}
	}
}

// withoutAnswer goes on without an answer of IMDS about the ENI of a lease.
func (h *Host) withoutAnswer(l *look, n news, event leaseEvent, failure error) error {
	k, _ := l.Of(n.name)
	last, known := k.FactsOf(l.link)
	primary := l.Primary()
	var err error
	switch {
	case !known && primary == l.link.MAC:
		h.Log.Warn(n.name, "%v; the primary ENI stays as it is (%s)", failure, n.why)
	case !k.Stanza && !last.Primary:
		// As far as ec2net knows, somebody else configures this ENI. But if it does not know
		// the primary, this may be the primary.
		if primary != (facts.MAC{}) || event != leaseBegins || !l.link.Device {
			return nil
		}
	case known:
		h.Log.Warn(n.name, "%v; using the remembered facts (%s)", failure, n.why)
	default:
		h.Log.Warn(n.name, "%v; only the leased address gets a rule (%s)", failure, n.why)
		if !k.Note.Of(l.link) {
			_, err = facts.Bare(n.name, l.link.MAC, h.Numbers)
		}
	}
	h.later(n.name, failure)
	return err
}

// take applies an answer of IMDS, unless somebody else configures the ENI, or its number
// has changed.
func (h *Host) take(ctx context.Context, l *look, n news, e answer) error {
	k, _ := l.Of(n.name)
	last, known := k.FactsOf(l.link)
	switch {
	case !k.Stanza && !e.Primary && !last.Primary:
		return nil // somebody else configures it
	case known && e.Number != last.Number && !e.Primary:
		// Its files, and so its table, have the old number: only hotplug changes that.
		h.Log.Warn(n.name, "its table is %d now, by IMDS, but it uses %d: \"ec2ifdown %s\" and \"ec2ifup %s\" change it",
			e.Number, last.Number, n.name, n.name)
		return nil
	}
	if k.Note.MAC == l.link.MAC && k.Note.Number != e.Number && !e.Primary {
		h.Log.Warn(n.name, "was brought up with table %d, and is to use %d: if EC2NET_BASE has changed, reboot; else \"ec2ifdown %s\" and \"ec2ifup %s\" change it",
			k.Note.Number, e.Number, n.name, n.name)
	}
	return h.learn(ctx, l, n, e)
}

// learn converges on an answer of IMDS, and remembers it. It does not look again if, by
// this look, neither changes anything.
func (h *Host) learn(ctx context.Context, l *look, n news, e answer) error {
	n.answer = &e
	k, _ := l.Of(n.name)
	then := l.with(n)
	changes, _, broken := h.changes(ctx, then)
	if broken == nil && len(changes) == 0 && reflect.DeepEqual(k.Facts, e.ENI) && reflect.DeepEqual(then.Moved, l.Moved) && h.scriptCurrent(then, n.name, e.ENI) {
		return nil
	}
	_, err := h.converge(ctx, n)
	return err
}

// later asks IMDS again soon, in the background, so that remembered facts serve for
// seconds, and not for half a lease. failure is why IMDS did not answer.
func (h *Host) later(name string, failure error) {
	if h.Later == nil || switchedOff(failure) {
		return
	}
	if err := h.Later(name); err != nil {
		h.Log.Warn(name, "cannot ask IMDS again in the background: %v", err)
	}
}

// scanAfterPrimary, if name is the primary, scans for the ENIs that were attached while
// the primary had no address, those of which nothing is known too.
func (h *Host) scanAfterPrimary(ctx context.Context, name string) error {
	l, err := h.look(news{name: name})
	if err != nil {
		return err
	}
	if l.link.Index == 0 || l.link.MAC != l.Primary() {
		return nil
	}
	macs := l.knownMACs()
	if listed, err := h.unknownMACs(ctx, l); err != nil {
		h.Log.Warn(name, "%v; looked only at known ENIs", err)
	} else {
		macs = append(macs, listed...)
	}
	if err := h.scan(ctx, l, macs); err != nil {
		h.Log.Warn(name, "%v", err) // no error of the lease itself
	}
	return nil
}

// LeaseFromEnvironment reads what the client has put into the hook's environment.
func LeaseFromEnvironment(env func(string) string) (Lease, error) {
	l := Lease{Interface: env("interface"), Reason: strings.ToUpper(env("reason"))}
	if l.Interface == "" || l.Reason == "" {
		return l, errors.New("the environment lacks interface or reason, which a DHCP client sets for its hook")
	}
	if text := env("new_ip_address"); text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			return l, fmt.Errorf("new_ip_address %.40q is not an IPv4 address", text)
		}
		l.Address = a
	}
	return l, nil
}
