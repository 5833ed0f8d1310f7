package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"ec2net/render"
)

// marksDiffer returns a command for each chain of the marks that is not what it should
// be: "ec2net marks" makes all of them. unseen says that there should be marks, and that
// only root may look.
func (h *Host) marksDiffer(ctx context.Context) (commands []command, unseen bool, err error) {
	unlock := h.lockToLook(ctx, "docker")
	defer unlock()
	n := marking{wanted: h.wantsMarks(), looks: true}
	k, broken := h.lookAtMarks(ctx, n)
	if k == nil && broken == nil && !n.wanted {
		k, _ = h.lookForRestored(ctx, n) // a machine that needs no marks may have no iptables
	}
	var refused *iptablesError
	if k == nil && errors.As(broken, &refused) && os.Geteuid() != 0 {
		return nil, true, nil
	} else if k == nil {
		return nil, false, broken
	}
	for _, d := range k.differences() {
		commands = append(commands, command{d.eni, "ec2net marks # " + d.line})
	}
	return commands, false, broken
}

// differences says what is wrong with each chain, and which interface it is about.
func (k *marksLook) differences() (all []command) {
	if k.last.agrees(k.now, k.want, k.stale) {
		return nil
	}
	for _, c := range k.want {
		if why := k.last.wrong(c, k.now); why != "" {
			all = append(all, command{c.iface, why})
		}
	}
	for _, name := range slices.DeleteFunc(k.now.own(), func(name string) bool { return !k.stale(name) }) {
		iface := strings.TrimPrefix(name, chainPrefix)
		if chainPrefix+iface == render.DockerChain {
			iface = ""
		}
		all = append(all, command{iface, fmt.Sprintf("the chain %s should not be there", name)})
	}
	if len(all) == 0 {
		all = append(all, command{"", "another back end of iptables may have marks too"})
	}
	return all
}

// wrong says why a chain differs; empty if it does not.
func (r *lastMarks) wrong(c chain, now saved) string {
	_, there := now.rules[c.name]
	jumps := len(now.jumps(c.name))
	switch {
	case !r.differs(c, now):
		return ""
	case !there && c.declares():
		return fmt.Sprintf("the chain %s is missing", c.name)
	case jumps == 0 && c.declares():
		return fmt.Sprintf("no rule of PREROUTING jumps into the chain %s", c.name)
	}
	return fmt.Sprintf("the chain %s is not as it was made", c.name)
}
