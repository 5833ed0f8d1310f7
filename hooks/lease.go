package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/render"
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
	leaseCurrent            // there is a lease: rules and addresses are made current
	leaseGone               // there is none any more: the rules go
)

// leaseEvents are the reasons of dhclient and of dhcpcd that mean something.
// Those that end in 6 are about IPv6, which is not rendered.
var leaseEvents = map[string]leaseEvent{
	"BOUND": leaseCurrent, "RENEW": leaseCurrent, "REBIND": leaseCurrent, "REBOOT": leaseCurrent, "TIMEOUT": leaseCurrent,
	"INFORM": leaseCurrent, "STATIC": leaseCurrent,
	"EXPIRE": leaseGone, "FAIL": leaseGone, "RELEASE": leaseGone, "STOP": leaseGone, "NAK": leaseGone,
	"STOPPED": leaseGone, "DEPARTED": leaseGone,
}

// OnLease keeps the rules and the secondary addresses of an ENI current, or
// takes the rules away. Only netlink is used: no process is started.
func (h *Host) OnLease(ctx context.Context, l Lease) error {
	event := leaseEvents[l.Reason]
	if event == leaseNothing {
		return nil
	}
	if facts.CheckName(l.Interface) != nil {
		return nil // such as the VLAN eth0.5, which is somebody else's
	}
	var left *UnmanagedError
	if err := h.managed(l.Interface); errors.As(err, &left) {
		return nil // and no line in the log at every renewal
	} else if err != nil {
		return err
	}
	if event == leaseGone {
		if ours, err := h.ours(l.Interface); err != nil || !ours {
			return err
		}
		return h.takeRules(ctx, l.Interface, l.Reason)
	}
	err := h.makeCurrent(ctx, l)
	if errors.Is(err, errReplaced) || errors.Is(err, errTakenDown) {
		h.logf(l.Interface, "%v: nothing done (%s)", err, l.Reason)
		err = nil
	}
	if l.begins() {
		err = errors.Join(err, h.scanAfterPrimary(l.Interface))
	}
	return err
}

// begins says whether there was no lease before.
func (l Lease) begins() bool {
	return slices.Contains([]string{"BOUND", "REBOOT", "TIMEOUT", "INFORM", "STATIC"}, l.Reason)
}

// ours says whether an interface is one that ec2net configures, or did: a cfg
// file of its name may be an administrator's.
func (h *Host) ours(name string) (bool, error) {
	cfg, err := h.state().cfg(name)
	if err != nil {
		return false, err
	}
	if render.Generated(cfg) {
		return true, nil
	}
	// A template of the administrator's own may not say what it makes.
	script, err := h.lastScript(name)
	if err != nil || script != nil {
		return script != nil, err
	}
	_, remembered, err := h.state().facts(name)
	return remembered, err
}

// scanAfterPrimary comes back to ENIs that were plugged in while the primary
// had no address.
func (h *Host) scanAfterPrimary(name string) error {
	known, err := h.known()
	if err != nil {
		return err
	}
	e, remembered, err := h.state().facts(name)
	if err != nil || !remembered { // the other ENIs know which one it is
		link, _, err := h.link(name)
		if err != nil {
			return nil // the lease itself has said so
		}
		e.Primary = link.MAC == known.Primary
	}
	if !e.Primary {
		return nil
	}
	if err := h.scan(known.MACs); err != nil {
		h.logf(name, "%v", err) // the lease itself is in order
	}
	return nil
}

// makeCurrent makes the kernel have what the facts of now ask for. What IMDS
// said last of this very device is applied first, since IMDS may take its time.
func (h *Host) makeCurrent(ctx context.Context, l Lease) error {
	link, links, err := h.link(l.Interface)
	if err != nil {
		return err
	}
	last, remembered, err := h.lastFacts(link)
	if err != nil {
		h.logf(link.Name, "%v", err)
	}
	configured, err := h.hasStanza(link.Name)
	if err != nil {
		return err
	}
	var seen *Actual
	if remembered && (configured || last.Primary) {
		seen, err = h.apply(ctx, l, links, Wanted{ENI: last, Own: last.IPv4, KeepLive: true, Attached: &link})
		if err != nil {
			return err
		}
	}
	e, failure := h.ask(ctx, link, l.Address, l.patience(remembered), seen)
	if failure == nil && !e.HasIPv4() && l.Address.IsValid() && !l.Address.IsLinkLocalUnicast() {
		failure = &AnswerError{link.Name, fmt.Sprintf("no IPv4 address, where %s is leased", l.Address)}
	}
	known, err := h.known()
	if err != nil {
		return err
	}
	switch {
	case failure != nil && !remembered && known.Primary == link.MAC:
		h.logf(link.Name, "%v; the primary ENI stays as it is (%s)", failure, l.Reason)
		return nil
	case !configured && !e.Primary && !last.Primary:
		return nil // an ENI that somebody else configures, as far as anybody knows
	case failure == nil:
	case after(failure, remembered, false) == useLast:
		h.logf(link.Name, "%v; going on with what IMDS said last (%s)", failure, l.Reason)
		return nil
	default:
		h.logf(link.Name, "%v; only the leased address gets its rule (%s)", failure, l.Reason)
		if e, err = facts.Bare(link.Name, link.MAC, h.Numbers); err != nil {
			return err
		}
		_, err = h.apply(ctx, l, nil, Wanted{ENI: e, KeepRules: true, Attached: &link})
		return err
	}
	if remembered && e.Table() != last.Table() && !e.Primary {
		// Its files, and so its table, are of another number: hotplug's matter.
		h.logf(link.Name, "IMDS gives it another place (table %d, was %d): unplug it, or take it down and up, to have it moved", e.Table(), last.Table())
		return nil
	}
	if up, ok := h.state().broughtUp(link.Name); ok && up.mac == link.MAC && up.table != e.Table() && !e.Primary {
		h.logf(link.Name, "was brought up with table %d, and is to have %d: \"ec2net down %s\" and \"ec2net up %s\" change it", up.table, e.Table(), link.Name, link.Name)
	}
	if !remembered || !reflect.DeepEqual(e, last) || superfluous(seen, e, l.Address) {
		if _, err := h.apply(ctx, l, nil, Wanted{ENI: e, Own: last.IPv4, Fresh: true, Attached: &link}); err != nil {
			return err
		}
	}
	if now, ok, _ := h.state().facts(e.Name); remembered && ok && now.MAC != e.MAC {
		return errReplaced // nothing had to be changed, and nobody has looked
	}
	return h.remember(ctx, e)
}

// superfluous says whether there was a rule of an address that is not the ENI's:
// old facts do not have it go.
func superfluous(seen *Actual, e facts.ENI, lease netip.Addr) bool {
	return seen != nil && slices.ContainsFunc(seen.Rules, func(k KernelRule) bool {
		return k.Priority == e.Table() && k.Table == e.Table() && k.Protocol == iprule.Protocol && k.From.IsSingleIP() &&
			k.From.Addr() != lease && !slices.Contains(e.IPv4, k.From.Addr())
	})
}

// patience is how long IMDS is waited for. A lease at boot, of an ENI that is
// known, holds up the boot.
func (l Lease) patience(remembered bool) time.Duration {
	if remembered && l.begins() {
		return bootIMDS
	}
	return leaseIMDS
}

// apply makes the kernel have what the facts of want ask for: it says the rules and
// the addresses. Nothing is taken away if the leased address is not known, whose
// rule that may be. A template that is broken does not take away what works: then
// the script that was rendered last says the rules.
func (h *Host) apply(ctx context.Context, l Lease, links []Link, want Wanted) (*Actual, error) {
	e := want.ENI
	want.Lease = l.Address
	want.KeepRules = want.KeepRules || !l.Address.IsValid()
	var broken error
	if want.Rules, broken = h.rules(ctx, e, l.Address); broken != nil {
		h.logf(e.Name, "the rules are those that were rendered last (%s)", l.Reason)
		want.Rules = withLease(h.lastRules(e), e, l.Address)
	}
	if e.HasIPv4() {
		want.Addrs = e.IPv4
	}
	seen, err := h.makeSo(ctx, l.Reason, links, func() (Wanted, error) {
		var err error
		want.Known, err = h.known(e)
		return want, err
	})
	return seen, errors.Join(broken, err)
}

// rules are those that the script of the ENI's template holds, and one for the
// leased address, whatever IMDS said.
func (h *Host) rules(ctx context.Context, e facts.ENI, lease netip.Addr) ([]iprule.Rule, error) {
	if !e.Routed {
		return nil, nil
	}
	var rules []iprule.Rule
	if e.HasIPv4() {
		files, err := h.render(ctx, e, "rules")
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if rules, err = iprule.Parse(f.Content, e); err != nil {
				return nil, err
			}
		}
	}
	return withLease(rules, e, lease), nil
}

// lastRules are those of the script on disk; none if it does not hold them.
func (h *Host) lastRules(e facts.ENI) []iprule.Rule {
	script, err := h.lastScript(e.Name)
	if err != nil {
		return nil
	}
	rules, err := iprule.Parse(script, e)
	if err != nil {
		return nil
	}
	return rules
}

// lastScript is the ip-rule script of an interface as it stands on disk; nil if
// there is none.
func (h *Host) lastScript(name string) ([]byte, error) {
	file, err := render.Path("rules", name)
	if err != nil {
		return nil, err
	}
	return h.Tree.Read(file)
}

// hasStanza says whether there is a cfg file that ec2net has written.
func (h *Host) hasStanza(name string) (bool, error) {
	cfg, err := h.state().cfg(name)
	if err != nil || cfg == nil {
		return false, err
	}
	return h.ours(name)
}

// withLease adds the rule for the leased address, if it is not there.
func withLease(rules []iprule.Rule, e facts.ENI, lease netip.Addr) []iprule.Rule {
	if !lease.IsValid() || hasRuleFrom(rules, lease) {
		return rules
	}
	return append(rules, iprule.Rule{Priority: e.Priority(), From: netip.PrefixFrom(lease, lease.BitLen()), Table: e.Table(),
		Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1})
}

// hasRuleFrom says whether one of the rules is for what comes from this address.
func hasRuleFrom(rules []iprule.Rule, a netip.Addr) bool {
	for _, r := range rules {
		if r.From.IsSingleIP() && r.From.Addr() == a {
			return true
		}
	}
	return false
}

// render renders files of an ENI, with a limit of its own: what is left of the
// caller's time is for going on without.
func (h *Host) render(ctx context.Context, e facts.ENI, only ...string) ([]render.File, error) {
	ctx, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	return h.Templates.Render(ctx, e, only...)
}

// renderLimit is how long rendering may take; it takes less than a millisecond.
const renderLimit = 3 * time.Second

// remember keeps good facts, and the script that shows which rules they make.
func (h *Host) remember(ctx context.Context, e facts.ENI) error {
	if new, err := h.state().keep(e); err != nil {
		return err
	} else if new {
		h.logf(e.Name, "wrote %s", factsPath(e.Name))
	}
	if render.Nothing(e) != "" {
		return nil // the primary, most often
	}
	files, err := h.render(ctx, e, "rules")
	if err != nil {
		return err
	}
	return h.write(e.Name, files)
}

// takeRules takes the rules of an ENI away, and the group rule with the last.
func (h *Host) takeRules(ctx context.Context, name, why string) error {
	e, ok, err := h.state().facts(name)
	if err != nil || !ok {
		// Only a name such as eth1 has a number without facts.
		e, err = facts.Bare(name, facts.MAC{}, h.Numbers)
		ok = err == nil
	}
	var failed error
	up, isUp := h.state().broughtUp(name)
	if isUp && !e.Primary && (!ok || up.table != e.Table()) {
		// The facts are lost, or the settings are others than they were.
		was := e
		was.Name, was.Number, was.Routed = name, up.table, true
		failed = h.takeRulesOf(ctx, was, why)
	}
	if !ok || !e.Routed {
		return failed
	}
	return errors.Join(failed, h.takeRulesOf(ctx, e, why))
}

func (h *Host) takeRulesOf(ctx context.Context, e facts.ENI, why string) error {
	_, err := h.makeSo(ctx, why, nil, func() (Wanted, error) {
		known, err := h.known(e)
		return Wanted{ENI: e, Known: known}, err
	})
	return err
}

// LeaseFromEnvironment reads what the client has put into the hook's
// environment. An address that is none counts as no address.
func LeaseFromEnvironment(env func(string) string) (Lease, error) {
	l := Lease{Interface: env("interface"), Reason: strings.ToUpper(env("reason"))}
	if l.Interface == "" || l.Reason == "" {
		return l, errors.New("a DHCP client's hook has interface and reason in its environment")
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
