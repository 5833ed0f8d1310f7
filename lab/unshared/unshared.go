// Package unshared lets tests make network namespaces whoever runs them: root, or
// an ordinary user in a user namespace. It has no product code.
package unshared

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside marks the process that Main has started: root of a user namespace, in a
// network namespace of its own.
const inside = "EC2NET_TEST_UNSHARED"

// Main runs the tests of a package, for its TestMain. Without root it runs them
// again as root of a user namespace: user_namespaces(7). If the system forbids that,
// Main says so once, and Netns skips the tests.
func Main(m *testing.M) {
	if os.Geteuid() != 0 && allowed() {
		os.Exit(Again())
	}
	os.Exit(m.Run())
}

// Again runs the test binary once more in a network namespace of its own, with more
// variables, and returns its exit status. There it is root: the machine's, or that of
// a user namespace. If the system forbids those, it is what it was, in no namespace.
func Again(env ...string) int {
	flags := uintptr(syscall.CLONE_NEWNET)
	if os.Geteuid() != 0 {
		if flags = 0; allowed() {
			flags, env = userns, append(env, inside+"=1")
		}
	}
	err := again(os.Args, append(os.Environ(), env...), flags)
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended) && ended.ExitCode() > 0:
		return ended.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "cannot run the tests in a namespace of their own:", err)
	return 1
}

// Root reports whether the tests run as the machine's own root, who may mount, give
// files away and make device nodes.
func Root() bool { return os.Geteuid() == 0 && os.Getenv(inside) == "" }

// Need skips the test if it cannot make a network namespace.
func Need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs a network namespace")
	}
}

// Netns puts the calling test into a network namespace of its own, with nothing but
// lo, which is down. The namespace ends with the test: the thread that is in it is
// locked to the test's goroutine.
func Netns(t testing.TB) {
	Need(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("cannot make a network namespace: %v", err)
	}
}

// allowed reports whether this user can make network namespaces, and says so if not:
// some systems let an ordinary user make a user namespace, but do nothing in it.
var allowed = sync.OnceValue(func() bool {
	err := again([]string{os.Args[0]}, append(os.Environ(), inside+"=try"), userns)
	if err != nil {
		fmt.Fprintf(os.Stderr, "tests that need a network namespace are skipped: not root, and there are no user namespaces (%v)\n", err)
	}
	return err == nil
})

// init answers allowed, before there are more threads.
func init() {
	if os.Getenv(inside) != "try" {
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// userns is a user namespace, with a network and a mount namespace that are its root's.
const userns = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS

// again runs the test binary in new namespaces; in a user namespace as its root. It
// ends when this process does.
func again(args, env []string, flags uintptr) error {
	runtime.LockOSThread() // Pdeathsig is the death of the thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd.Run()
}
