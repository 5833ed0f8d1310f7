package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ec2net/facts"
	"ec2net/plan"
	"ec2net/render"
)

// marks marks the answers of containers for the ENI of the request.
func (h *Host) marks(ctx context.Context) error {
	unlock, err := h.lock(ctx, "docker")
	if err != nil {
		return err
	}
	defer unlock()
	return h.makeMarks(ctx, nil)
}

// makeMarks is marks, for a caller that holds its lock. soon are ENIs that are about to
// come up.
func (h *Host) makeMarks(ctx context.Context, soon []facts.ENI) error {
	l, err := h.look(news{})
	if err != nil {
		return err
	}
	enis := l.Marked()
	for _, e := range soon {
		enis = append(slices.DeleteFunc(enis, func(o facts.ENI) bool { return o.Name == e.Name }), e)
	}
	rendering, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	f, err := h.Templates.Docker(rendering, enis, h.Numbers.Base)
	if err != nil {
		return err
	}
	if err := h.write(plan.Bridge, []render.File{f}); err != nil {
		return err
	}
	answers := mangle{h, jump{chain: render.DockerChain}}
	if made, err := answers.fill(ctx, f.Path); err != nil {
		return err
	} else if made {
		h.Log.Info(plan.Bridge, "answers of containers get the marks of the ENIs")
	}
	for _, e := range enis {
		if k, _ := l.Of(e.Name); e.Primary && k.Left == "" {
			if err := h.markPrimary(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// marksAgainLimit bounds how long an ENI, coming up or going down, waits for the marks
// of containers' answers: another program may hold the lock of iptables.
const marksAgainLimit = 10 * time.Second

// marksAgain makes the marks again, if docker is up, since the ENIs have changed.
func (h *Host) marksAgain(ctx context.Context, soon ...facts.ENI) error {
	ctx, cancel := context.WithTimeout(ctx, marksAgainLimit)
	defer cancel()
	unlock, err := h.lock(ctx, "docker")
	if err != nil {
		return err
	}
	defer unlock()
	// Under the lock: "docker down" removes this file before it takes the lock.
	mark, err := h.Tree.Read(dockerMark)
	if err != nil || mark == nil {
		return err
	}
	return h.makeMarks(ctx, soon)
}

// markPrimary marks packets that come in by the primary. The other ENIs' stanzas do that
// for them; the primary has none.
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
	made, err := mangle{h, jumpOf(e)}.fill(ctx, path)
	if made {
		h.Log.Info(e.Name, "packets that come in get the mark %v", e.Mark())
	}
	return err
}

// dropMarks undoes marks.
func (h *Host) dropMarks(ctx context.Context) error {
	unlock, err := h.lock(ctx, "docker")
	if err != nil {
		return err
	}
	defer unlock()
	dropped, err := mangle{h, jump{chain: render.DockerChain}}.drop(ctx)
	if dropped {
		h.Log.Info(plan.Bridge, "answers of containers no longer get the marks of the ENIs")
	}
	l, failed := h.look(news{})
	if failed != nil {
		return errors.Join(err, failed)
	}
	for _, e := range l.Marked() {
		if e.Primary {
			_, failed := mangle{h, jumpOf(e)}.drop(ctx)
			err = errors.Join(err, failed)
		}
	}
	return err
}

// lockWait is how many seconds iptables waits for its lock, which another program may
// hold.
const lockWait = "10"

// jump is a rule of the chain PREROUTING that jumps into a chain of ec2net's.
type jump struct{ iface, chain string }

func jumpOf(e facts.ENI) jump { return jump{iface: e.Name, chain: render.View{ENI: e}.Chain()} }

// args are the arguments of iptables(8) that append, check or delete the rule, by an
// action: -A, -C, -D.
func (j jump) args(action string) []string {
	args := []string{"-w", lockWait, "-t", "mangle", action, "PREROUTING"}
	if j.iface != "" {
		args = append(args, "-i", j.iface)
	}
	return append(args, "-j", j.chain)
}

// mangle is a chain of iptables' mangle table, with the jump into it.
type mangle struct {
	*Host
	jump
}

// fill loads a fragment into the chain, and makes the jump. It reports whether the jump
// was missing.
func (m mangle) fill(ctx context.Context, fragment string) (made bool, err error) {
	if err := m.run(ctx, "iptables-restore", "-w", lockWait, "--noflush", fragment); err != nil {
		return false, err
	}
	there, err := m.has(ctx, m.args("-C")...)
	if err != nil || there {
		return false, err
	}
	return true, m.run(ctx, "iptables", m.args("-A")...)
}

// drop removes every jump into the chain, and the chain. It reports whether there was a
// chain.
func (m mangle) drop(ctx context.Context) (dropped bool, err error) {
	for {
		there, err := m.has(ctx, m.args("-C")...)
		if err != nil {
			return false, err
		} else if !there {
			break
		}
		if err := m.run(ctx, "iptables", m.args("-D")...); err != nil {
			return false, err
		}
	}
	there, err := m.has(ctx, "-w", lockWait, "-t", "mangle", "-F", m.chain)
	if err != nil || !there {
		return false, err
	}
	return true, m.run(ctx, "iptables", "-w", lockWait, "-t", "mangle", "-X", m.chain)
}

// has runs iptables(8) with arguments that fail if a rule or chain does not exist, and
// reports whether it exists. An error means that iptables could not say.
func (h *Host) has(ctx context.Context, args ...string) (bool, error) {
	err := h.Run(ctx, "iptables", args...)
	var ended interface{ ExitCode() int }
	// 1: no such rule or chain; 2: not even the chain that the rule jumps to.
	if errors.As(err, &ended) && (ended.ExitCode() == 1 || ended.ExitCode() == 2) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("iptables: %w", err)
	}
	return true, nil
}
