package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// runWait ends a command that hangs: ifup waits a minute for a lease, ec2net 100 s
// for an ifup that hangs.
const runWait = 150 * time.Second

// running returns the machine that the instance is when it is on.
func (i *Instance) running(tb TB) *machine {
	tb.Helper()
	if i.machine == nil {
		tb.Fatalf("the instance is off")
	}
	return i.machine
}

// Run runs a command as root in the instance, as docker exec does. It may
// leave daemons behind. A command that fails is a Result; Run fails the test
// if it cannot be started or does not end.
func (i *Instance) Run(tb TB, c Cmd) Result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), runWait)
	defer cancel()
	r, err := i.running(tb).run(ctx, c)
	if err != nil {
		tb.Fatalf("%v\n%s", err, i.Trouble())
	}
	return r
}

// Sh runs a shell script that has to succeed and returns what it prints.
func (i *Instance) Sh(tb TB, script string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), runWait)
	defer cancel()
	out, err := i.running(tb).sh(ctx, script, nil)
	if err != nil {
		tb.Fatalf("%v\n%s", err, i.Trouble())
	}
	return out
}

// Start starts a command that goes on while the test does. It ends with the
// test, or with the instance.
func (i *Instance) Start(tb TB, c Cmd) *Process {
	tb.Helper()
	p, err := i.running(tb).begin(tb.Context(), c)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return p
}

// Inside runs f on a thread that is in the instance: in its namespaces and its root
// folder. What f starts is a process of the instance.
func (i *Instance) Inside(tb TB, f func() error) {
	tb.Helper()
	if err := i.running(tb).inside(f); err != nil {
		tb.Fatalf("instance: %v", err)
	}
}

// WriteFile writes a file, like one of Cmd.Files.
func (i *Instance) WriteFile(tb TB, path, text string) {
	tb.Helper()
	err := i.running(tb).inside(func() error { return writeFiles(map[string]string{path: text}) })
	if err != nil {
		tb.Fatalf("instance: %v", err)
	}
}

// ReadFile returns a file's text and whether there is one.
func (i *Instance) ReadFile(tb TB, path string) (text string, ok bool) {
	tb.Helper()
	err := i.running(tb).inside(func() error {
		b, err := os.ReadFile(path)
		if ok = err == nil; os.IsNotExist(err) {
			return nil
		}
		text = string(b)
		return err
	})
	if err != nil {
		tb.Fatalf("instance: %v", err)
	}
	return text, ok
}

// Install copies the files of a folder over the root.
func (i *Instance) Install(tb TB, folder string) {
	tb.Helper()
	if err := i.running(tb).copyTree(folder); err != nil {
		tb.Fatalf("instance: %v", err)
	}
}

// sh runs a script that has to succeed.
func (m *machine) sh(ctx context.Context, script string, files map[string]string) (string, error) {
	r, err := m.run(ctx, Cmd{Args: []string{"sh", "-ec", script}, Files: files})
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("status %d of:\n%s\n%s%s", r.Status, strings.TrimSpace(script), r.Stdout, r.Stderr)
	}
	return r.Stdout, err
}
