// Package program runs programs of the system: ifup, ifdown, iptables. When it gives a
// program up, it ends the program with all that it has started.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ec2net/fault"

	"golang.org/x/sys/unix"
)

// Path is where Find looks for programs, and their PATH: udev sets none.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Run runs a program in its own environment and session, one program at a time, and waits
// for its end. Processes that it leaves in the background go on. But if ctx ends first,
// Run gives the program up: it ends the program and all its descendants, in the background
// or not. That takes at most 6 seconds.
//
// If the program has started, an error is an [Error].
func Run(ctx context.Context, name string, args ...string) error {
	return runTo(ctx, nil, name, args...)
}

// Output is Run, and returns what the program has written to stdout.
func Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	stdout, err := newOutput(name)
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	if err := runTo(ctx, stdout, name, args...); err != nil {
		return nil, err
	}
	info, err := stdout.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(stdout, 0, info.Size()))
}

// runTo is Run with a file for stdout; nil: stdout goes where stderr goes.
func runTo(ctx context.Context, stdout *os.File, name string, args ...string) error {
	path, err := Find(name)
	if err != nil {
		return err
	}
	output, err := newOutput(name)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + Path}
	cmd.Stdout, cmd.Stderr = output, output
	if stdout != nil {
		cmd.Stdout = stdout
	}
	return run(ctx, cmd, func() string { return tail(output) })
}

// Error says how a program failed.
type Error struct {
	status int
	cause  error
	output string
}

// Status is that of the system: a retry may succeed.
func (*Error) Status() fault.Status { return fault.System }

func (e *Error) Error() string {
	if e.output == "" {
		return e.cause.Error()
	}
	return e.cause.Error() + ": " + e.output
}

// Unwrap returns the cause: an [exec.ExitError], or one that wraps the error of the
// context.
func (e *Error) Unwrap() error { return e.cause }

// ExitCode returns the exit status, or -1 if the program did not end by itself.
func (e *Error) ExitCode() int { return e.status }

// run starts a program, and waits until it ends or has to be given up. said returns the
// output so far.
func run(ctx context.Context, cmd *exec.Cmd, said func() string) error {
	f, err := begin(ctx)
	if err != nil {
		return err
	}
	defer f.end()
	if err := f.start(cmd); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- f.wait(cmd) }()
	select {
	case err := <-ended:
		if err == nil {
			return nil
		}
		return &Error{status: cmd.ProcessState.ExitCode(), cause: err, output: said()}
	case <-ctx.Done():
	}
	// Take the output now, before the program writes about the signal.
	failed := &Error{status: -1, cause: why(ctx, f.at(cmd)), output: said()}
	left, err := f.kill()
	switch {
	case err != nil:
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // the session's first group
		failed.cause = fmt.Errorf("%w; cannot find the processes that it started: %w", failed.cause, err)
	case len(left) > 0:
		failed.cause = fmt.Errorf("%w; %v does not end", failed.cause, left[0])
		return failed
	}
	select {
	case <-ended:
	case <-time.After(patience):
	}
	return failed
}

// why says why a program was given up, and what it waited for.
func why(ctx context.Context, at string) error {
	text := "it was ended, since ec2net was told to end"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		text = "it took too long and was ended"
	}
	if at != "" {
		text += ", at " + at
	}
	return &givenUp{text, ctx.Err()}
}

type givenUp struct {
	text  string
	cause error
}

func (g *givenUp) Error() string { return g.text }

// Status is that of the system: a retry may succeed.
func (*givenUp) Status() fault.Status { return fault.System }

func (g *givenUp) Unwrap() error { return g.cause }

// missing says that there is no program of a name.
type missing struct{ text string }

func (m *missing) Error() string { return m.text }

// Status is that of the system: a package may be missing.
func (*missing) Status() fault.Status { return fault.System }

// Is reports whether target is fs.ErrNotExist.
func (*missing) Is(target error) bool { return target == fs.ErrNotExist }

// Find returns the path of a program. The error that there is none is fs.ErrNotExist.
func Find(name string) (string, error) {
	for _, dir := range filepath.SplitList(Path) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	if strings.HasPrefix(name, "if") {
		return "", &missing{fmt.Sprintf("there is no %s: is ifupdown installed?", name)}
	}
	return "", &missing{fmt.Sprintf("there is no %s in %s", name, Path)}
}
