package endtoend

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
	"ec2net/lab/report"
)

// killedAt are the ways in. ready runs before each run; with new, eth2 is an ENI that
// nobody has ever seen.
func killedAt(s stack) []killedRow {
	const unknown = "rm -f /var/lib/ec2net/eth1.json /var/lib/ec2net/eth1.rules"
	rows := []killedRow{
		{"hotplug add", forget(s), commands[addNew]},
		{"hotplug remove", "INTERFACE=eth2 ACTION=add /etc/network/ec2net.hotplug", "INTERFACE=eth2 ACTION=remove /etc/network/ec2net.hotplug"},
		{"BOUND", unknown, commands[bound]},
		{"RENEW", unknown, commands[renew]},
	}
	if s.setup.Image {
		rows = append(rows[:2], killedRow{"refresh", unknown, "/usr/sbin/ec2net refresh"})
	}
	return append(rows, killedRow{"render --root", "rm -rf /tmp/rendered", commands[renderRoot] + patient},
		killedRow{"docker up", "rm -f /var/lib/ec2net/docker.iptables /run/ec2net/docker.up", "/usr/sbin/ec2net docker up"})
}

type killedRow struct{ name, ready, command string }

// forget makes eth2 an ENI that was never there.
func forget(s stack) string {
	return `INTERFACE=eth2 ACTION=remove /etc/network/ec2net.hotplug
rm -f ` + s.folder + `/*eth2* /var/lib/ec2net/*eth2* /run/ec2net/eth2*; ip link set eth2 group 0`
}

// TestKilled kills ec2net at every system call that changes a file, in turn.
// Then each file is the old one or the new one, what worked works, and the same
// call made again comes to its end and leaves nothing of the one that was killed.
func TestKilled(t *testing.T) { onStacks(t, testKilled) }

func testKilled(t *testing.T, s stack) {
	killat := filepath.Join(t.TempDir(), "usr/sbin/killat")
	build := exec.Command("go", "build", "-o", killat, "../cmd/killat")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rows := killedAt(s)
	times := make([]int, len(rows))
	t.Run("all", func(t *testing.T) {
		for n, k := range rows {
			t.Run(k.name, func(t *testing.T) {
				t.Parallel()
				times[n] = killed(t, s, filepath.Dir(filepath.Dir(filepath.Dir(killat))), k.ready, k.command)
			})
		}
	})
	if t.Failed() || slices.Contains(times, 0) {
		return // or only some were asked for
	}
	var table strings.Builder
	table.WriteString("| | changes of files, and so kills |\n| --- | --- |\n")
	for n, k := range rows {
		fmt.Fprintf(&table, "| %s | %d |\n", k.name, times[n])
	}
	keep := report.Section
	if s.setup.Image {
		keep = report.Update // networkd's routes come while ec2net looks: a look more or less has its locks
	}
	keep(t, "../../docs/reliability.md", s.killed, table.String())
}

func killed(t *testing.T, s stack, killat, ready, command string) (times int) {
	m := newFaulty(t, s)
	m.Install(t, killat)
	if !s.setup.Image { // it only matters that ifup is called
		m.Sh(t, "ln -sf /bin/true /usr/local/sbin/ifup; ln -sf /bin/true /usr/local/sbin/ifdown")
	}
	all := func() map[string]string {
		found := m.files(t)
		for name := range strings.Lines(m.Sh(t, "find /run/ec2net /tmp/rendered -type f ! -name '*.refresh.lock' 2>/dev/null || :")) {
			name = strings.TrimSpace(name)
			found[name], _ = m.ReadFile(t, name)
		}
		maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasSuffix(name, ".lock") })
		return found
	}
	// If IMDS does not answer in time, ec2net uses remembered facts, and changes
	// something else: then once more.
	inTime := func(run func() lab.Result) (r lab.Result) {
		m.WaitFor(t, "IMDS to answer in time", func() bool {
			said := len(m.Log(t))
			r = run()
			return !strings.Contains(m.Log(t)[said:]+r.Stderr, "no answer in time")
		})
		return r
	}
	call := func() lab.Result {
		r := m.Run(t, lab.Cmd{Args: []string{"sh", "-c", "env " + command}})
		if r.Status != 0 {
			t.Fatalf("status %d\n%s", r.Status, r.Stderr)
		}
		return r
	}
	var before map[string]string
	inTime(func() lab.Result {
		m.Sh(t, ready)
		before = all()
		return call()
	})
	after, rules := all(), m.Sh(t, "ip rule")

	folders := m.folder + ",/var/lib/ec2net,/run/ec2net,/tmp/rendered"
	for n := 1; !t.Failed(); n++ {
		r := inTime(func() lab.Result {
			m.Sh(t, ready)
			return m.Run(t, lab.Cmd{Args: []string{"sh", "-c", fmt.Sprintf("killat %d %s env %s", n, folders, command)}})
		})
		if r.Status == 1 {
			break // there is no such change any more
		} else if r.Status != 0 {
			t.Fatalf("killat: status %d\n%s", r.Status, r.Stderr)
		}
		times++
		what := fmt.Sprintf("killed at change %d", n)
		for name, text := range all() {
			temporary := strings.HasPrefix(name[strings.LastIndex(name, "/")+1:], ".")
			if !temporary && !has(before, name, text) && !has(after, name, text) {
				t.Errorf("%s: %s is neither old nor new:\n%s", what, name, text)
			}
		}
		if now := m.Sh(t, "ip rule"); !strings.Contains(now, "from 10.0.0.20 lookup 1001") || !strings.Contains(now, "from 10.0.0.21 lookup 1001") {
			t.Errorf("%s: rules:\n%s", what, now)
		}
		// A minute later.
		m.Sh(t, "find "+m.folder+" /var/lib/ec2net /run/ec2net -name '.?*' -exec touch -d '2 minutes ago' {} +; rm -rf /tmp/rendered")
		inTime(call)
		if got := all(); !maps.Equal(got, after) {
			t.Errorf("%s, and called again: files %q, want %q", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(after)))
		}
		if now := m.Sh(t, "ip rule"); sorted(now) != sorted(rules) {
			t.Errorf("%s, and called again: rules:\n%s\nwant:\n%s", what, now, rules)
		}
	}
	if times == 0 {
		t.Error("no file was changed")
	}
	return times
}
