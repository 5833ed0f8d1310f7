package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/iprule"
	"ec2net/plan"
)

const (
	// hotplugIMDS is how long an ENI may take to become complete in IMDS.
	hotplugIMDS = 40 * time.Second
	// leaseIMDS is how long a DHCP client's hook may wait for IMDS: the client
	// does nothing else meanwhile.
	leaseIMDS = 5 * time.Second
	// bootIMDS is how long the hook may wait when a known ENI gets its lease: the boot
	// may wait for that.
	bootIMDS = time.Second
	// oneIMDS is how long one of several questions may take.
	oneIMDS = 5 * time.Second
	// pause is the wait before the second question; it doubles each time, up to
	// longestPause. With at most 20 requests a question that makes 180 in 40 s, and
	// the next hotplug comes a minute later.
	pause        = 500 * time.Millisecond
	longestPause = 8 * time.Second
)

// ask asks IMDS once for the device of a look, unless something stands between this
// machine and IMDS. An answer that cannot be about the device is an error.
func (h *Host) ask(ctx context.Context, l *look, patience time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := h.checkWay(l); err != nil {
		return answer{}, err
	}
	e, err := h.Source.ENI(ctx, l.link.Name, l.link.MAC, h.Numbers)
	if err != nil {
		return answer{}, err
	}
	return answer{e, l.Known}, l.Check(l.link, e)
}

// askUntilComplete asks IMDS until IMDS knows the whole ENI, is switched off, or
// hotplugIMDS has passed. It looks again before each question.
func (h *Host) askUntilComplete(ctx context.Context, l *look) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, hotplugIMDS)
	defer cancel()
	// An answer with IPv6 addresses alone may be final, or IMDS may not know the IPv4
	// addresses yet: keep it, and ask again.
	var ipv6Only answer
	device := l.link
	for wait := pause; ; wait = min(2*wait, longestPause) {
		e, err := h.ask(ctx, l, oneIMDS)
		if err == nil && (e.Primary || e.HasIPv4()) || switchedOff(err) {
			return e, err
		}
		if err == nil {
			ipv6Only = e
		}
		select {
		case <-ctx.Done():
			if ipv6Only.ID != "" {
				return ipv6Only, nil
			}
			return e, err
		case <-time.After(wait):
		}
		again, lookErr := h.look(news{name: l.name})
		if lookErr != nil {
			return e, lookErr
		}
		if gone := again.stillThere(news{name: l.name, device: &device}); gone != nil {
			return e, gone
		}
		l = again
	}
}

// switchedOff reports whether an administrator has switched IMDS off: asking again soon
// would not help.
func switchedOff(err error) bool {
	var imds *facts.IMDSError
	return errors.As(err, &imds) && imds.SwitchedOff()
}

// WayError says that something stands between this machine and IMDS.
type WayError struct {
	To netip.Addr
	By string
}

func (e *WayError) Error() string {
	return fmt.Sprintf("what answers at %s is not IMDS: the route there leads by %s, which is not an ENI", e.To, e.By)
}

// Status says that ec2net could not get the facts.
func (*WayError) Status() fault.Status { return fault.Facts }

// Hint says how to see the route, and what to change.
func (e *WayError) Hint() string {
	return fmt.Sprintf("ip route get %s shows the route: the container network or VPN must not have that address", e.To)
}

// CheckWay returns an error if a bridge, a tunnel or the like leads to the address of
// IMDS, or if that is an address of this machine: a container or a VPN would answer. It
// checks only IMDS's own, link-local address: another one is an administrator's choice.
func CheckWay(k Kernel, to netip.Addr) error {
	if !linkLocal(to) {
		return nil
	}
	state, err := k.Look(func([]plan.Link) plan.Scope { return plan.Scope{To: to} })
	if err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", err)
	}
	return checkWay(k, to, &plan.Machine{State: state})
}

func linkLocal(to netip.Addr) bool { return to.Is4() && to.IsLinkLocalUnicast() }

func (h *Host) checkWay(l *look) error {
	if !linkLocal(h.IMDS) {
		return nil
	}
	return checkWay(h.Kernel, h.IMDS, &l.Machine)
}

func checkWay(k Kernel, to netip.Addr, m *plan.Machine) error {
	for _, way := range []func() (plan.Link, bool){
		func() (plan.Link, bool) { return routeTo(to, m.State) },
		func() (plan.Link, bool) { return linkWithAddr(k.Source(to), m.State) },
	} {
		if l, ok := way(); ok && (l.Loopback || !m.CanBeENI(l)) {
			return &WayError{to, l.Name}
		}
	}
	return nil
}

// routeTo returns the interface by which main leads to an address.
func routeTo(to netip.Addr, s plan.State) (plan.Link, bool) {
	best := plan.Route{Dst: netip.PrefixFrom(to, -1)}
	for _, r := range s.Routes {
		if r.Table != iprule.MainTable || r.TOS != 0 || !r.Dst.Contains(to) {
			continue
		}
		if r.Dst.Bits() > best.Dst.Bits() || (r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric) {
			best = r
		}
	}
	return s.LinkAt(best.Link)
}

// linkWithAddr returns the interface that has an address. checkWay calls it with the
// source address that the kernel would choose: that takes account of other tools' rules,
// and of a destination that is an address of this machine.
func linkWithAddr(from netip.Addr, s plan.State) (plan.Link, bool) {
	for _, a := range s.Addrs {
		if a.Prefix.Addr() == from {
			return s.LinkAt(a.Link)
		}
	}
	return plan.Link{}, false
}
