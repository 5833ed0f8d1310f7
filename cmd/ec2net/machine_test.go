package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// machineOf is the variable that names the work folder of a script to the test
// binary, which then runs as the tool. A script that root runs, if only that of a user
// namespace, has a machine of its own: the tool sees $WORK/machine/etc, var and run as
// /etc, /var and /run.
const machineOf = "EC2NET_TEST_MACHINE"

// newMachine makes the machine of a script, and returns the folder of the
// programs that run the tool there.
func newMachine(env *testscript.Env) (string, error) {
	work := env.WorkDir
	for _, dir := range []string{"bin", "machine/etc/default", "machine/etc/network/interfaces.d", "machine/var/lib", "machine/run"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return "", err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, name := range []string{"ec2net", "ec2ifup", "ec2ifdown", "ec2ifscan", "ec2ifupscan", "ec2net.hotplug"} {
		if err := os.Symlink(self, filepath.Join(work, "bin", name)); err != nil {
			return "", err
		}
	}
	if err := os.Symlink("/run", filepath.Join(work, "machine/var/run")); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(work, "machine/run/systemd/journal"), 0o755); err != nil {
		return "", err
	}
	log, err := listenLog(filepath.Join(work, "machine/run/systemd/journal/dev-log"))
	if err != nil {
		return "", err
	}
	env.Defer(func() { log.conn.Close() })
	env.Values[logKey{}] = log
	env.Setenv(machineOf, work)
	env.Setenv(toolDir, os.Getenv(toolDir))
	return filepath.Join(work, "bin"), nil
}

// runOnMachine becomes the tool on the machine of a script.
func runOnMachine(work string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot keep the mounts to itself: %w", err)
	}
	for _, dir := range []string{"/etc", "/var", "/run"} {
		if err := unix.Mount(filepath.Join(work, "machine", dir), dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot replace %s: %w", dir, err)
		}
	}
	// Without this one, the tool finds the machine's log.
	if _, err := os.Stat("/dev/log"); err == nil {
		if err := unix.Mount("/run/systemd/journal/dev-log", "/dev/log", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot replace /dev/log: %w", err)
		}
	}
	tool := filepath.Join(os.Getenv(toolDir), "ec2net")
	os.Unsetenv(machineOf)
	os.Unsetenv(toolDir)
	return unix.Exec(tool, os.Args, os.Environ())
}

// systemLog takes the log of a machine.
type systemLog struct {
	conn *net.UnixConn
	path string

	mu    sync.Mutex
	lines []string
	marks chan string
}

type logKey struct{}

func listenLog(path string) (*systemLog, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	l := &systemLog{conn: conn, path: path, marks: make(chan string)}
	go l.read()
	return l, nil
}

const mark = "mark "

func (l *systemLog) read() {
	defer close(l.marks)
	line := make([]byte, 8<<10)
	for {
		n, err := l.conn.Read(line)
		if err != nil {
			return
		}
		if text := string(line[:n]); strings.HasPrefix(text, mark) {
			l.marks <- text
		} else {
			l.mu.Lock()
			l.lines = append(l.lines, readable(text))
			l.mu.Unlock()
		}
	}
}

var (
	datagram   = regexp.MustCompile(`(?s)^<(\d+)>.* ec2net\[\d+\]: (.*)`)
	severities = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
)

// readable spells a line with the name of its severity: "warning: text".
func readable(text string) string {
	found := datagram.FindStringSubmatch(text)
	if found == nil {
		return text
	}
	priority, _ := strconv.Atoi(found[1])
	return severities[priority&7] + ": " + strings.TrimSuffix(found[2], "\n")
}

// log [PATTERN]: writes to the file log what the system log has got since the last
// call. It waits until a line matches the pattern.
func logOfMachine(ts *testscript.TestScript, neg bool, args []string) {
	l, ok := ts.Value(logKey{}).(*systemLog)
	if neg || len(args) > 1 || !ok {
		ts.Fatalf("usage: log [pattern], as root")
	}
	if len(args) == 1 {
		l.wait(ts, regexp.MustCompile(args[0]))
	}
	// What was sent before the mark is read before it.
	to, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: l.path, Net: "unixgram"})
	ts.Check(err)
	defer to.Close()
	_, err = to.Write([]byte(mark))
	ts.Check(err)
	if _, open := <-l.marks; !open {
		ts.Fatalf("the log is closed")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	text := ""
	for _, line := range l.lines {
		text += line + "\n"
	}
	l.lines = nil
	ts.Check(os.WriteFile(ts.MkAbs("log"), []byte(text), 0o644))
}

// wait waits for a line.
func (l *systemLog) wait(ts *testscript.TestScript, pattern *regexp.Regexp) {
	for range 3000 {
		l.mu.Lock()
		found := slices.ContainsFunc(l.lines, pattern.MatchString)
		l.mu.Unlock()
		if found {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("the log has no line %s", pattern)
}
