package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"ec2net/fault"
	"ec2net/hooks"

	"golang.org/x/sys/unix"

	"ec2net/journal"
)

// systemLog opens the system log. Where there is none, lines go to stderr, unless a
// person reads them there anyway.
func (inv *invocation) systemLog() *journal.Log {
	if inv.command.byHand {
		return journal.Open("ec2net", io.Discard)
	}
	return journal.Open("ec2net", inv.stderr)
}

// spoken is the log of what hooks do, which a person who has called for it reads on
// stderr as well.
func (inv *invocation) spoken(log *journal.Log) hooks.Log {
	if !inv.command.byHand {
		return log
	}
	return spoken{log, inv}
}

type spoken struct {
	*journal.Log
	inv *invocation
}

// Info says what was done.
func (s spoken) Info(iface, format string, args ...any) {
	s.Log.Info(iface, format, args...)
	s.inv.say("%s: %s", iface, fmt.Sprintf(format, args...))
}

// Warn says what needs a person.
func (s spoken) Warn(iface, format string, args ...any) {
	s.Log.Warn(iface, format, args...)
	s.inv.say("%s: %s", iface, fmt.Sprintf(format, args...))
}

// logFailure says in the log why a command failed. It needs a person, unless all
// is well and there is only nothing to do.
func (inv *invocation) logFailure(log *journal.Log, iface string, err error) {
	text := strings.TrimPrefix(explained(err), iface+" ") // the line begins with it
	status := statusOf(err)
	if socket := inv.env["NOTIFY_SOCKET"]; socket != "" {
		// systemd writes a line with the exit status, and the name that the LSB has
		// for such a one: 4 is "NOPERMISSION".
		text += fmt.Sprintf("; exit status %d: %s", status, statuses[status])
		tellSystemd(socket, text)
	}
	if status == fault.NoRetry {
		log.Info(iface, "%s", text)
	} else {
		log.Warn(iface, "%s", text)
	}
}

// tellSystemd sets what "systemctl status" shows of the unit beside the exit status:
// sd_notify(3). It does not wait, and is no more than a courtesy.
func tellSystemd(socket, text string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	to := &unix.SockaddrUnix{Name: socket}
	_ = unix.Sendto(fd, []byte("STATUS="+journal.OneLine(text)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, to)
}

// replay has the kernel send "add" again: the uevent file of sysfs.
func replay(iface string) error {
	return os.WriteFile("/sys/class/net/"+iface+"/uevent", []byte("add"), 0)
}
