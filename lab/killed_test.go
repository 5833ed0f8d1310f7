package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hang is in the environment of the test process to kill: the argument of the sleep
// that it runs in a sandbox.
const hang = "EC2NET_LAB_TEST_HANG"

// TestHang is not a test: [TestKilled] kills it.
func TestHang(t *testing.T) {
	seconds := os.Getenv(hang)
	if seconds == "" {
		t.Skip("only for TestKilled")
	}
	// The one in the background has no parent left but the sandbox's init.
	script := fmt.Sprintf("(setsid sleep %s &)\nsleep %[1]s", seconds)
	Debian(t, "bookworm").Run(t, Cmd{Args: []string{"sh", "-c", script}})
}

// TestKilled kills a test process in the midst of a run.
func TestKilled(t *testing.T) {
	tree := Debian(t, "bookworm")
	before := mountinfo(t, "self")

	seconds := fmt.Sprintf("1%09d", os.Getpid()) // the mark by which the processes are found
	test := exec.Command("/proc/self/exe", "-test.run=^TestHang$")
	test.Env = append(os.Environ(), hang+"="+seconds)
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		test.Process.Kill()
		test.Wait()
		for _, pid := range running(t, "sleep", seconds) { // none, if the lab is right
			if n, err := strconv.Atoi(pid); err == nil {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
	})

	waitFor(t, "both sleeps", func() bool { return len(running(t, "sleep", seconds)) == 2 })
	inside := mountinfo(t, running(t, "sleep", seconds)[0])
	if !strings.Contains(inside, " - overlay ") {
		t.Errorf("the sandbox's mounts have no overlay:\n%s", inside)
	}
	if during := mountinfo(t, "self"); during != before {
		t.Errorf("a sandbox changed this machine's mounts from\n%s\nto\n%s", before, during)
	}

	if err := test.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of both sleeps", func() bool { return len(running(t, "sleep", seconds)) == 0 })
	if after := mountinfo(t, "self"); after != before {
		t.Errorf("a killed test left its mounts: they were\n%s\nand are\n%s", before, after)
	}
	if got := names(t, filepath.Join(tree.Dir, "mnt")); len(got) != 0 {
		t.Errorf("a killed test left %q in the tree", got)
	}
}

// TestThreadsEnd: no thread stays behind in a sandbox, where the Go runtime would let
// it run anything.
func TestThreadsEnd(t *testing.T) {
	tree := Debian(t, "bookworm")
	home, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		tree.Run(t, Cmd{Args: []string{"true"}})
	}
	waitFor(t, "the end of the threads", func() bool {
		threads, err := filepath.Glob("/proc/self/task/*/ns/mnt")
		if err != nil || len(threads) == 0 {
			t.Fatalf("no threads: %v", err)
		}
		for _, thread := range threads {
			if ns, err := os.Readlink(thread); err == nil && ns != home {
				return false
			}
		}
		return true
	})
}

func mountinfo(t *testing.T, pid string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// running lists the processes of this machine with these arguments.
func running(t *testing.T, args ...string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	want := []byte(strings.Join(args, "\x00") + "\x00")
	for _, file := range files {
		if got, err := os.ReadFile(file); err == nil && bytes.Equal(got, want) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventWait); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
