package endtoend

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ec2net/lab"
)

// answersAt is answers for a port that docker publishes.
func answersAt(t *testing.T, v *lab.VPC, port string, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		if err := v.Client.TCP(a + ":" + port); err != nil {
			t.Errorf("%s does not answer at %s: %v", a, port, err)
		}
		if err := v.Client.UDP(a + ":" + port); err != nil {
			t.Errorf("%s does not answer at %s: %v", a, port, err)
		}
	}
	if d := v.Dropped(t); d != "" {
		t.Errorf("dropped:\n%s", d)
	}
}

// ours returns what ec2net has in the kernel.
const ours = `ip rule; ip route show table 1001; iptables -t mangle -S`

// Docker started after eth1, restarted, and both started by a boot.
func TestDockerRestart(t *testing.T) { onStacks(t, testDockerRestart) }

func testDockerRestart(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Docker: true, Systemd: true, Prepare: "systemctl -q enable ec2net-scan.service ec2net-docker.service"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.StartDocker(t)
	i.WaitSh(t, "systemctl is-active ec2net-docker.service")
	c := echo(t, i, "c80", 80, "--restart=always")
	i.Docker(t, "network", "create", "net1")
	d := echo(t, i, "c81", 81, "--restart=always", "--network=net1")
	all := []string{"10.0.0.10", "10.0.0.20", "10.0.0.21"}
	answersAt(t, v, "80", all...)
	answersAt(t, v, "81", all...)
	before := i.Sh(t, ours)
	if !strings.Contains(before, "172.17.0.0/16 dev docker0") {
		t.Errorf("docker0 is not in eth1's table:\n%s", before)
	}
	again := func(when string) {
		t.Helper()
		i.WaitSh(t, "systemctl is-active ec2net-docker.service && docker exec c80 true && docker exec c81 true")
		for _, c := range []*lab.Container{c, d} {
			c.Enter(t)
			c.Echo(t, 7)
		}
		answersAt(t, v, "80", all...)
		answersAt(t, v, "81", all...)
		// Jumps stand in the order in which they were added.
		if got := i.Sh(t, ours); sorted(got) != sorted(before) {
			sameState(t, when, before, got)
		}
		noneFailed(t, i)
	}
	i.RestartDocker(t)
	again("docker restarted")

	i.Sh(t, "systemctl -q enable docker.service")
	i.Reboot(t)
	i.WaitRunning(t)
	waitUp(t, i, "eth1")
	v.ResetCounters(t)
	again("booted again")

	i.StopDocker(t)
	lacks(t, i.Sh(t, ours), "docker0")
	noneFailed(t, i)
}

// An ENI is up before docker: ifup has left a process that waits for docker0. With systemd
// docker's start starts a unit.
func TestDockerLater(t *testing.T) { onStacks(t, testDockerLater) }

func testDockerLater(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{Docker: true, Prepare: "systemctl -q enable ec2net-docker.service"})
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.StartDocker(t)
	i.WaitSh(t, "ip route show table 1001 | grep -q 'dev docker0'")
	i.WaitSh(t, "! pgrep -f '[e]c2net docker'")
	dockerFinish(t, i)
	echo(t, i, "c80", 80)
	i.Docker(t, "network", "create", "net1")
	echo(t, i, "c81", 81, "--network=net1")
	answersAt(t, v, "80", "10.0.0.10", "10.0.1.20", "10.0.1.21")
	answersAt(t, v, "81", "10.0.0.10", "10.0.1.20", "10.0.1.21")
}

// With docker stopped and the ENI gone, the state is as before.
func TestDockerTraceless(t *testing.T) { onStacks(t, testDockerTraceless) }

func testDockerTraceless(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Docker: true})
	touchTables(t, i)
	i.StartDocker(t)
	echo(t, i, "c80", 80)
	i.Sh(t, "udevadm settle")
	i.WaitSh(t, "grep -qx up /sys/class/net/docker0/operstate")
	before := i.State(t)
	dockerFinish(t, i)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")
	with := i.State(t)

	// Again and again: as it is.
	i.Sh(t, "ec2net docker up; ec2net docker up; env INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug add")
	sameState(t, "done again", with, i.State(t))
	// A saved firewall is restored.
	i.Sh(t, "iptables-save >/tmp/saved; iptables-restore </tmp/saved; iptables-restore </tmp/saved")
	sameState(t, "the firewall restored", with, i.State(t))
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")
	i.Sh(t, s.down+"; "+s.up)
	if got := i.State(t); sorted(got) != sorted(with) {
		sameState(t, "down and up after that", with, got)
	}
	v.ResetCounters(t) // eth1's lease was given back by eth0
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")

	i.Sh(t, "ec2net docker down; ec2net docker down")
	eth1.Detach(t)
	waitDown(t, i, "eth1")
	sameState(t, "docker down and eth1 unplugged", before, i.State(t))
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	dockerFinish(t, i)
	v.ResetCounters(t)
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")
	eth1.Detach(t)
	waitDown(t, i, "eth1")
	i.Sh(t, "ec2net docker down")
	sameState(t, "eth1 unplugged and docker down", before, i.State(t))
}

// A firewall that was saved before there was an ENI is restored: without the marks the
// ports that docker publishes do not answer at eth1, all else goes on. Bringing eth1
// up again mends it.
func TestDockerFirewall(t *testing.T) { onStacks(t, testDockerFirewall) }

func testDockerFirewall(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Docker: true})
	touchTables(t, i)
	// Of docker's chains only docker can know, so it is the other tables' here.
	i.Sh(t, "iptables-save -t mangle >/tmp/saved")
	i.StartDocker(t)
	echo(t, i, "c80", 80)
	dockerFinish(t, i)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")
	before := i.Sh(t, ours)

	i.Sh(t, "iptables-restore </tmp/saved")
	answersAt(t, v, "80", "10.0.0.10")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
	i.Sh(t, "ec2ifdown eth1; ec2ifup eth1; ec2net docker up") // as README has it
	if got := i.Sh(t, ours); sorted(got) != sorted(before) {
		sameState(t, "down and up", before, got)
	}
	v.ResetCounters(t)
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21")
}

// pour gives whoever connects bytes without end.
func pour(t *testing.T, c *lab.Container, port string) {
	t.Helper()
	var l net.Listener
	err := c.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":"+port)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for err == nil {
					_, err = conn.Write(make([]byte, 16<<10))
					time.Sleep(5 * time.Millisecond)
				}
			}()
		}
	}()
}

// A download is running.
type download struct {
	addr string
	got  atomic.Int64
}

func begin(t *testing.T, p *lab.Place, addr string) *download {
	t.Helper()
	conn, err := p.Dial("tcp", "", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &download{addr: addr}
	go func() { _, _ = io.Copy(writer(func(n int) { d.got.Add(int64(n)) }), conn) }()
	return d
}

type writer func(int)

func (w writer) Write(b []byte) (int, error) { w(len(b)); return len(b), nil }

// flows waits until much has come, and reports whether it has.
func (d *download) flows() bool {
	start := d.got.Load()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if d.got.Load() > start+1<<18 {
			return true
		}
	}
	return false
}

// An ENI is unplugged under downloads from a container: those by the other ENIs
// go on.
func TestDockerUnplug(t *testing.T) { onStacks(t, testDockerUnplug) }

func testDockerUnplug(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	v.AddENI(t, "10.0.1.30").Attach(t, "eth2")
	i := s.boot(t, v, lab.Setup{Docker: true})
	i.StartDocker(t)
	dockerFinish(t, i)
	c := echo(t, i, "c80", 80, "-p", "90:9")
	pour(t, c, "9")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	waitUp(t, i, "eth2")
	var others []*download
	for _, a := range []string{"10.0.0.10", "10.0.1.30"} {
		others = append(others, begin(t, v.Client, a+":90"))
	}
	lost := []*download{begin(t, v.Client, "10.0.0.20:90"), begin(t, v.Client, "10.0.0.21:90")}
	for _, d := range append(others, lost...) {
		if !d.flows() {
			t.Errorf("nothing comes from %s", d.addr)
		}
	}
	if d := v.Dropped(t); d != "" {
		t.Errorf("dropped:\n%s", d)
	}
	eth1.Detach(t)
	for _, d := range others {
		if !d.flows() {
			t.Errorf("with eth1 gone nothing more comes from %s", d.addr)
		}
	}
	waitDown(t, i, "eth1")
	for _, d := range others {
		if !d.flows() {
			t.Errorf("eth1 taken down, nothing more comes from %s", d.addr)
		}
	}
	// What was on its way by eth1 is sent again, and leaves by no other.
	if d := v.Dropped(t); d != "" {
		t.Errorf("dropped:\n%s", d)
	}
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	v.ResetCounters(t)
	answersAt(t, v, "80", "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.1.30")
}
