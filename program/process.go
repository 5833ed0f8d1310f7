package program

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// proc is where proc(5) is mounted.
var proc = "/proc"

// A process is what /proc/PID/stat says about one.
type process struct {
	pid, parent, session int
	name                 string
	since                uint64 // when it began; unique together with pid
	ended                bool   // a zombie
}

func (p process) is(other process) bool { return p.pid == other.pid && p.since == other.since }

func (p process) String() string { return fmt.Sprintf("%s (process %d)", p.name, p.pid) }

// readProcess reads proc_pid_stat(5), and reports whether the process exists. The name,
// in parentheses, may have any characters.
func readProcess(pid int) (process, bool) {
	p := process{pid: pid}
	text, err := os.ReadFile(fmt.Sprintf("%s/%d/stat", proc, pid))
	open, closed := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if err != nil || open < 0 || closed < open {
		return p, false
	}
	fields := strings.Fields(string(text[closed+1:]))
	if len(fields) < 20 {
		return p, false
	}
	p.name = string(text[open+1 : closed])
	p.ended = fields[0] == "Z" || fields[0] == "X"
	p.parent, _ = strconv.Atoi(fields[1])
	p.session, _ = strconv.Atoi(fields[3])
	p.since, err = strconv.ParseUint(fields[19], 10, 64)
	return p, err == nil
}

// signal sends a signal to this process, and never to another one that has its pid by
// now.
func (p process) signal(s unix.Signal) {
	held, err := os.FindProcess(p.pid) // holds a pidfd if the kernel has them
	if err != nil {
		return
	}
	defer held.Release()
	if now, ok := readProcess(p.pid); ok && now.is(p) {
		_ = held.Signal(s)
	}
}

// descendants returns the descendants of this process that have not ended, without those
// children for which without is true, and without their descendants.
func descendants(without func(child process) bool) ([]process, error) {
	self := os.Getpid()
	if _, ok := readProcess(self); !ok {
		return nil, fmt.Errorf("%s does not show processes", proc)
	}
	names, err := filepath.Glob(proc + "/[0-9]*")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]process)
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	var found []process
	for parents := []int{self}; len(parents) > 0; parents = parents[1:] {
		of := parents[0]
		for _, p := range children[of] {
			if of == self && without != nil && without(p) {
				continue
			}
			if !p.ended {
				found = append(found, p)
			}
			parents = append(parents, p.pid)
		}
		delete(children, of) // a reused pid must not make a circle
	}
	return found, nil
}

func ownSession() int {
	session, _ := unix.Getsid(0)
	return session
}

// hasChildren reports whether this process has children.
func hasChildren() bool {
	return unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != unix.ECHILD
}

// collecting starts to reap ended children that this process has not started. ifdown, for
// one, waits until the DHCP client of an earlier ifup is gone.
var collecting = sync.OnceFunc(func() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			collect()
		}
	}()
})

func collect() {
	first.Lock() // no program starts meanwhile
	defer first.Unlock()
	lists, _ := filepath.Glob(proc + "/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(word)
			p, ok := readProcess(pid)
			if ok && p.ended && pid != first.pid && p.session != ownSession() {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
	}
}
