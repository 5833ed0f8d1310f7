package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ec2net/hooks"

	"golang.org/x/sys/unix"
)

// systemLog writes to the system log, or to stderr where there is none.
func (inv *invocation) systemLog(severity syslog.Priority) func(string) {
	w, err := syslog.New(syslog.LOG_DAEMON|severity, "ec2net")
	if err != nil {
		return func(line string) { fmt.Fprintf(inv.stderr, "ec2net: %s\n", line) }
	}
	return func(line string) { io.WriteString(w, line) }
}

// hostLog is the system log for what hooks say.
func (inv *invocation) hostLog() hooks.Log {
	return hostLog{inv.systemLog(syslog.LOG_INFO), inv.systemLog(syslog.LOG_WARNING)}
}

type hostLog struct{ info, warn func(string) }

// Info says what was done.
func (l hostLog) Info(iface, format string, args ...any) {
	l.info(oneLine(iface + ": " + fmt.Sprintf(format, args...)))
}

// Warn says what needs a person.
func (l hostLog) Warn(iface, format string, args ...any) {
	l.warn(oneLine(iface + ": " + fmt.Sprintf(format, args...)))
}

// programPath is what ifup and what it runs need. Under udev there is none.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// runProgram runs a program of the system with an environment of its own. What it starts
// in the background keeps running, with /dev/null as its output.
func runProgram(ctx context.Context, program string, args ...string) error {
	path, err := lookProgram(program)
	if err != nil {
		return err
	}
	// In memory: no disk has to be writable for ifdown.
	fd, err := unix.MemfdCreate(program, unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	output := os.NewFile(uintptr(fd), program)
	defer output.Close()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + programPath}
	// A file, not a pipe: dhclient holds it for as long as it lives.
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.New("stopped: it took too long, or ec2net was told to end")
		}
		return fmt.Errorf("%w%s", err, lastLines(output))
	}
	return nil
}

func lookProgram(program string) (string, error) {
	for _, dir := range filepath.SplitList(programPath) {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	if strings.HasPrefix(program, "if") {
		return "", fmt.Errorf("there is no %s: is ifupdown installed?", program)
	}
	return "", fmt.Errorf("there is no %s in %s", program, programPath)
}

// lastLines is what a program said at its end, for one line of a message.
func lastLines(output *os.File) string {
	const most = 300
	info, err := output.Stat()
	if err != nil || info.Size() == 0 {
		return ""
	}
	text := make([]byte, min(info.Size(), most))
	n, _ := output.ReadAt(text, info.Size()-int64(len(text)))
	return ": " + strings.Join(strings.Fields(string(text[:n])), " ")
}

// replay has the kernel send "add" again: the uevent file of sysfs.
func replay(iface string) error {
	return os.WriteFile("/sys/class/net/"+iface+"/uevent", []byte("add"), 0)
}
