package hooks

import (
	"context"
	"errors"

	"ec2net/facts"
	"ec2net/plan"
)

// DockerUp does what has to wait for docker: the answers of containers get the mark
// of the ENI that the question came in by, and docker0's subnet is in the table of
// every ENI that is up.
func (h *Host) DockerUp(ctx context.Context) error {
	// First: an ENI that comes up meanwhile sees it, or is seen.
	wrote, unwritten := h.Tree.Write(dockerMark, []byte("up\n"))
	if err := h.marks(ctx); err != nil {
		if wrote {
			err = errors.Join(err, h.Tree.Remove(dockerMark))
		}
		return err
	}
	_, err := h.converge(ctx, news{why: "docker", docker: plan.DockerUp})
	return errors.Join(unwritten, err)
}

// DockerDown takes away what DockerUp did.
func (h *Host) DockerDown(ctx context.Context) error {
	err := errors.Join(h.Tree.Remove(dockerMark), h.dropMarks(ctx))
	_, failed := h.converge(ctx, news{why: "docker", docker: plan.DockerDown})
	return errors.Join(err, failed)
}

// DockerWait puts docker0's subnet into the table of an ENI as soon as docker0 is
// stable: it has an address, is up, and so has its route. It waits for that by the
// kernel's events, until ctx ends or the ENI is gone or down.
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
