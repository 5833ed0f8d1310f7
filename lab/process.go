package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// path is where a machine's commands are found.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Process is a command that runs in a machine.
type Process struct {
	ctx            context.Context
	args           []string
	cmd            *exec.Cmd
	stdout, stderr *os.File
	ended          chan struct{}
	err            error // after ended
}

// begin starts a command in the machine. Its output goes to files, not to pipes, which
// a background process such as the dhclient of ifup would keep open.
func (m *machine) begin(ctx context.Context, c Cmd) (*Process, error) {
	p := &Process{ctx: ctx, args: c.Args, ended: make(chan struct{})}
	var err error
	if p.stdout, err = memoryFile("stdout"); err != nil {
		return nil, err
	}
	if p.stderr, err = memoryFile("stderr"); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		p.err = m.inside(func() error {
			if err := writeFiles(c.Files); err != nil {
				started <- err
				return err
			}
			unix.Umask(0o022)
			// env finds a command on the machine's PATH. A shell, which most are, need not be
			// looked for.
			p.cmd = exec.CommandContext(ctx, "/usr/bin/env", append([]string{"--"}, c.Args...)...)
			if c.Args[0] == "sh" {
				p.cmd.Path, p.cmd.Args = "/bin/sh", c.Args
			}
			p.cmd.Env = append([]string{path, "HOME=/root"}, c.Env...)
			p.cmd.Dir = "/"
			if c.Stdin != "" {
				p.cmd.Stdin = strings.NewReader(c.Stdin)
			}
			p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
			p.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
			if g := m.cgroup; g != nil {
				p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(g.leaf.Fd())
			}
			err := p.cmd.Start()
			started <- err
			if err != nil {
				return err
			}
			return p.cmd.Wait()
		})
		select {
		case started <- p.err: // it did not come that far
		default:
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%q: %w", c.Args, err)
	}
	return p, nil
}

// Output returns what the process has written so far to its standard output
// and its standard error.
func (p *Process) Output() (stdout, stderr string) {
	return contents(p.stdout), contents(p.stderr)
}

// Signal sends the process a signal; one that has ended gets none.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits for the end of the process.
func (p *Process) Wait(tb TB) Result {
	tb.Helper()
	r, err := p.wait()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return r
}

// wait waits for the end of the process. It fails if the context ended the process.
func (p *Process) wait() (r Result, err error) {
	<-p.ended
	r.Stdout, r.Stderr = p.Output()
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return r, nil
	case p.ctx.Err() != nil:
		return r, fmt.Errorf("%q: %w\n%s%s", p.args, p.ctx.Err(), r.Stdout, r.Stderr)
	case errors.As(p.err, &exit):
		status := exit.Sys().(syscall.WaitStatus)
		if r.Status = status.ExitStatus(); status.Signaled() {
			r.Status = 128 + int(status.Signal())
		}
		return r, nil
	}
	return r, fmt.Errorf("%q: %w", p.args, p.err)
}

// memoryFile returns a file that is on no disk.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// contents reads a file that others may be writing to.
func contents(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil {
		return err.Error()
	}
	return string(text)
}
