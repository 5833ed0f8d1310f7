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

// systemLog opens the system log. If there is none, lines go to stderr, unless stderr
// gets them anyway.
func (inv *invocation) systemLog() *journal.Log {
	if inv.command.byHand {
		return journal.Open("ec2net", io.Discard)
	}
	return journal.Open("ec2net", inv.stderr)
}

// spoken is the log for hooks. If a person called the command, its lines go to stderr
// as well.
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

// Info logs what was done.
func (s spoken) Info(iface, format string, args ...any) {
	s.Log.Info(iface, format, args...)
	s.inv.say("%s: %s", iface, fmt.Sprintf(format, args...))
}

// Warn logs what needs a person.
func (s spoken) Warn(iface, format string, args ...any) {
	s.Log.Warn(iface, format, args...)
	s.inv.say("%s: %s", iface, fmt.Sprintf(format, args...))
}

// logFailure logs why a command failed: as a warning, unless there is just nothing to
// do.
func (inv *invocation) logFailure(log *journal.Log, iface string, err error) {
	text := strings.TrimPrefix(explained(err), iface+" ") // the line begins with it
	status := statusOf(err)
	if socket := inv.env["NOTIFY_SOCKET"]; socket != "" {
		// systemd logs the exit status with the LSB's name for it: 4 is
		// "NOPERMISSION".
		text += fmt.Sprintf("; exit status %d: %s", status, statuses[status])
		tellSystemd(socket, text)
	}
	if status == fault.NoRetry {
		log.Info(iface, "%s", text)
	} else {
		log.Warn(iface, "%s", text)
	}
}

// tellSystemd sets the Status line of "systemctl status": sd_notify(3). It does not
// wait, and ignores errors: the log has the same.
func tellSystemd(socket, text string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	to := &unix.SockaddrUnix{Name: socket}
	_ = unix.Sendto(fd, []byte("STATUS="+journal.OneLine(text)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, to)
}

// replay asks the kernel to send "add" again, by the uevent file of sysfs.
func replay(iface string) error {
	return os.WriteFile("/sys/class/net/"+iface+"/uevent", []byte("add"), 0)
}
