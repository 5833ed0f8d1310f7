package main

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"ec2net/program"
)

// background runs a command of ec2net in a process of its own.
func background(iface string, args ...string) error {
	own, err := os.Executable() // ps would show /proc/self/exe
	if err != nil {
		return system(err)
	}
	_, err = detached(own, append([]string{"ec2net"}, args...), "INTERFACE="+iface)
	return system(err)
}

// detached starts a program that holds no file of the caller's: what called ifup or a
// DHCP client's hook may wait until the other end of a pipe is closed.
func detached(path string, args []string, env ...string) (*os.Process, error) {
	closeOnExec()
	cmd := &exec.Cmd{
		Path:        path,
		Args:        args,
		Env:         append([]string{"PATH=" + program.Path}, env...),
		Dir:         "/",
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err := cmd.Start()
	return cmd.Process, err
}

// closeOnExec keeps inherited files other than standard input, output and error from
// programs that this process starts: a DHCP client may leave its pipes and sockets
// open to its hooks.
func closeOnExec() {
	const first = 3
	if unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11.
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range fds {
		if fd, err := strconv.Atoi(filepath.Base(name)); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}
