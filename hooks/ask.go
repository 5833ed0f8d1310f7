package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/fault"
)

const (
	// hotplugIMDS is how long an ENI may take to become complete in IMDS.
	hotplugIMDS = 40 * time.Second
	// leaseIMDS is how long a DHCP client's hook may wait for IMDS: the client
	// does nothing else meanwhile.
	leaseIMDS = 5 * time.Second
	// bootIMDS is how long it may in what holds up the boot: the lease of an ENI
	// that is known.
	bootIMDS = time.Second
	// oneIMDS is how long one question may take where there are more.
	oneIMDS = 5 * time.Second
	// pause and longestPause are the waits between asking IMDS again, the first
	// doubled each time. With at most 20 requests to a question that makes 180
	// in 40 s, and the next hotplug comes a minute later.
	pause        = 500 * time.Millisecond
	longestPause = 8 * time.Second
)

// consequence is what follows when IMDS could not be asked for an ENI.
type consequence int

const (
	askAgain consequence = iota // it may say more in a moment
	useLast                     // what it said last of this very device serves
	useLease                    // the leased address alone gets its rule
	giveUp                      // it will say the same in a moment
)

// after decides what a failure to have facts means; nothing else does. Known is
// whether IMDS has said something of this very device before, patient whether
// the caller can wait: hotplug can, a DHCP client's hook can not.
//
// Nothing is ever taken away because of a failure.
func after(failure error, known, patient bool) consequence {
	var imds *facts.IMDSError
	switch {
	case known:
		return useLast
	case !patient:
		return useLease
	case errors.As(failure, &imds) && imds.HTTP == http.StatusForbidden:
		return giveUp // switched off
	}
	return askAgain
}

// lastFacts are those that IMDS gave last for this very device. A cloned
// machine has other MACs, and so does not inherit them.
func (h *Host) lastFacts(l Link) (facts.ENI, bool, error) {
	e, ok, err := h.state().facts(l.Name)
	if !ok || e.MAC != l.MAC {
		return facts.ENI{}, false, err
	}
	return e, true, nil
}

// factsElsewhere are those that IMDS gave last for this device when it had another
// name, with the numbers of the one that it has now; nil if there are none.
func (h *Host) factsElsewhere(l Link) *facts.ENI {
	all, err := h.state().all()
	if err != nil || !facts.NumberedByName(l.Name) {
		return nil
	}
	var found *facts.ENI
	for _, e := range all {
		if e.MAC != l.MAC || e.Primary {
			continue
		}
		e, err := facts.Renamed(e, l.Name, h.Numbers)
		if err != nil || (found != nil && !reflect.DeepEqual(*found, e)) {
			return nil // nothing says which was last
		}
		found = &e
	}
	return found
}

// ask asks IMDS once, if the way there is IMDS's, and if it is believed.
// seen is what the kernel said a moment ago, if it was asked.
// lease is the address that the DHCP server gave the device, if it is known.
func (h *Host) ask(ctx context.Context, link Link, lease netip.Addr, patience time.Duration, seen *Actual) (facts.ENI, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := h.checkWay(seen); err != nil {
		return facts.ENI{}, err
	}
	e, err := h.Source.ENI(ctx, link.Name, link.MAC, h.Numbers)
	if err != nil {
		return facts.ENI{}, err
	}
	return e, h.believe(link, lease, e)
}

// AnswerError says that an answer of IMDS's cannot be about the device that it
// was asked for: it counts as none.
type AnswerError struct{ Name, Why string }

func (e *AnswerError) Error() string {
	return fmt.Sprintf("what IMDS says of %s is not believed: %s", e.Name, e.Why)
}

// Status is that of facts that are missing.
func (*AnswerError) Status() fault.Status { return fault.Facts }

// Hint says how to have it believed.
func (e *AnswerError) Hint() string {
	return fmt.Sprintf("if it is right, and what is remembered is not: rm %s", factsPath(e.Name))
}

// believe holds an answer against what is known. An ENI that is up stays the one
// that it is, and no two that are there have one id. What was remembered may have
// been wrong, and is if the lease bears out the answer.
func (h *Host) believe(link Link, lease netip.Addr, e facts.ENI) error {
	last, known, err := h.lastFacts(link)
	if err != nil && !known {
		return nil // nothing that can be read says otherwise
	}
	switch {
	case known && last.ID == e.ID && last.Primary == e.Primary:
	case known && lease.IsValid() && slices.Contains(e.IPv4, lease) && !slices.Contains(last.IPv4, lease):
	case known && (last.Primary || h.state().configured(link)):
		return &AnswerError{link.Name, fmt.Sprintf("it is %s, and is to be %s (primary: %t)", last.ID, e.ID, e.Primary)}
	case known:
	default:
		all, err := h.state().all()
		if err != nil {
			return err
		}
		for _, other := range all {
			if other.ID != e.ID || other.MAC == e.MAC {
				continue
			}
			if l, _, err := h.link(other.Name); err == nil && l.MAC == other.MAC {
				return &AnswerError{link.Name, fmt.Sprintf("%s is the ENI with the MAC %s", e.ID, other.MAC)}
			}
		}
	}
	return nil
}

// askUntilComplete asks IMDS until it has the whole ENI.
func (h *Host) askUntilComplete(ctx context.Context, link Link) (facts.ENI, error) {
	ctx, cancel := context.WithTimeout(ctx, hotplugIMDS)
	defer cancel()
	var six facts.ENI // if it has had IPv6 addresses alone so far
	for wait := pause; ; wait = min(2*wait, longestPause) {
		e, err := h.ask(ctx, link, netip.Addr{}, oneIMDS, nil)
		// That there are IPv6 addresses alone may be so, or not be all yet.
		whole := err == nil && (e.Primary || e.HasIPv4())
		if err == nil && !whole {
			six = e
		}
		if whole || (err != nil && after(err, false, true) != askAgain) {
			return e, err
		}
		select {
		case <-ctx.Done():
			if six.ID != "" {
				return six, nil
			}
			return e, err
		case <-time.After(wait):
		}
		if now, _, err := h.link(link.Name); err != nil {
			return e, err
		} else if now.MAC != link.MAC || now.Index != link.Index {
			return e, errReplaced
		}
	}
}

// WayError says that something stands between this machine and IMDS.
type WayError struct {
	To netip.Addr
	By string
}

func (e *WayError) Error() string {
	return fmt.Sprintf("what answers at %s is not IMDS: the way there leads by %s, which is no ENI", e.To, e.By)
}

// Status is that of facts that are missing.
func (*WayError) Status() fault.Status { return fault.Facts }

// Hint says where to look.
func (e *WayError) Hint() string {
	return fmt.Sprintf("ip route get %s shows the way: take it from the container network or VPN that has it", e.To)
}

func (h *Host) checkWay(seen *Actual) error {
	if !onTheWay(h.IMDS) {
		return nil
	}
	known, err := h.known()
	if err != nil {
		return err
	}
	return checkWay(h.Kernel, h.IMDS, seen, known)
}

// CheckWay refuses to ask IMDS at an address to which a bridge, a tunnel or the
// like leads, or which is this machine's own: there a container or a VPN would
// answer in its place.
// Elsewhere than at the link-local address it is where somebody says that it is.
func CheckWay(k Kernel, to netip.Addr) error {
	if !onTheWay(to) {
		return nil
	}
	return checkWay(k, to, nil, Known{})
}

func onTheWay(to netip.Addr) bool { return to.Is4() && to.IsLinkLocalUnicast() }

func checkWay(k Kernel, to netip.Addr, seen *Actual, known Known) error {
	if seen == nil {
		var err error
		if seen, err = waysOf(k); err != nil {
			return fmt.Errorf("cannot ask the kernel: %w", err)
		}
	}
	for _, way := range []func() (Link, bool){
		func() (Link, bool) { return wayTo(to, seen.Links, seen.Routes) },
		func() (Link, bool) { return holder(k.Source(to), seen) },
	} {
		if l, ok := way(); ok && (l.Loopback || !known.canBeENI(l, seen.Links)) {
			return &WayError{to, l.Name}
		}
	}
	return nil
}

func waysOf(k Kernel) (seen *Actual, err error) {
	seen = new(Actual)
	if seen.Links, err = k.Links(); err != nil {
		return nil, err
	}
	if seen.Addrs, err = k.Addrs(); err != nil {
		return nil, err
	}
	seen.Routes, err = k.Routes()
	return seen, err
}

// wayTo is the interface by which main leads to an address.
func wayTo(to netip.Addr, seen []Link, routes []Route) (Link, bool) {
	best := Route{Dst: netip.PrefixFrom(to, -1)}
	for _, r := range routes {
		if r.Table != unix.RT_TABLE_MAIN || !r.Dst.Contains(to) {
			continue
		}
		if r.Dst.Bits() > best.Dst.Bits() || (r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric) {
			best = r
		}
	}
	return indexed(seen, best.LinkIndex)
}

// holder is the interface that has an address. By the address that the kernel
// would send from, that tells where other tools' rules lead, and whether an
// address is this machine's own.
func holder(from netip.Addr, seen *Actual) (Link, bool) {
	for _, a := range seen.Addrs {
		if a.Prefix.Addr() == from {
			return indexed(seen.Links, a.LinkIndex)
		}
	}
	return Link{}, false
}
