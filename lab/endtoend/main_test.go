// Package endtoend tests what ec2net promises, on real Debian userlands in the lab:
// with the files of "make install", and called only by the programs that call it on a
// machine.
package endtoend

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// installed is a folder that "make install DESTDIR=" has filled, packagesDir one
// for what "make deb" makes, if anybody asks for it.
var installed, packagesDir string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test says that it is skipped, and why
	}
	dir, err := os.MkdirTemp("", "ec2net-installed-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("make", "-C", "../..", "install", "DESTDIR="+dir).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "make install: %v\n%s", err, out)
		return 1
	}
	installed = dir
	if packagesDir, err = os.MkdirTemp("", "ec2net-packages-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(packagesDir)
	return m.Run()
}

// files makes the lab's ENIs count as ENIs: they are veths, without the driver of
// EC2's network cards.
var files = map[string]string{
	"/etc/udev/rules.d/52-lab.rules": `SUBSYSTEM=="net", ACTION!="remove", KERNEL=="eth*|ens*", ENV{EC2NET_ENI}="1"` + "\n",
}

func boot(t *testing.T, v *lab.VPC, s lab.Setup) *lab.Instance {
	t.Helper()
	s.Install, s.Files = installed, files
	i := v.Boot(t, s)
	if !s.Systemd && !s.Image {
		// udev calls hotplug for eth0 too, which leaves it alone.
		i.WaitSh(t, "! pgrep -f '[e]c2net hotplug'")
	}
	i.Echo(t, 7)
	return i
}

// answers fails unless each of the addresses answers, by TCP and UDP, and no frame is
// dropped.
func answers(t *testing.T, v *lab.VPC, places []*lab.Place, addrs ...string) {
	t.Helper()
	answer(t, places, addrs...)
	if d := v.Dropped(t); d != "" {
		t.Errorf("dropped:\n%s", d)
	}
}

// answer is answers without the check for dropped frames.
func answer(t *testing.T, places []*lab.Place, addrs ...string) {
	t.Helper()
	for _, p := range places {
		for _, a := range addrs {
			for name, ask := range map[string]func(string) error{"TCP": p.TCP, "UDP": p.UDP} {
				if err := ask(a + ":7"); err != nil {
					t.Errorf("%s does not answer %s by %s: %v", a, p.Name, name, err)
				}
			}
		}
	}
}

// handled is a condition for a shell: all that udev started has ended, Debian's own
// programs too.
const handled = " && ! pgrep -r D,R,S,T -f '[e]c2net.hotplug|[i]fupdown-hotplug' >/dev/null"

// waitUp waits until ec2net has brought an interface up, while it holds the lock of the
// interface, and has then marked the answers of containers.
func waitUp(t *testing.T, i *lab.Instance, name string) {
	t.Helper()
	i.WaitSh(t, strings.ReplaceAll(`
cd /sys/class/net/eth1 && read mac <address && read index <ifindex &&
grep -qs "^$mac $index " /run/ec2net/eth1.up && flock -n /run/ec2net/eth1.lock true`, "eth1", name)+handled)
}

// waitDown waits until ec2net has taken an interface down.
func waitDown(t *testing.T, i *lab.Instance, name string) {
	t.Helper()
	i.WaitSh(t, "! test -e /run/ec2net/"+name+".up"+handled)
}

// lacks fails if the state has one of the words.
func lacks(t *testing.T, state string, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.Contains(state, w) {
			t.Errorf("there is %q in the state:\n%s", w, state)
		}
	}
}

// touchTables makes iptables' mangle table, which the nft back end leaves behind,
// empty, after its first use.
func touchTables(t *testing.T, i *lab.Instance) {
	t.Helper()
	i.Sh(t, "iptables -t mangle -N touch; iptables -t mangle -X touch")
}

func sameState(t *testing.T, what, want, got string) {
	t.Helper()
	if d := diff.Diff("before", []byte(want), "now", []byte(got)); d != nil {
		t.Errorf("%s: the state is another:\n%s", what, d)
	}
}

// stop ends a process of ours.
const stop = syscall.SIGTERM

// hang is an IMDS that takes connections and never answers.
var hang = imds.Fault{Hang: true}
