package hooks

import (
	"context"
	"errors"

	"ec2net/facts"
	"ec2net/plan"
)

// DockerUp does what has to wait for docker: it marks the answers of containers for the
// ENI of the request, and puts docker0's subnet into the table of every live ENI.
func (h *Host) DockerUp(ctx context.Context) error {
	// First: an ENI that comes up meanwhile finds this file, unless h.marks finds the ENI.
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

// DockerDown undoes DockerUp.
func (h *Host) DockerDown(ctx context.Context) error {
	err := errors.Join(h.Tree.Remove(dockerMark), h.dropMarks(ctx))
	_, failed := h.converge(ctx, news{why: "docker", docker: plan.DockerDown})
	return errors.Join(err, failed)
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
