package endtoend

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
)

// trace has the calls of a script that strace(1) saw.
type trace struct {
	programs  []string       // in the order of their starts, dash first, which runs the script
	asked     []int          // how many netlink messages had been sent when each started
	processes int            // that were made
	requests  []string       // the types of the netlink messages sent
	read      map[string]int // how often each file of ec2net's, or of its settings, was opened
}

var (
	tracedProgram = regexp.MustCompile(`^\d+ +execve\("([^"]+)"`)
	tracedProcess = regexp.MustCompile(`^\d+ +(clone|clone3|vfork|fork)\(`)
	tracedNetlink = regexp.MustCompile(`^\d+ +send(to|msg)\(\d+<NETLINK:`)
	tracedRead    = regexp.MustCompile(`^\d+ +openat2?\(.*= \d+<(/(?:var/lib/ec2net|run/ec2net|etc/network|etc/default)/[^>]+)>`)
	netlinkType   = regexp.MustCompile(`nlmsg_type=(\w+)`)
)

// traced runs a script, which has to succeed, and returns the calls of it and all its
// descendants. None may outlive it.
func traced(t *testing.T, i *lab.Instance, script string) trace {
	t.Helper()
	// The filter stops only traced calls: the others run at full speed.
	r := i.Run(t, lab.Cmd{Args: []string{"strace", "-f", "--seccomp-bpf", "-yy", "--successful-only", "-o", "/tmp/trace",
		"-e", "trace=execve,clone,clone3,vfork,fork,sendto,sendmsg,openat,openat2", "dash", "-ec", script}})
	if r.Status != 0 {
		t.Fatalf("status %d of %s\n%s%s", r.Status, script, r.Stdout, r.Stderr)
	}
	text, _ := i.ReadFile(t, "/tmp/trace")
	tr := trace{read: make(map[string]int)}
	for line := range strings.Lines(text) {
		switch {
		case tracedProgram.MatchString(line):
			tr.programs = append(tr.programs, tracedProgram.FindStringSubmatch(line)[1])
			tr.asked = append(tr.asked, len(tr.requests))
		case tracedProcess.MatchString(line) && !strings.Contains(line, "CLONE_THREAD"):
			tr.processes++
		case tracedRead.MatchString(line) && !strings.Contains(line, "O_DIRECTORY") && !strings.Contains(line, "O_PATH"):
			tr.read[tracedRead.FindStringSubmatch(line)[1]]++
		case tracedNetlink.MatchString(line):
			for _, m := range netlinkType.FindAllStringSubmatch(line, -1) {
				tr.requests = append(tr.requests, m[1])
			}
		}
	}
	return tr
}

func (tr trace) String() string {
	return fmt.Sprintf("programs %q, %d processes, %d netlink requests, %d of them changes",
		tr.programs, tr.processes, len(tr.requests), len(tr.changes()))
}

// changes are the netlink requests that are not questions.
func (tr trace) changes() []string {
	return slices.DeleteFunc(slices.Clone(tr.requests), func(r string) bool { return strings.HasPrefix(r, "RTM_GET") })
}

// asked returns the requests to IMDS since its log was emptied, sorted.
func asked(v *lab.VPC) string {
	var paths []string
	for _, r := range v.IMDS.Requests() {
		name := path.Base(r.Path)
		if strings.HasSuffix(r.Path, "/") {
			name = "listing"
		}
		paths = append(paths, name)
	}
	slices.Sort(paths)
	return strings.Join(paths, " ")
}

// askedOnce is one token, one listing, and the keys that an ENI without IPv6
// and prefixes has of those that ec2net uses; "mac" tells the primary.
const askedOnce = "device-number interface-id listing local-ipv4s mac network-card subnet-ipv4-cidr-block token vpc-ipv4-cidr-blocks"

// sourceHook makes dash source the exit hook, as dhclient-script does.
func sourceHook(reason, iface, addr string) string {
	return fmt.Sprintf("reason=%s interface=%s new_ip_address=%s; . /etc/dhcp/dhclient-exit-hooks.d/ec2net; :", reason, iface, addr)
}

// What ec2net costs, in counts that are the same on every machine: programs
// and processes started, netlink requests, requests to IMDS.
func TestCost(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	var fifty []string
	for n := range 50 {
		fifty = append(fifty, fmt.Sprintf("10.0.1.%d", 20+n))
	}
	eth1, eth2 := v.AddENI(t, "10.0.0.20"), v.AddENI(t, fifty...)
	i := boot(t, v, lab.Setup{})
	eth1.Attach(t, "eth1")
	eth2.Attach(t, "eth2")
	waitUp(t, i, "eth1")
	waitUp(t, i, "eth2")
	ec2netAlone := func(t *testing.T, tr trace) {
		t.Helper()
		t.Logf("%s; IMDS: %s", tr, asked(v))
		if want := []string{"/usr/bin/dash", "/usr/sbin/ec2net"}; !slices.Equal(tr.programs, want) || tr.processes != 1 {
			t.Errorf("%d processes, programs %q, want 1 and %q", tr.processes, tr.programs, want)
		}
		if got := asked(v); got != askedOnce {
			t.Errorf("IMDS was asked for %s\nwant %s", got, askedOnce)
		}
	}

	t.Run("hook with nothing to do", func(t *testing.T) {
		v.IMDS.ResetLog()
		tr := traced(t, i, sourceHook("RENEW", "eth1", "10.0.0.20"))
		ec2netAlone(t, tr)
		if n := len(tr.requests); n == 0 || n > 4 || len(tr.changes()) > 0 {
			t.Errorf("netlink requests %q, want 1 to 4 and no change", tr.requests)
		}
		if tr.read["/var/lib/ec2net/eth1.json"] == 0 {
			t.Errorf("no facts were read: %v", tr.read)
		}
		for file, n := range tr.read {
			if n > 1 && !strings.HasSuffix(file, ".lock") {
				t.Errorf("%s was opened %d times", file, n)
			}
		}
	})

	t.Run("hook from nothing with 50 addresses", func(t *testing.T) {
		i.Sh(t, "ip rule flush protocol 236; for a in "+strings.Join(fifty[1:], " ")+"; do ip addr del $a/32 dev eth2; done")
		v.IMDS.ResetLog()
		// BOUND has one second for IMDS, REBIND five.
		tr := traced(t, i, sourceHook("REBIND", "eth2", fifty[0]))
		ec2netAlone(t, tr)
		// 49 addresses; a rule for each of 50, and that of the mark; two rules each of eth1
		// and of the primary, which were flushed with them; and the group rules: of the
		// subnets of three ENIs, since the primary's has a priority of its own, and of three marks.
		if n := len(tr.changes()); n != 49+51+4+6 || len(tr.requests) > n+5 {
			t.Errorf("%d netlink requests, %d of them changes, want %d and 5 more at most", len(tr.requests), n, 49+51+4+6)
		}
	})

	t.Run("hotplug until ifup starts", func(t *testing.T) {
		const files = "/etc/network/interfaces.d/eth1.cfg /var/lib/ec2net/eth1.*"
		i.Sh(t, "rm /run/ec2net/eth1.up "+files)
		v.IMDS.ResetLog()
		// eth1 is up as far as ifup knows, which has nothing to do.
		tr := traced(t, i, "INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug add; :")
		i.Sh(t, "ls "+files)
		t.Logf("%s; IMDS: %s", tr, asked(v))
		if want := []string{"/usr/bin/dash", "/etc/network/ec2net.hotplug", "/usr/sbin/ifup"}; len(tr.programs) < 3 || !slices.Equal(tr.programs[:3], want) {
			t.Errorf("programs %q, want %q first", tr.programs, want)
		} else if n := tr.asked[2]; n > 12 {
			t.Errorf("%d netlink requests before ifup, want 12 at most: %q", n, tr.requests[:n])
		} else {
			t.Logf("%d netlink requests before ifup: %q", n, tr.requests[:n])
		}
		if got := asked(v); got != askedOnce {
			t.Errorf("IMDS was asked for %s\nwant %s", got, askedOnce)
		}
	})

	t.Run("ifup", func(t *testing.T) {
		// The client would outlive the script, and strace wait for it. It writes
		// its number when it is in the background already, after ifup has ended.
		const ifup = "ifup eth1; until test -s /run/dhclient.eth1.pid; do :; done; read -r pid </run/dhclient.eth1.pid; kill -KILL $pid"
		cfg, _ := i.ReadFile(t, "/etc/network/interfaces.d/eth1.cfg")
		lines := strings.Count(cfg, "\n    post-up ")
		i.Sh(t, "ifdown eth1")
		v.IMDS.ResetLog()
		with := traced(t, i, ifup)
		t.Logf("IMDS: %s", asked(v))
		i.Sh(t, `ifdown eth1
			cd /etc/network/interfaces.d; rm eth1.cfg; printf 'iface eth1 inet dhcp\n' >bare.cfg
			rm /etc/dhcp/dhclient-exit-hooks.d/ec2net`)
		bare := traced(t, i, ifup)
		added := len(with.programs) - len(bare.programs)
		t.Logf("%d programs, %d bare: %d for %d lines and the hook", len(with.programs), len(bare.programs), added, lines)
		if !slices.Contains(with.programs, "/usr/sbin/ec2net") || slices.Contains(bare.programs, "/usr/sbin/ec2net") {
			t.Errorf("ec2net is to run in the first of these and not in the second\n%q\n%q", with.programs, bare.programs)
		}
		if lines == 0 || added > 2*lines+2 {
			t.Errorf("ec2net adds %d programs for %d lines, want 2 for each and 2 for the hook\n%q\nbare\n%q", added, lines, with.programs, bare.programs)
		}
	})
}
