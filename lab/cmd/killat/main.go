// Command killat kills a program at one of the moments at which it changes a
// file:
//
//	killat N FOLDER,... PROGRAM ARGUMENT...
//
// N counts the system calls of the program's threads that change a file, a
// folder or a link in one of the folders, from 1. At the beginning of the Nth
// the program is killed, and killat exits 0. If there is no Nth, the program
// runs to its end, and killat exits 1.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// changing are the system calls to count. Each has a file or a folder as its first
// argument. A new file shows in the call after its making.
var changing = []uint64{unix.SYS_WRITE, unix.SYS_FCHMOD, unix.SYS_FSYNC, unix.SYS_FTRUNCATE,
	unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: killat N FOLDER,... PROGRAM ARGUMENT...")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[1])
	if err == nil {
		var killed bool
		if killed, err = killAt(n, strings.Split(os.Args[2], ","), os.Args[3:]); err == nil && killed {
			return
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "killat:", err)
		os.Exit(3)
	}
	os.Exit(1)
}

func killAt(n int, folders, args []string) (killed bool, err error) {
	runtime.LockOSThread() // ptrace(2): requests have to come from the tracer's thread
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	pid := cmd.Process.Pid
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return false, err
	}
	// Follow threads, but no process that the program starts.
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return false, err
	}
	for tid := pid; ; {
		if err := unix.PtraceSyscall(tid, passed(status)); err != nil && err != unix.ESRCH {
			return killed, err
		}
		if tid, err = unix.Wait4(-1, &status, unix.WALL, nil); err != nil {
			return killed, err
		}
		switch {
		case tid == pid && (status.Exited() || status.Signaled()):
			return killed, nil
		case status.StopSignal() == unix.SIGTRAP|0x80 && changes(tid, folders):
			if n--; n == 0 {
				killed = true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					return true, err
				}
			}
		}
	}
}

// passed is the signal to pass to a stopped thread; 0 if it stopped for us.
func passed(status unix.WaitStatus) int {
	if s := status.StopSignal(); status.Stopped() && s != unix.SIGTRAP && s != unix.SIGTRAP|0x80 && s != unix.SIGSTOP {
		return int(s)
	}
	return 0
}

// syscallInfo is the beginning of struct ptrace_syscall_info: ptrace(2).
type syscallInfo struct {
	op, _, _, _   uint8
	_             uint32
	_, _          uint64
	number, first uint64
	_             [5]uint64
}

// changes reports whether a thread is at the beginning of a call to count.
func changes(tid int, folders []string) bool {
	const getSyscallInfo, entry = 0x420e, 1
	var info syscallInfo
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return false
	}
	if info.op != entry || !slices.Contains(changing, info.number) {
		return false
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(info.first)))
	return err == nil && slices.ContainsFunc(folders, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}
