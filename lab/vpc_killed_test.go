package lab

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// hangVPC is in the environment of a test process that has VPCs until its
// standard input ends or it is killed: the argument of the sleeps in them.
const hangVPC = "EC2NET_LAB_TEST_HANG_VPC"

// TestHangVPC is not a test: [TestNothingLeft] runs it.
func TestHangVPC(t *testing.T) {
	seconds := os.Getenv(hangVPC)
	if seconds == "" {
		t.Skip("only for TestNothingLeft")
	}
	for _, systemd := range []bool{false, true} {
		v := NewVPC(t, Plan{})
		i := v.Boot(t, Setup{Systemd: systemd})
		v.Host(t, "10.0.0.9").Echo(t, 7)
		i.Start(t, Cmd{Args: []string{"sleep", seconds}})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestNothingLeft looks for remains of VPCs after a test that ended or was killed.
func TestNothingLeft(t *testing.T) {
	tree := Debian(t, "bookworm")
	for n, end := range []string{"in order", "by SIGKILL"} {
		t.Run(end, func(t *testing.T) {
			mounts := mountinfo(t, "self")
			seconds := fmt.Sprintf("%d%09d", 2+n, os.Getpid())
			test := exec.Command("/proc/self/exe", "-test.run=^TestHangVPC$")
			test.Env = append(os.Environ(), hangVPC+"="+seconds)
			stdin, err := test.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := test.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = test.Process.Kill() })
			waitFor(t, "two sleeps", func() bool { return len(running(t, "sleep", seconds)) == 2 })
			during := descendants(t, test.Process.Pid)
			groups := cgroupsOf(t, running(t, "sleep", seconds))
			t.Cleanup(func() { // nothing is left to do, if the lab is right
				for process := range during {
					if _, alive := describe(process.pid, process.started); alive {
						pid, _ := strconv.Atoi(process.pid)
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
			})
			// Two routers and two instances at the least, their DHCP servers,
			// udevd, dhclient; and the reaper of the one control group.
			if len(during) < 12 || len(groups) != 1 {
				t.Errorf("at work are %q, in %q", slices.Collect(maps.Values(during)), groups)
			}

			if n == 0 {
				_ = stdin.Close()
			} else if err := test.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := test.Wait(); (err == nil) != (n == 0) {
				t.Errorf("the test ended with %v", err)
			}
			waitFor(t, "the end of all processes", func() bool {
				for process := range during {
					if _, alive := describe(process.pid, process.started); alive {
						return false
					}
				}
				return true
			})
			for _, dir := range groups {
				if _, err := os.Stat(dir); !os.IsNotExist(err) {
					t.Errorf("the control group %s is left: %v", dir, err)
				}
			}
			if after := mountinfo(t, "self"); after != mounts {
				t.Errorf("the mounts were\n%s\nand are\n%s", mounts, after)
			}
			if got := names(t, filepath.Join(tree.Dir, "mnt")); len(got) != 0 {
				t.Errorf("%q is left in the tree", got)
			}
		})
	}
}

// process tells a process from a later one with its number.
type process struct{ pid, started string }

// describe returns the name of a process that is alive: proc(5), /proc/pid/stat.
func describe(pid, started string) (name string, alive bool) {
	f, ok := stat(pid)
	return f.name, ok && f.state != "Z" && (started == "" || f.started == started)
}

type statFields struct{ name, state, parent, started string }

func stat(pid string) (f statFields, ok bool) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return f, false
	}
	_, rest, _ := strings.Cut(string(text), "(")
	n := strings.LastIndex(rest, ")") // a name may have any character
	fields := strings.Fields(rest[n+1:])
	return statFields{rest[:n], fields[0], fields[1], fields[19]}, true
}

// descendants returns the names of a process's children, and theirs.
func descendants(t *testing.T, pid int) map[process]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[process]string{}
	of := map[string]bool{strconv.Itoa(pid): true}
	for grown := true; grown; {
		grown = false
		for _, file := range files {
			child := filepath.Base(file)
			if f, ok := stat(child); ok && of[f.parent] && !of[child] {
				of[child], grown = true, true
				found[process{child, f.started}] = f.name
			}
		}
	}
	return found
}

// cgroupsOf returns the folders of the lab's control groups that processes are in.
func cgroupsOf(t *testing.T, pids []string) (dirs []string) {
	t.Helper()
	mounts := bufio.NewScanner(strings.NewReader(mountinfo(t, "self")))
	var mounted string
	for mounts.Scan() {
		if f := strings.Fields(mounts.Text()); strings.Contains(mounts.Text(), " - cgroup2 ") && f[3] == "/" {
			mounted = f[4]
		}
	}
	if mounted == "" {
		t.Skip("no control groups of version 2 are mounted here")
	}
	for _, pid := range pids {
		text, err := os.ReadFile("/proc/" + pid + "/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && strings.Contains(path, "/ec2net-lab-") {
				dirs = append(dirs, filepath.Join(mounted, filepath.Dir(path)))
			}
		}
	}
	return dirs
}
