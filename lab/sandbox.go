package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// runLimit ends a command that hangs well before go test's own limit would
// end the whole test.
const runLimit = time.Minute

// A Cmd is a command to run in a sandbox. For several commands in one sandbox, use a
// script: Args: []string{"sh", "-ec", script}.
type Cmd struct {
	Args  []string
	Stdin string
	Env   []string // as in "NAME=value"; beyond it there are PATH and HOME only

	// Files are written before the command starts, each an absolute path and
	// its content. One that begins with "#!" is executable.
	Files map[string]string
}

// A Result is that of a command that was started.
type Result struct {
	Stdout, Stderr string
	Status         int // 128 + n if signal n ended it
}

// Run runs one command as root in a throwaway copy of the tree, with mount,
// PID, net, UTS and IPC namespaces of its own and a loopback interface. Files and
// background processes that the command leaves go when it ends. A command that fails
// is a Result; Run fails the test if it cannot be started or does not end.
func (t *Tree) Run(tb TB, c Cmd) Result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), runLimit)
	defer cancel()
	r, err := t.run(ctx, c)
	if err != nil {
		tb.Fatalf("sandbox of %s: %v", t.Release, err)
	}
	return r
}

func (t *Tree) run(ctx context.Context, c Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	err := onThread(func() error {
		if err := t.enter(); err != nil {
			return err
		}
		if err := writeFiles(c.Files); err != nil {
			return err
		}
		cmd := initCommand(ctx, c.Args...)
		cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, c.Env...)
		cmd.Stdin = strings.NewReader(c.Stdin)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		return cmd.Run()
	})
	r := Result{Stdout: stdout.String(), Stderr: stderr.String()}

	var exit *exec.ExitError
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.As(err, &exit):
		// Without a status, somebody killed the sandbox's init.
		if r.Status = exit.ExitCode(); r.Status >= 0 && r.Status != initFailed {
			return r, nil
		}
	}
	return r, fmt.Errorf("%q: %w\n%s%s", c.Args, err, r.Stdout, r.Stderr)
}

// writeFiles writes files into the root of the calling thread.
func writeFiles(files map[string]string) error {
	for path, text := range files {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("file %q: not an absolute path", path)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}
