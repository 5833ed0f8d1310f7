package program

import (
	"context"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program that is given up has grace from SIGTERM to SIGKILL, and then patience
// until Run goes on without it: a process that waits for a disk does not end.
const (
	grace    = 3 * time.Second
	patience = 3 * time.Second
)

// A family is a program that runs, and all that descends from it.
//
// Neither the process group nor the session tells its members: a DHCP client leaves
// those of ifup, and its parent ends. So this process is a subreaper while a program
// runs: a process that loses its parent becomes a child of this one, and a descendant
// stays a descendant (prctl(2), PR_SET_CHILD_SUBREAPER).
type family struct {
	// earlier are the descendants that this process had when the family began, left
	// by earlier programs.
	earlier []process
}

// turn holds a token while a family runs. With two at once, nothing would tell which
// of them an orphan belongs to.
var turn = make(chan struct{}, 1)

// begin waits for its turn, no longer than ctx.
func begin(ctx context.Context) (*family, error) {
	if ctx.Err() == nil { // select may take either of two that are ready
		select {
		case turn <- struct{}{}:
			return newFamily()
		case <-ctx.Done():
		}
	}
	return nil, &givenUp{"it was not started: no time was left", ctx.Err()}
}

func newFamily() (*family, error) {
	collecting()
	f := &family{}
	err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err == nil && hasChildren() {
		f.earlier, err = descendants(nil)
	}
	if err != nil {
		f.end()
		return nil, err
	}
	return f, nil
}

// end gives the turn away. Processes that the program left stay children of this
// process, and become children of process 1 when it ends.
func (f *family) end() {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	<-turn
}

// first is the program of the family, which os/exec waits for; 0 once it has ended.
var first struct {
	sync.Mutex
	pid int
}

func (f *family) start(cmd *exec.Cmd) error {
	// A session of its own keeps a terminal's signals out, and tells the family from
	// children that other code of this process starts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	first.Lock()
	defer first.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	first.pid = cmd.Process.Pid
	return nil
}

func (f *family) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	first.Lock()
	defer first.Unlock()
	first.pid = 0
	return err
}

// at names the process that the program waits for: the youngest of its session that
// has no child there; empty if that is the program itself.
func (f *family) at(cmd *exec.Cmd) string {
	all, _ := descendants(f.isStranger)
	all = slices.DeleteFunc(all, func(p process) bool { return p.session != cmd.Process.Pid })
	var youngest process
	for _, p := range all {
		isParent := slices.ContainsFunc(all, func(child process) bool { return child.parent == p.pid })
		if p.pid != cmd.Process.Pid && !isParent && p.since >= youngest.since {
			youngest = p
		}
	}
	return youngest.name
}

// kill ends the family, and returns those that do not end.
func (f *family) kill() (left []process, err error) {
	signal, until := unix.SIGTERM, time.Now().Add(grace)
	var told []process
	// A process that starts another and ends can hide it from one look through
	// /proc, so two looks have to find nothing. Without a child this process has no
	// descendants.
	for unseen := 0; unseen < 2 && hasChildren(); {
		left, err = descendants(f.isStranger)
		switch {
		case err != nil:
			return nil, err
		case len(left) == 0:
			unseen++
			continue
		case time.Now().Before(until):
		case signal == unix.SIGTERM:
			signal, until, told = unix.SIGKILL, time.Now().Add(patience), nil
		default:
			return left, nil
		}
		unseen = 0
		for _, p := range left {
			if !slices.ContainsFunc(told, p.is) {
				told = append(told, p)
				p.signal(signal)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, nil
}

// isStranger reports whether a child of this process is not of the family: other
// code of this process started it, an earlier program left it, or it is an orphan of
// a process that an earlier program left. The session tells such an orphan; one that
// has made a session of its own since the family began counts as family.
func (f *family) isStranger(child process) bool {
	return child.session == ownSession() || slices.ContainsFunc(f.earlier, func(e process) bool {
		return e.is(child) || e.session == child.session
	})
}
