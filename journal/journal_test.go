package journal

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A message has the format of syslog(3), with the severity, and is one line.
func TestLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	keeper := keep(t, path)
	l := open(path, "ec2net", failing{t})
	defer l.Close()
	for _, c := range []struct {
		write      func(iface, format string, args ...any)
		iface      string
		text, want string
	}{
		{l.Info, "eth1", "ifup done", "<30>DATE ec2net[PID]: eth1: ifup done"},
		{l.Warn, "eth1", "ifup failed", "<28>DATE ec2net[PID]: eth1: ifup failed"},
		{l.Info, "", "scan: nothing to do", "<30>DATE ec2net[PID]: scan: nothing to do"},
		{l.Info, "eth1", "100 %\nJan  1 00:00:00 root: forged\r\x1b[2J\u0085\x00ü", "<30>DATE ec2net[PID]: eth1: 100 % Jan  1 00:00:00 root: forged  [2J  ü"},
		{l.Info, "eth1", strings.Repeat("x", 5000), "<30>DATE ec2net[PID]: eth1: " + strings.Repeat("x", 3900-len("eth1: ")) + "..."},
	} {
		c.write(c.iface, "%s", c.text)
		got := date.ReplaceAllString(keeper.next(t), "${1}DATE")
		if got = strings.Replace(got, fmt.Sprintf("[%d]", os.Getpid()), "[PID]", 1); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

var date = regexp.MustCompile(`^(<\d+>)[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d`)

// failing is an elsewhere that nothing may be written to.
type failing struct{ t *testing.T }

func (f failing) Write(p []byte) (int, error) {
	f.t.Errorf("%q was written elsewhere", p)
	return len(p), nil
}

// While nobody reads the log, no writer waits. The next line that the log takes says how
// many were lost.
func TestNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	keeper := keep(t, path)
	l := open(path, "ec2net", failing{t})
	defer l.Close()
	const writers, each = 10, 100
	var lock sync.Mutex
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for n := range each {
				lock.Lock()
				l.Info("eth1", "line %d", n)
				lock.Unlock()
			}
		})
	}
	ended := make(chan bool)
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("writing to a log that nobody reads does not end")
	}
	l.Warn("eth1", "what needs a person")
	lost := l.lost
	if lost < 2 || lost > writers*each {
		t.Fatalf("%d lines were lost, too few to test anything", lost)
	}
	for range writers*each + 1 - lost {
		keeper.next(t)
	}
	l.Info("eth1", "last")
	want := fmt.Sprintf("ec2net[%d]: eth1: last (%d lines were lost before this)", os.Getpid(), lost)
	// As severe as the worst lost line.
	if got := keeper.next(t); !strings.HasSuffix(got, want) || !strings.HasPrefix(got, "<28>") {
		t.Errorf("%q, want <28> and %q", got, want)
	}
	l.Info("eth1", "one more")
	if got := keeper.next(t); !strings.HasSuffix(got, "]: eth1: one more") || !strings.HasPrefix(got, "<30>") {
		t.Errorf("%q, want nothing more of lost lines", got)
	}
}

// Close logs the number of the last lost lines, elsewhere if need be.
func TestLostLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	keep(t, path)
	var elsewhere bytes.Buffer
	l := open(path, "ec2net", &elsewhere)
	written := 0
	for ; l.lost == 0; written++ {
		l.Info("eth1", "line")
	}
	l.Close()
	if got := elsewhere.String(); got != "ec2net: 1 line was lost\n" {
		t.Errorf("elsewhere: %q, after %d lines", got, written)
	}
}

// Without a system log, lines go elsewhere until there is one.
func TestElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var elsewhere bytes.Buffer
	l := open(path, "ec2net", &elsewhere)
	defer l.Close()
	l.Info("eth1", "no socket")
	keeper := keep(t, path)
	l.Info("eth1", "kept")
	if got := keeper.next(t); !strings.HasSuffix(got, ": kept") {
		t.Errorf("%q", got)
	}
	keeper.Close() // the socket's name stays
	l.Warn("eth1", "no listener")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	keeper = keep(t, path)
	l.Info("eth1", "kept again")
	if got := keeper.next(t); !strings.HasSuffix(got, ": kept again") {
		t.Errorf("%q", got)
	}
	if got, want := elsewhere.String(), "ec2net: eth1: no socket\nec2net: eth1: no listener\n"; got != want {
		t.Errorf("elsewhere: %q, want %q", got, want)
	}
}

// A pipe that nobody reads does not block a writer either.
func TestFullPipe(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	write.Fd() // as os.Stderr is: it blocks
	l := open(filepath.Join(t.TempDir(), "log"), "ec2net", write)
	defer l.Close()
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for n := range 1000 {
			l.Info("eth1", "line %d %s", n, strings.Repeat("x", 5000))
		}
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("writing to a full pipe does not end")
	}
	lines := bufio.NewReader(read)
	for range 1000 - l.lost {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("ec2net: eth1: last (%d lines were lost before this)\n", l.lost)
	l.Info("eth1", "last")
	if got, err := lines.ReadString('\n'); err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// A keeper listens like the system log.
type keeper struct{ *net.UnixConn }

func keep(t *testing.T, path string) keeper {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return keeper{conn}
}

// next reads a line.
func (k keeper) next(t *testing.T) string {
	t.Helper()
	if err := k.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 64<<10)
	n, err := k.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(text[:n])
}
