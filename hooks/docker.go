package hooks

import (
	"context"
	"errors"

	"ec2net/facts"
	"ec2net/plan"
)

// DockerUp does what has to wait for docker: it puts docker0's subnet into the table of
// every live ENI. It makes the marks too: docker has made the host forward packets, and
// may have loaded its firewall anew.
func (h *Host) DockerUp(ctx context.Context) error {
	// First: an ENI that comes up meanwhile finds this file.
	_, unwritten := h.Tree.Write(dockerMark, []byte("up\n"))
	_, err := h.converge(ctx, news{why: "docker", docker: plan.DockerUp})
	return errors.Join(unwritten, err, h.KeepMarks(ctx, ""))
}

// DockerDown undoes DockerUp. The marks stay as long as the host forwards packets: there
// may be other bridges.
func (h *Host) DockerDown(ctx context.Context) error {
	err := h.Tree.Remove(dockerMark)
	_, failed := h.converge(ctx, news{why: "docker", docker: plan.DockerDown})
	return errors.Join(err, failed, h.KeepMarks(ctx, ""))
}

// DockerWait waits until docker0 is stable, and puts its subnet into the table of an
// ENI. Stable is: up, with an address, and so with a route. DockerWait watches the
// kernel's events, and gives up when ctx ends or the ENI is gone or down.
func (h *Host) DockerWait(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed, err := h.Kernel.Watch(ctx)
	if err != nil {
		return err
	}
	for {
		l, err := h.look(news{name: name})
		if err != nil {
			return err
		}
		if k, _ := l.Of(name); !l.link.Up || k.Facts.Name == "" {
			return nil
		}
		if l.DockerThere() {
			_, err := h.converge(ctx, news{name: name, why: "docker", docker: plan.DockerUp})
			return err
		}
		select {
		case <-ctx.Done():
			return nil // if docker starts later, it calls "docker up"
		case _, open := <-changed.C:
			if !open {
				return changed.Err()
			}
		}
	}
}

// DockerThere reports whether docker0 is stable.
func (h *Host) DockerThere() (bool, error) {
	l, err := h.look(news{})
	if err != nil {
		return false, err
	}
	return l.DockerThere(), nil
}
