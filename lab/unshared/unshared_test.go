package unshared

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Getenv("EC2NET_TEST_FORBID") != "" {
		forbid()
	}
	Main(m)
}

// forbid forbids user namespaces below this one, and goes on as nobody.
func forbid() {
	must(os.Unsetenv("EC2NET_TEST_FORBID"))
	must(os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	must(syscall.Setgroups(nil))
	must(syscall.Setgid(nobody))
	must(syscall.Setuid(nobody))
	must(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

const nobody = 65534

// Whoever runs them, each test has a network namespace of its own.
func TestNetns(t *testing.T) {
	Netns(t)
	first, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	links, err := net.Interfaces()
	if err != nil || len(links) != 1 || links[0].Flags&net.FlagLoopback == 0 {
		t.Errorf("%+v, %v", links, err)
	}
	t.Run("another", func(t *testing.T) {
		Netns(t)
		second, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil || first == second {
			t.Errorf("%s, %s, %v", first, second, err)
		}
	})
}

// TestFails fails when it is told to.
func TestFails(t *testing.T) {
	if os.Getenv("EC2NET_TEST_FAIL") != "" {
		t.Error("as told")
	}
}

// as runs some of these tests as nobody.
func as(t *testing.T, run string, attr *syscall.SysProcAttr, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run="+run)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// An ordinary user's tests run in a user namespace, and their failure is reported.
func TestAsNobody(t *testing.T) {
	if !Root() {
		if os.Getenv(inside) == "" {
			t.Skip("no user namespaces")
		}
		return // they do, or this would not be here
	}
	if out, err := as(t, "^TestNetns$", asNobody()); err != nil || !strings.Contains(out, "--- PASS: TestNetns/another") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := as(t, "^TestFails$", asNobody(), "EC2NET_TEST_FAIL=1"); err == nil || err.Error() != "exit status 1" {
		t.Errorf("%v\n%s", err, out)
	}
}

// If the system allows no user namespaces, the tests say so once.
func TestForbidden(t *testing.T) {
	if !Root() {
		t.Skip("only root can forbid it")
	}
	all := []syscall.SysProcIDMap{{Size: nobody + 1}}
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true}
	out, err := as(t, "^TestNetns$|^TestFails$", attr, "EC2NET_TEST_FORBID=1")
	if err != nil || !strings.Contains(out, "--- SKIP: TestNetns") || !strings.Contains(out, "--- PASS: TestFails") ||
		strings.Count(out, "tests that need a network namespace are skipped: not root, and there are no user namespaces") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

// Root of a user namespace has a root folder that is its own, and all of the machine.
func TestOwnRoot(t *testing.T) {
	const in = "EC2NET_TEST_ROOT"
	if folder := os.Getenv(in); folder != "" {
		at, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		if err := OwnRoot(folder); err != nil {
			t.Fatal(err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat("/", &st); err != nil || int(st.Uid) != os.Geteuid() {
			t.Errorf("/ belongs to user %d, %v", st.Uid, err)
		}
		if now, err := os.Getwd(); now != at || err != nil {
			t.Errorf("from %s to %s, %v", at, now, err)
		}
		if _, err := os.Stat("unshared_test.go"); err != nil {
			t.Error(err)
		}
		if f, err := os.CreateTemp("", ""); err != nil || !strings.HasPrefix(f.Name(), temporary) {
			t.Errorf("%v, %v", f, err)
		}
		return
	}
	Need(t)
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if Root() {
		attr = asNobody()
	}
	folder, err := os.MkdirTemp("", "ec2net-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(folder) })
	if out, err := as(t, "^TestOwnRoot$", attr, in+"="+folder); err != nil || !strings.Contains(out, "--- PASS: TestOwnRoot") {
		t.Errorf("%v\n%s", err, out)
	}
}
