package program

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper is shell code for a process that says that it runs, and then does nothing. The
// test finds it, and its children, by their environment.
const sleeper = `sh -c 'export said="$0"; echo $$ >"$0"; exec sleep 1000' "$0"`

// A program that is given up ends with all that it has started, however that tried to
// escape.
func TestGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		count  int // how many processes say that they run
	}{
		"a child":                   {sleeper + `; :`, 1},
		"the background":            {sleeper + ` & ` + sleeper + `; :`, 2},
		"a session of its own":      {`setsid ` + sleeper + ` & wait`, 1},
		"a daemon":                  {`(setsid sh -c '` + quoted(sleeper) + ` &' "$0" &); ` + sleeper + `; :`, 2},
		"a daemon's children":       {`(setsid sh -c '` + quoted(sleeper+` & `+sleeper) + `; :' "$0" &); exec sleep 1000`, 2},
		"deaf to SIGTERM":           {`trap "" TERM; (setsid sh -c '` + quoted(sleeper) + ` &' "$0" &); ` + sleeper + `; :`, 2},
		"starts another at SIGTERM": {`trap '` + quoted(sleeper) + ` & exit 0' TERM; ` + sleeper + ` & wait`, 1},
		"has stopped":               {`echo $$ >"$0"; kill -STOP $$`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			said := newFIFO(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, "sh", "-c", c.script, said.path) }()
			for range c.count {
				said.next(t)
			}
			cancel()
			select {
			case err := <-ended:
				var e interface{ ExitCode() int }
				if !errors.As(err, &e) || e.ExitCode() != -1 {
					t.Errorf("given up, it returned %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("Run does not return")
			}
			if left := said.left(t); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
		})
	}
}

// Without /proc, at least the program's own group ends, and Run returns.
func TestNoProc(t *testing.T) {
	said := newFIFO(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, "sh", "-c", sleeper+` & `+sleeper+`; :`, said.path) }()
	said.next(t)
	said.next(t)
	at := func(dir string) {
		first.Lock() // collect holds it too
		defer first.Unlock()
		proc = dir
	}
	at(t.TempDir())
	defer at("/proc")
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "does not show processes") {
		t.Errorf("error %v", err)
	}
	// Run has waited only for the program itself.
	for deadline := time.Now().Add(20 * time.Second); len(said.left(t)) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes are left: %v", said.left(t))
		}
	}
}

// quoted makes shell code fit between the single quotes of other shell code.
func quoted(script string) string { return strings.ReplaceAll(script, `'`, `'\''`) }

// The background processes of a program that succeeds go on, even when a later program is
// given up.
func TestLeft(t *testing.T) {
	said := newFIFO(t)
	var daemons []int
	for _, script := range []string{
		`(setsid sh -c '` + quoted(sleeper) + ` &' "$0" &)`,
		sleeper + ` &`,
	} {
		if err := Run(t.Context(), "sh", "-c", script, said.path); err != nil {
			t.Fatal(err)
		}
		daemons = append(daemons, said.next(t))
	}
	slices.Sort(daemons)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, "sh", "-c", sleeper, said.path) }()
	later := said.next(t)
	cancel()
	if err := <-ended; err == nil {
		t.Error("the later one was given up, and there is no error")
	}
	// While a process executes another program, it has neither arguments nor environment.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		now := said.left(t)
		slices.Sort(now)
		if slices.Equal(now, daemons) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v are left of %v and %d", now, daemons, later)
		}
	}
}

// While a program is given up, a daemon of an earlier one may leave an orphan. The orphan
// does not count as a descendant of the program, and goes on.
func TestOrphanOfAnother(t *testing.T) {
	said := newFIFO(t)
	orphan := filepath.Join(t.TempDir(), "orphan")
	if err := unix.Mkfifo(orphan, 0o600); err != nil {
		t.Fatal(err)
	}
	// It starts a process in the background when the FIFO is written to.
	daemon := `export said="$0"; echo $$ >"$0"; read -r line <` + orphan + `; (` + sleeper + ` &); exec sleep 1000`
	if err := Run(t.Context(), "sh", "-c", `setsid sh -c '`+quoted(daemon)+`' "$0" &`, said.path); err != nil {
		t.Fatal(err)
	}
	said.next(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, "sh", "-c", sleeper, said.path) }()
	later := said.next(t)
	if err := os.WriteFile(orphan, []byte("now\n"), 0); err != nil {
		t.Fatal(err)
	}
	said.next(t)
	cancel()
	<-ended
	if now := said.left(t); len(now) != 2 || now[0] == later || now[1] == later {
		t.Errorf("%v are left, of which %d was given up", now, later)
	}
}

// A daemon that ends is reaped: ifdown waits until the DHCP client of an earlier ifup is
// gone.
func TestGone(t *testing.T) {
	said := newFIFO(t)
	if err := Run(t.Context(), "sh", "-c", `setsid sh -c '`+quoted(sleeper)+` &' "$0"`, said.path); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(said.next(t))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := Run(ctx, "sh", "-c", `kill $0; while kill -0 $0 2>/dev/null; do sleep 0.01; done`, pid); err != nil {
		t.Error(err)
	}
}

// A FIFO to which the processes of a test write their pids.
type fifo struct {
	path  string
	lines chan int
}

func newFIFO(t *testing.T) *fifo {
	t.Helper()
	f := &fifo{path: filepath.Join(t.TempDir(), "said"), lines: make(chan int, 100)}
	if err := unix.Mkfifo(f.path, 0o600); err != nil {
		t.Fatal(err)
	}
	// Open for writing too, so that reading does not end with the first writer.
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(f.lines)
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if pid, err := strconv.Atoi(lines.Text()); err == nil {
				f.lines <- pid
			}
		}
	}()
	t.Cleanup(func() {
		for _, pid := range f.left(t) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		file.Close()
	})
	return f
}

// next waits for a process to say that it runs.
func (f *fifo) next(t *testing.T) int {
	t.Helper()
	select {
	case pid := <-f.lines:
		return pid
	case <-time.After(20 * time.Second):
		t.Fatal("no process says that it runs")
	}
	return 0
}

// left returns the processes that still run with the FIFO in their arguments or
// environment.
func (f *fifo) left(t *testing.T) (left []int) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// Once the process has ended, both are empty or missing.
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if strings.Contains(string(args)+string(environment), f.path) {
			left = append(left, pid)
		}
	}
	return left
}
