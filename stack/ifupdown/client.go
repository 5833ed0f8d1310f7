package ifupdown

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ec2net/stack/ifupdown/interfaces"
)

// client is a DHCP client: the name of its program, and its pid file.
type client struct {
	program, pidFile string
	// every: the process serves all interfaces, and does not name them.
	every bool
}

// clients lists the DHCP clients that ifupdown may start for an interface.
func clients(name string) []client {
	return []client{
		{program: "dhclient", pidFile: "/run/dhclient." + name + ".pid"},
		{program: "dhcpcd", pidFile: "/run/dhcpcd/" + name + ".pid"},
		{program: "dhcpcd", pidFile: "/run/dhcpcd/" + name + "-4.pid"},
		{program: "dhcpcd", pidFile: "/run/dhcpcd-" + name + ".pid"}, // Debian 11
		{program: "udhcpc", pidFile: "/run/udhcpc." + name + ".pid"},
		// Started as a service, dhcpcd also serves what ifupdown asks for.
		{program: "dhcpcd", pidFile: "/run/dhcpcd/pid", every: true},
		{program: "dhcpcd", pidFile: "/run/dhcpcd.pid", every: true},
	}
}

// limit bounds ifup, which waits for a lease as long as dhclient does: a minute, or longer
// by dhclient.conf(5) (Ubuntu's says five). The rest of ifup takes seconds.
func (s *Stack) limit() time.Duration {
	text, _ := s.Tree.Read("/etc/dhcp/dhclient.conf") // without it the default holds
	return leaseWait(string(text)) + rest
}

const (
	usualWait   = time.Minute
	longestWait = 5 * time.Minute
	rest        = 40 * time.Second
	// LongestLimit is the longest that Up takes.
	LongestLimit = longestWait + rest
)

// leaseWait returns how long dhclient waits for a lease, by its configuration.
func leaseWait(conf string) time.Duration {
	wait := usualWait
	for line := range strings.Lines(conf) {
		line, _, _ = strings.Cut(line, "#")
		for statement := range strings.SplitSeq(line, ";") {
			if f := strings.Fields(statement); len(f) == 2 && f[0] == "timeout" {
				n, _ := strconv.ParseUint(f[1], 10, 16)
				wait = max(wait, min(time.Duration(n)*time.Second, longestWait))
			}
		}
	}
	return wait
}

// clientAlive reports whether the DHCP client runs that the interface was brought up
// with; true if its stanza asks for none. A client that has just gone to the
// background may not have written its pid file yet.
func (s *Stack) clientAlive(name string) (bool, error) {
	text, err := s.upBy(name)
	if err == nil && text == nil {
		text, err = s.Cfg(name)
	}
	if err != nil || !interfaces.DHCP(text, name) {
		return err == nil, err
	}
	for _, c := range clients(name) {
		if alive, err := s.alive(c, name); err != nil || alive {
			return alive, err
		}
	}
	return false, nil
}

// alive reports whether the process that a pid file names is the client: another
// process may have the pid by now.
func (s *Stack) alive(c client, name string) (bool, error) {
	text, err := s.Tree.Read(c.pidFile)
	if err != nil {
		return false, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return false, nil // no file, or nothing in it yet
	}
	program, err := s.process(pid, "comm")
	if err != nil || strings.TrimSpace(program) != c.program {
		return false, err
	}
	args, err := s.process(pid, "cmdline")
	if err != nil || c.every {
		return args != "", err // empty: a zombie
	}
	return slices.Contains(strings.FieldsFunc(args, func(r rune) bool { return r == 0 || r == ' ' }), name), nil
}

// process reads a file of a process, proc(5); "" if there is no such process.
func (s *Stack) process(pid int, file string) (string, error) {
	text, err := s.Tree.Read(fmt.Sprintf("/proc/%d/%s", pid, file))
	if errors.Is(err, unix.ESRCH) {
		return "", nil
	}
	return string(text), err
}
