package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var _ TB = testing.TB(nil)

var releases = []string{"bookworm", "trixie"}

// sh runs a script that has to succeed and returns what it prints.
func sh(t *testing.T, tree *Tree, script string) string {
	t.Helper()
	r := tree.Run(t, Cmd{Args: []string{"sh", "-ec", script}})
	if r.Status != 0 {
		t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// TestTools gives every tool of the lab one input that it must accept and one that it
// must refuse.
func TestTools(t *testing.T) {
	const (
		mangle  = "*mangle\n:ec2net-eth1 - [0:0]\n-A ec2net-eth1 -j MARK --set-xmark 0x3e9/0x3fff\nCOMMIT\n"
		noChain = "*mangle\n-A nowhere -j ACCEPT\nCOMMIT\n"
		noFlag  = "*mangle\n-A PREROUTING --no-flag\nCOMMIT\n"
	)
	cfg := func(text string) map[string]string {
		return map[string]string{
			"/etc/network/interfaces":            "source /etc/network/interfaces.d/*.cfg\n",
			"/etc/network/interfaces.d/eth1.cfg": text,
		}
	}
	for _, tool := range []struct {
		name      string
		args      []string
		good, bad Cmd // without Args
	}{
		{
			name: "dash",
			args: []string{"dash", "-n"},
			good: Cmd{Stdin: "if true; then :; fi\n"},
			bad:  Cmd{Stdin: "if true; then :\n"},
		},
		{
			name: "ifquery",
			args: []string{"ifquery", "eth1"},
			good: Cmd{Files: cfg("iface eth1 inet dhcp\n\tpost-up true\n")},
			bad:  Cmd{Files: cfg("EC2SYNC=no\niface eth1 inet dhcp\n")},
		},
		// With the nft back end --test checks only the syntax; a real restore
		// finds a missing chain.
		{
			name: "iptables-nft --test",
			args: []string{"iptables-nft-restore", "--test"},
			good: Cmd{Stdin: mangle},
			bad:  Cmd{Stdin: noFlag},
		},
		{
			name: "iptables-nft",
			args: []string{"iptables-nft-restore"},
			good: Cmd{Stdin: mangle},
			bad:  Cmd{Stdin: noChain},
		},
		{
			name: "iptables-legacy --test",
			args: []string{"iptables-legacy-restore", "--test"},
			good: Cmd{Stdin: mangle},
			bad:  Cmd{Stdin: noChain},
		},
		{
			name: "ip",
			args: []string{"ip", "-batch", "-"},
			good: Cmd{Stdin: "rule add pref 1001 fwmark 0x3e9/0x3fff lookup 1001\n"},
			bad:  Cmd{Stdin: "rule add pref 1001 fwmark many lookup 1001\n"},
		},
		{
			name: "shellcheck",
			args: []string{"shellcheck", "-s", "sh", "-"},
			good: Cmd{Stdin: "echo \"$1\"\n"},
			bad:  Cmd{Stdin: "echo $1\n"},
		},
	} {
		for _, release := range releases {
			if tool.name == "shellcheck" && release != "bookworm" {
				continue
			}
			t.Run(tool.name+"/"+release, func(t *testing.T) {
				t.Parallel()
				tree := Debian(t, release)
				good, bad := tool.good, tool.bad
				good.Args, bad.Args = tool.args, tool.args
				if r := tree.Run(t, good); r.Status != 0 {
					t.Errorf("good input: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
				}
				switch r := tree.Run(t, bad); r.Status {
				case 0, 127: // 127: there is no such tool
					t.Errorf("bad input: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
				}
			})
		}
	}
}

func TestSandboxIsAMachine(t *testing.T) {
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			got := sh(t, Debian(t, release), `
				hostname
				ls /sys/class/net
				ip -oneline address show | awk '{ print $2, $4 }'
				stat --dereference --format '%n %A' /dev/null /dev/ptmx /tmp /run
				echo lost > /dev/null
				cat /dev/null
				su nobody -s /bin/sh -c 'echo lost > /dev/null && touch /tmp/mine'
				ls /tmp /run
				umask
				cat /proc/1/comm
				# the overlay and what stands on it, and nothing of the host
				awk '{ print $5, $(NF - 2) }' /proc/self/mountinfo
			`)
			want := `lab
lo
lo 127.0.0.1/8
lo ::1/128
/dev/null crw-rw-rw-
/dev/ptmx crw-rw-rw-
/tmp drwxrwxrwt
/run drwxr-xr-x
/run:

/tmp:
mine
0022
sh
/ overlay
/sys sysfs
/run tmpfs
/tmp tmpfs
/dev tmpfs
/dev/pts devpts
/dev/shm tmpfs
/proc proc
`
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestSandboxNamespaces(t *testing.T) {
	tree := Debian(t, "bookworm")
	for _, kind := range []string{"mnt", "pid", "net", "uts", "ipc"} {
		path := "/proc/self/ns/" + kind
		outside, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		inside := strings.TrimSpace(sh(t, tree, "readlink "+path))
		if !strings.HasPrefix(inside, kind+":") || inside == outside {
			t.Errorf("inside it is %q, outside %q", inside, outside)
		}
	}
}

func TestSandboxFilesAndEnvironment(t *testing.T) {
	r := Debian(t, "bookworm").Run(t, Cmd{
		Args:  []string{"/etc/ec2net/hook", "an argument"},
		Stdin: "the input",
		Env:   []string{"reason=BOUND"},
		Files: map[string]string{
			"/etc/ec2net/hook": "#!/bin/sh\necho \"$1, $reason, $(cat), $(stat --format %a /etc/ec2net/data)\"\nenv >&2\n",
			"/etc/ec2net/data": "",
		},
	})
	if want := "an argument, BOUND, the input, 644\n"; r.Stdout != want || r.Status != 0 {
		t.Errorf("got status %d, %q, want %q", r.Status, r.Stdout, want)
	}
	want := map[string]bool{"PATH": true, "HOME": true, "PWD": true, "reason": true} // PWD is dash's
	for line := range strings.Lines(r.Stderr) {
		if name, _, _ := strings.Cut(line, "="); !want[name] {
			t.Errorf("the environment has %s", line)
		}
	}
}

func TestSandboxStatus(t *testing.T) {
	tree := Debian(t, "bookworm")
	for script, want := range map[string]int{
		"exit 3":        3,
		"kill -TERM $$": 128 + 15,
		"no-such-tool":  127,
		// Run does not wait for a process that holds the standard output.
		"sleep 1000 & exit 4": 4,
	} {
		if r := tree.Run(t, Cmd{Args: []string{"sh", "-c", script}}); r.Status != want {
			t.Errorf("%s: status %d, want %d\n%s", script, r.Status, want, r.Stderr)
		}
	}
}

// TestSandboxErrors: these fail without a Result.
func TestSandboxErrors(t *testing.T) {
	tree := Debian(t, "bookworm")
	seconds := fmt.Sprintf("2%09d", os.Getpid()) // the mark by which the sleep is found
	hangs, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for hangs.Err() == nil && len(running(t, "sleep", seconds)) == 0 {
			time.Sleep(eventPoll)
		}
		cancel()
	}()
	for _, test := range []struct {
		name string
		ctx  context.Context
		tree *Tree
		cmd  Cmd
		want string
	}{
		{"hangs", hangs, tree, Cmd{Args: []string{"sh", "-c", "echo so far; sleep " + seconds}}, "context canceled\nso far"},
		{"relative path", t.Context(), tree, Cmd{Args: []string{"true"}, Files: map[string]string{"a": ""}}, `"a": not an absolute path`},
		{"no tree", t.Context(), &Tree{Dir: t.TempDir()}, Cmd{Args: []string{"true"}}, "cannot mount tmpfs on "},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := test.tree.run(test.ctx, test.cmd); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestSandboxesAreSeparate runs several at once that all do the same: each
// must find nothing of the others, and the tree must stay as it was.
func TestSandboxesAreSeparate(t *testing.T) {
	tree := Debian(t, "bookworm")
	const script = `
		echo "$NAME" > /etc/marker
		ip rule add pref 1001 lookup 1001 # File exists, if it is another's
		iptables-legacy --wait --new-chain ec2net
		hostname "$NAME"
		sleep 0.3
		cat /etc/marker; hostname
		set -- /proc/[0-9]*; echo $#`
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			name := fmt.Sprintf("s%d", i)
			r, err := tree.run(t.Context(), Cmd{Args: []string{"sh", "-ec", script}, Env: []string{"NAME=" + name}})
			// Two processes: init and this script.
			if want := name + "\n" + name + "\n2\n"; err != nil || r.Status != 0 || r.Stdout != want {
				t.Errorf("got %v, status %d, %q, want %q\n%s", err, r.Status, r.Stdout, want, r.Stderr)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(tree.Dir + "/etc/marker"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree itself was written to: %v", err)
	}
}

func BenchmarkSandbox(b *testing.B) {
	tree := Debian(b, "bookworm")
	for b.Loop() {
		tree.Run(b, Cmd{Args: []string{"true"}})
	}
}
