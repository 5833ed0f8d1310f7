package program

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program that is given up has grace from SIGTERM to SIGKILL. After another patience
// Run returns without its end: a process that waits for a disk does not end.
const (
	grace    = 3 * time.Second
	patience = 3 * time.Second
)

// A family is a running program with all its descendants.
//
// Neither the process group nor the session identifies its members: a DHCP client leaves
// those of ifup, and its parent ends. So this process is a subreaper while a program
// runs: a process that loses its parent becomes a child of this one, and every descendant
// stays one (prctl(2), PR_SET_CHILD_SUBREAPER).
type family struct {
	// earlier are the descendants of this process that earlier programs have left.
	earlier []process
}

// turn holds a token while a family runs. With two families at once, nothing would tell
// to which one an orphan belongs.
var turn = make(chan struct{}, 1)

// begin waits for its turn, or until ctx ends.
func begin(ctx context.Context) (*family, error) {
	if ctx.Err() == nil { // with both channels ready, select may choose either
		select {
		case turn <- struct{}{}:
			return newFamily()
		case <-ctx.Done():
		}
	}
	text := "it was not started: ec2net was told to end"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		text = "it was not started: no time was left"
	}
	return nil, &givenUp{text, ctx.Err()}
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

// end passes the turn on. Processes that the program has left stay children of this
// process, and become children of process 1 when this process ends.
func (f *family) end() {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	<-turn
}

// first has the pid of the family's program, which os/exec waits for; 0 once that has
// ended.
var first struct {
	sync.Mutex
	pid int
}

func (f *family) start(cmd *exec.Cmd) error {
	// In its own session the program gets no signals of a terminal, and differs from
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

// at names the process that the program waits for: the youngest one of its session
// without a child there; empty if that is the program itself.
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

// kill ends the family, and returns the processes that do not end.
func (f *family) kill() (left []process, err error) {
	signal, until := unix.SIGTERM, time.Now().Add(grace)
	var told []process
	// One look through /proc can miss a process whose parent ends meanwhile, so two looks
	// have to find nothing. If this process has no child, it has no descendants.
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

// isStranger reports whether a child of this process does not belong to the family: other
// code of this process has started it, an earlier program has left it, or it is an orphan
// of a process that an earlier program has left. The session identifies such an orphan;
// one that has made its own session since the family began counts as family.
func (f *family) isStranger(child process) bool {
	return child.session == ownSession() || slices.ContainsFunc(f.earlier, func(e process) bool {
		return e.is(child) || e.session == child.session
	})
}
