// Package journal writes lines to the system log. It never waits for the log, which may
// have stopped reading, since the caller may hold a lock.
package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// devLogs are the sockets of the system log: journald, or another syslogd. With systemd
// the first is a link to the second.
var devLogs = []string{"/dev/log", "/run/systemd/journal/dev-log"}

// A severity is the priority of a line with the facility daemon: RFC 5424.
type severity int

const (
	warning severity = 3*8 + 4
	info    severity = 3*8 + 6
)

// A Log is the system log, or another place if the system has none. Its methods are safe
// for concurrent use, and return at once. A line that the log does not take at once is
// lost; the next line says how many were.
type Log struct {
	tag       string
	socket    int // -1 if there is none
	to        *unix.SockaddrUnix
	elsewhere io.Writer

	mu    sync.Mutex
	lost  int      // lines since the log took one
	worst severity // of the lost lines
}

// Open opens the system log. tag, such as the program's name, begins each line.
// Lines go to elsewhere if there is no system log.
func Open(tag string, elsewhere io.Writer) *Log {
	path := devLogs[0]
	for _, p := range devLogs {
		if _, err := os.Stat(p); err == nil {
			path = p
			break
		}
	}
	return open(path, tag, elsewhere)
}

func open(path, tag string, elsewhere io.Writer) *Log {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		socket = -1
	}
	return &Log{tag: tag, socket: socket, to: &unix.SockaddrUnix{Name: path}, elsewhere: elsewhere, worst: info}
}

// Info logs what ec2net has done for an interface, or with "" for the machine.
func (l *Log) Info(iface, format string, args ...any) { l.write(info, iface, format, args) }

// Warn logs what needs a person: "journalctl -p warning" shows only such lines.
func (l *Log) Warn(iface, format string, args ...any) { l.write(warning, iface, format, args) }

// Close logs how many lines were lost after the last one, if any, and closes the log.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := wereLost(l.lost); l.lost > 0 && !l.put(l.worst, text) {
		l.putElsewhere(text)
	}
	_ = unix.Close(l.socket)
	l.socket = -1
}

func (l *Log) write(s severity, iface, format string, args []any) {
	text := OneLine(fmt.Sprintf(format, args...))
	if iface != "" {
		text = OneLine(iface) + ": " + text
	}
	text = clip(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worst = min(l.worst, s) // the lower, the worse
	if l.lost > 0 {
		// In one line: the log may have room for just one.
		text += " (" + wereLost(l.lost) + " before this)"
	}
	if l.put(l.worst, text) {
		l.lost, l.worst = 0, info
	} else {
		l.lost++
	}
}

func wereLost(lines int) string {
	if lines == 1 {
		return "1 line was lost"
	}
	return fmt.Sprintf("%d lines were lost", lines)
}

// put reports whether the log took the line.
func (l *Log) put(s severity, text string) bool {
	// The form of syslog(3), which has the local time.
	line := fmt.Sprintf("<%d>%s %s[%d]: %s", s, time.Now().Format(time.Stamp), l.tag, os.Getpid(), text)
	// Sendto looks the path up each time, so a restarted syslogd gets the line.
	err := unix.Sendto(l.socket, []byte(line), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, l.to)
	switch {
	case err == nil:
		return true
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EINTR):
		return false
	}
	return l.putElsewhere(text)
}

// putElsewhere reports whether the other place took the line.
func (l *Log) putElsewhere(text string) bool {
	if f, ok := l.elsewhere.(*os.File); ok && !takes(f) {
		return false
	}
	_, err := fmt.Fprintf(l.elsewhere, "%s: %s\n", l.tag, text)
	return err == nil
}

// takes reports whether a file, which may be a pipe or a terminal, takes a line at once.
// A pipe that is ready takes up to PIPE_BUF bytes: pipe(7).
func takes(f *os.File) (ready bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	err = conn.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(polled, 0)
		ready = err == nil && n == 1 && polled[0].Revents&unix.POLLOUT != 0
	})
	return err == nil && ready
}

// longest bounds a text, in bytes: together with the tag and the count of lost lines it
// fits into PIPE_BUF, 4096.
const longest = 3900

// clip shortens a text to longest.
func clip(text string) string {
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "..."
}

// OneLine replaces control characters by spaces, so that no text from outside begins a
// new line.
func OneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (0x80 <= r && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}
