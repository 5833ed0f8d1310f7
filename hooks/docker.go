package hooks

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/render"
)

// bridge is docker's default network.
const bridge = "docker0"

// dockerMark says that "docker up" has been, so that an ENI that comes or goes
// later is taken in.
var dockerMark = path.Join(runDir, "docker.up")

// DockerUp does what has to wait for docker: the answers of containers get the
// mark of the ENI that the question came in by, and docker0's subnet is in the
// table of every ENI that is up.
func (h *Host) DockerUp(ctx context.Context) error { return h.dockerUp(ctx) }

// dockerUp counts some ENIs as up that are about to be.
func (h *Host) dockerUp(ctx context.Context, soon ...facts.ENI) error {
	unlock, err := h.lock(ctx, "docker")
	if err != nil {
		return err
	}
	defer unlock()
	enis, err := h.up()
	if err != nil {
		return err
	}
	for _, e := range soon {
		enis = append(slices.DeleteFunc(enis, func(o facts.ENI) bool { return o.Name == e.Name }), e)
	}
	rendering, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	f, err := h.Templates.Docker(rendering, enis, h.Numbers.Base)
	if err != nil {
		return err
	}
	if err := h.write(bridge, []render.File{f}); err != nil {
		return err
	}
	if err := h.Run(ctx, "iptables-restore", "-w", "--noflush", f.Path); err != nil {
		return fmt.Errorf("iptables-restore %s: %w", f.Path, err)
	}
	if there, err := h.has(ctx, jump("-C")...); err != nil {
		return err
	} else if !there {
		if err := h.run(ctx, "iptables", jump("-A")...); err != nil {
			return err
		}
		h.logf(bridge, "answers of containers get the marks of the ENIs")
	}
	for _, e := range enis {
		// What is marked already goes on being answered; more is not ours.
		var left *UnmanagedError
		if errors.As(h.managed(e.Name), &left) {
			continue
		}
		if e.Primary {
			// No stanza does that for the primary.
			if err := h.markPrimary(ctx, e); err != nil {
				return err
			}
			continue // and rule 999 has the way to docker0
		}
		if err := h.bridgeRoutes(e, true); err != nil {
			return err
		}
	}
	_, err = h.Tree.Write(dockerMark, []byte("up\n"))
	return err
}

// DockerDown takes away what DockerUp did.
func (h *Host) DockerDown(ctx context.Context) error {
	unlock, err := h.lock(ctx, "docker")
	if err != nil {
		return err
	}
	defer unlock()
	err = h.Tree.Remove(dockerMark)
	err = errors.Join(err, h.dropChain(ctx))
	enis, e := h.up()
	err = errors.Join(err, e)
	for _, e := range enis {
		if e.Primary {
			err = errors.Join(err, h.unmarkPrimary(ctx, e))
			continue
		}
		err = errors.Join(err, h.bridgeRoutes(e, false))
	}
	return err
}

// dropChain takes the jumps into docker's chain away, and then the chain.
func (h *Host) dropChain(ctx context.Context) error {
	for {
		there, err := h.has(ctx, jump("-C")...)
		if err != nil {
			return err
		} else if !there {
			break
		}
		if err := h.run(ctx, "iptables", jump("-D")...); err != nil {
			return err
		}
	}
	there, err := h.has(ctx, "-w", "-t", "mangle", "-F", render.DockerChain)
	if err != nil || !there {
		return err
	}
	h.logf(bridge, "answers of containers get no marks any more")
	return h.run(ctx, "iptables", "-w", "-t", "mangle", "-X", render.DockerChain)
}

// has asks iptables(8). It is false if there is no such rule or chain; an error
// means that iptables could not say.
func (h *Host) has(ctx context.Context, args ...string) (bool, error) {
	err := h.Run(ctx, "iptables", args...)
	var ended interface{ ExitCode() int }
	// 1: no such rule, no such chain; 2: nor the chain that the rule jumps to.
	if errors.As(err, &ended) && (ended.ExitCode() == 1 || ended.ExitCode() == 2) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("iptables: %w", err)
	}
	return true, nil
}

// markPrimary has what comes in by the primary marked, as the stanzas of the
// other ENIs do.
func (h *Host) markPrimary(ctx context.Context, e facts.ENI) error {
	files, err := h.render(ctx, e)
	if err != nil {
		return err
	}
	if err := h.write(e.Name, files); err != nil {
		return err
	}
	path, err := render.Path("iptables", e.Name)
	if err != nil {
		return err
	}
	if err := h.Run(ctx, "iptables-restore", "-w", "--noflush", path); err != nil {
		return fmt.Errorf("iptables-restore %s: %w", path, err)
	}
	if there, err := h.has(ctx, jumpOf(e, "-C")...); err != nil || there {
		return err
	}
	if err := h.run(ctx, "iptables", jumpOf(e, "-A")...); err != nil {
		return err
	}
	h.logf(e.Name, "what comes in is marked %v", e.Mark())
	return nil
}

func (h *Host) unmarkPrimary(ctx context.Context, e facts.ENI) error {
	path, err := render.Path("iptables-down", e.Name)
	if err != nil {
		return err
	}
	if there, err := h.has(ctx, jumpOf(e, "-C")...); err != nil || !there {
		return err
	}
	if err := h.run(ctx, "iptables", jumpOf(e, "-D")...); err != nil {
		return err
	}
	return h.Run(ctx, "iptables-restore", "-w", "--noflush", path)
}

func jumpOf(e facts.ENI, action string) []string {
	return []string{"-w", "-t", "mangle", action, "PREROUTING", "-i", e.Name, "-j", render.View{ENI: e}.Chain()}
}

func jump(action string) []string {
	return []string{"-w", "-t", "mangle", action, "PREROUTING", "-j", render.DockerChain}
}

// dockerAgainLimit bounds what an ENI that comes or goes waits for the marks of
// containers' answers: somebody may hold iptables' lock.
const dockerAgainLimit = 10 * time.Second

// dockerAgain does DockerUp again if it has been done, for the ENIs of now.
func (h *Host) dockerAgain(ctx context.Context, soon ...facts.ENI) error {
	ctx, cancel := context.WithTimeout(ctx, dockerAgainLimit)
	defer cancel()
	mark, err := h.Tree.Read(dockerMark)
	if err != nil || mark == nil {
		return err
	}
	return h.dockerUp(ctx, soon...)
}

// up are the ENIs with a table of their own that are up: a note says so, or their
// rules do. An ENI whose facts are lost has no more than its numbers.
func (h *Host) up() ([]facts.ENI, error) {
	links, err := h.Kernel.Links()
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	rules, err := h.Kernel.Rules()
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	s := h.state()
	all, err := s.all()
	if err != nil {
		return nil, err
	}
	up := slices.DeleteFunc(all, func(e facts.ENI) bool {
		l, ok := linkNamed(links, e.Name)
		hasRules := func(k KernelRule) bool {
			return k.Priority == e.Table() && k.Table == e.Table() && k.Protocol == iprule.Protocol
		}
		return !e.Routed || !ok || l.MAC != e.MAC ||
			!(e.Primary || s.configured(l) || (l.Up && slices.ContainsFunc(rules, hasRules)))
	})
	noted, err := s.noted()
	for name, note := range noted {
		l, ok := linkNamed(links, name)
		if !ok || !note.of(l) || slices.ContainsFunc(up, func(e facts.ENI) bool { return e.Name == name }) {
			continue
		}
		e := facts.ENI{Name: name, MAC: l.MAC, Number: note.table,
			MarkMask: h.Numbers.MarkMask, Routed: true}
		up = append(up, e.Clone())
	}
	slices.SortFunc(up, func(a, b facts.ENI) int { return strings.Compare(a.Name, b.Name) })
	return up, err
}

// bridgeRoutes puts docker0's subnet into an ENI's table, or takes it out.
func (h *Host) bridgeRoutes(e facts.ENI, add bool) error {
	link, all, err := h.bridge()
	if err != nil {
		return err
	}
	for _, r := range toBridge(link, all, unix.RT_TABLE_MAIN) {
		there := slices.ContainsFunc(toBridge(link, all, e.Table()), func(o Route) bool { return o.Dst == r.Dst })
		if there == add {
			continue
		}
		c := changeRoute{link: link, route: r.plain(), table: e.Table(), add: add}
		if err := h.Kernel.Apply(c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		h.logChange(e.Name, c, "docker")
	}
	return nil
}

// plain is a route with nothing but where it leads: a bridge without carrier
// has flags ("linkdown") that are not for another table.
func (r Route) plain() Route {
	r.Metric = 0
	r.raw = netlink.Route{LinkIndex: r.LinkIndex, Dst: r.raw.Dst, Scope: r.raw.Scope, Type: unix.RTN_UNICAST}
	return r
}

// DockerWait puts docker0's subnet into the table of an ENI as soon as docker0
// is stable: it has an address, is up, and so has its route. It waits for that by
// netlink's events, until ctx ends or the ENI is gone or down.
func (h *Host) DockerWait(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	e, ok, err := h.state().facts(name)
	if err != nil || !ok {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	links, routes := make(chan netlink.LinkUpdate, 16), make(chan netlink.RouteUpdate, 16)
	if err := errors.Join(netlink.LinkSubscribe(links, done), netlink.RouteSubscribe(routes, done)); err != nil {
		return fmt.Errorf("cannot listen to the kernel: %w", err)
	}
	for {
		link, _, err := h.link(name)
		var gone *GoneError
		if errors.As(err, &gone) || (err == nil && !link.Up) {
			return nil
		} else if err != nil {
			return err
		}
		if there, err := h.DockerThere(); err != nil {
			return err
		} else if there {
			return h.bridgeRoutes(e, true)
		}
		select {
		case <-ctx.Done():
			return nil // docker that comes later has "docker up" called
		case <-links:
		case <-routes:
		}
	}
}

// DockerThere says whether docker0 is stable.
func (h *Host) DockerThere() (bool, error) {
	link, all, err := h.bridge()
	return len(toBridge(link, all, unix.RT_TABLE_MAIN)) > 0, err
}

// bridge is docker0, and the routes of the machine; none if it is not there.
func (h *Host) bridge() (Link, []Route, error) {
	link, _, err := h.link(bridge)
	var gone *GoneError
	if errors.As(err, &gone) {
		return link, nil, nil
	} else if err != nil {
		return link, nil, err
	}
	routes, err := h.Kernel.Routes()
	if err != nil {
		return link, nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	return link, routes, nil
}

// toBridge are the routes of a table to the subnets of docker0.
func toBridge(link Link, all []Route, table int) []Route {
	var found []Route
	for _, r := range all {
		if r.Table == table && r.LinkIndex == link.Index && r.Dst.Bits() > 0 {
			found = append(found, r)
		}
	}
	return found
}
