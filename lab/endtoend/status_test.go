package endtoend

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"ec2net/lab"
)

// Without watch nothing puts back what another program takes away. The status names it,
// its commands, typed, mend it, and then it is as before and answers.
func TestStatus(t *testing.T) { onStacks(t, testStatus) }

func testStatus(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	eth2 := v.AddENI(t, "10.0.1.30")
	i := s.boot(t, v, lab.Setup{Prepare: "echo EC2NET_MARKS=yes >>/etc/default/ec2net"})
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	eth2.Attach(t, "eth2")
	waitUp(t, i, "eth2")
	i.Sh(t, "ec2net refresh")
	status := func(args ...string) lab.Result {
		t.Helper()
		return i.Run(t, lab.Cmd{Args: append([]string{"ec2net", "status"}, args...)})
	}
	if r := status(); r.Status != 0 || strings.Count(r.Stdout, " ok ") != 3 || r.Stderr != "" {
		t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	t.Log("\n" + status().Stdout)
	state := func() string { return i.Sh(t, snapshot+"snapshot") }
	before := state()
	places := []*lab.Place{v.Client, v.Host(t, "10.0.1.99")}
	for _, c := range []struct{ what, disturb, differs string }{
		{"a rule deleted", "ip rule del pref 1001 from 10.0.1.21", "eth1"},
		{"the group rule deleted", "ip rule del pref 999", ""},
		{"all rules flushed", "ip rule flush protocol 236", "eth0 eth1 eth2"},
		{"a table flushed", "ip route flush table 1001", "eth1"},
		{"the primary's table flushed", "ip route flush table 1000", "eth0"},
		{"an address removed", "ip addr del 10.0.1.21/32 dev eth1", "eth1"},
		{"the primary's address removed", "ip addr del 10.0.0.11/32 dev eth0", "eth0"},
		{"a group reset", "ip link set dev eth1 group 0", "eth1"},
		{"the primary's group reset", "ip link set dev eth0 group 0", "eth0"},
		{"a rule that hits the ENI's own", "ip rule add pref 1001 lookup 1001", "eth1"},
		{"all of it", "ip rule flush protocol 236; for n in 1000 1001 1002; do ip route flush table $n; done; ip addr del 10.0.1.21/32 dev eth1; ip link set dev eth2 group 0", "eth0 eth1 eth2"},
	} {
		i.Sh(t, c.disturb)
		r := status()
		t.Logf("%s\n%s", c.what, r.Stdout)
		if r.Status != 1 || r.Stderr != "" {
			t.Errorf("%s: status %d, %s", c.what, r.Status, r.Stderr)
		}
		var got struct {
			Differs  bool
			ENIs     []struct{ Name, State string }
			Commands []string
		}
		if err := json.Unmarshal([]byte(status("--json").Stdout), &got); err != nil {
			t.Fatal(err)
		}
		var differ []string
		for _, e := range got.ENIs {
			if e.State == "differs" {
				differ = append(differ, e.Name)
			}
		}
		if d := strings.Join(differ, " "); d != c.differs || !got.Differs {
			t.Errorf("%s: %q differ", c.what, d)
		}
		for _, line := range got.Commands {
			if !strings.Contains(r.Stdout, "\n  "+line+"\n") {
				t.Errorf("%s: the text has no line %q", c.what, line)
			}
			i.Sh(t, line)
		}
		if r := status(); r.Status != 0 || strings.Count(r.Stdout, " ok ") != 3 {
			t.Errorf("%s: after %q\nstatus %d\n%s", c.what, got.Commands, r.Status, r.Stdout)
		}
		sameState(t, c.what, before, state())
	}
	answers(t, v, places, "10.0.0.10", "10.0.0.11", "10.0.1.20", "10.0.1.21", "10.0.1.30")

	// One ENI alone; somebody who is not root; nobody's name.
	i.Sh(t, "ip rule del pref 1001 from 10.0.1.21")
	if r := status("eth2"); r.Status != 0 || strings.Contains(r.Stdout, "eth1") || !strings.Contains(r.Stdout, "\neth2 ") {
		t.Errorf("eth2: status %d\n%s", r.Status, r.Stdout)
	}
	notRoot := lab.Cmd{Args: []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ec2net", "status"}}
	r := i.Run(t, notRoot)
	if r.Status != 1 || r.Stderr != "" || !strings.Contains(r.Stdout, "  ip rule add pref 1001 from 10.0.1.21 lookup 1001 protocol 236\n") ||
		!strings.Contains(r.Stdout, "\nMarks: only root sees whether they differ.\n") {
		t.Errorf("not root: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	if r := status("eth9"); r.Status != 6 || r.Stdout != "" || !strings.Contains(r.Stderr, "there is no interface eth9 here") {
		t.Errorf("eth9: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	i.Sh(t, "ec2ifup eth1")
	if r := status(); r.Status != 0 {
		t.Errorf("status %d\n%s", r.Status, r.Stdout)
	}

	// What netplan makes is not for everybody, in Debian 13.
	i.Sh(t, "ec2ifdown eth2; chmod -f 640 /run/systemd/network/10-netplan-* || :")
	if r := i.Run(t, notRoot); r.Status != 0 || r.Stderr != "" || !strings.Contains(r.Stdout, "eth2 is down: \"ec2ifup eth2\" brings it up") {
		t.Errorf("not root, down: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// The status says what watch did, and whether it runs. README.md has what it prints.
func TestStatusOfWatch(t *testing.T) { onStacks(t, testStatusOfWatch) }

func testStatusOfWatch(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	eth2 := v.AddENI(t, "10.0.1.30")
	i := s.boot(t, v, lab.Setup{Systemd: true,
		Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service; echo EC2NET_UNMANAGED=eth2 >>/etc/default/ec2net"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	eth2.Attach(t, "eth2")
	i.WaitSh(t, `
systemctl is-active -q ec2net-watch && test -d /sys/class/net/eth2 && test -f /var/lib/ec2net/eth0.json
test inactive = $(systemctl is-active ec2net-hotplug@eth1.service)`)
	i.Sh(t, "ip addr add 10.0.1.30/24 dev eth2; ip link set dev eth1 group 0")
	i.WaitSh(t, "grep -q 'eth1: ip link set dev eth1 group 1000' /run/ec2net/watch.log")
	if r := i.Run(t, lab.Cmd{Args: []string{"ec2net", "status"}}); r.Status != 0 || !strings.Contains(r.Stdout, "\nWatch runs; the last that it has logged:\n") {
		t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	i.Sh(t, `
systemctl stop ec2net-watch
sed -i '$!d' /run/ec2net/watch.log
touch -d '-3 hours' /var/lib/ec2net/*.json
ip rule del pref 1001 from 10.0.1.21`)
	r := i.Run(t, lab.Cmd{Args: []string{"ec2net", "status"}})
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(readme), "\n    NAME  ENI ")
	shown, _, _ = strings.Cut("    NAME  ENI "+shown, "\n\nIt changes nothing")
	date := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
	lines := date.ReplaceAllString(regexp.MustCompile("(?m)^(.)").ReplaceAllString(strings.TrimSpace(r.Stdout), "    $1"), "DATE")
	if d := diff.Diff("README.md", []byte(date.ReplaceAllString(shown, "DATE")+"\n"), "printed", []byte(lines+"\n")); d != nil || r.Status != 1 {
		t.Errorf("status %d\n%s", r.Status, d)
	}
	noneFailed(t, i)
}
