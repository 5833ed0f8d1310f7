// Command demo shows a person what ec2net does: an ENI whose addresses do not answer a
// client outside, and the same ENI with ec2net. Run "make demo".
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"ec2net/lab"
)

const (
	eth0, eth1, second = "10.0.0.10", "10.0.1.20", "10.0.1.21"
	cfg                = "/etc/network/interfaces.d/eth1.cfg"
)

// files makes the lab's ENIs count as ENIs, since they have no driver of one.
var files = map[string]string{
	"/etc/udev/rules.d/52-lab.rules": `SUBSYSTEM=="net", KERNEL=="eth*", ENV{EC2NET_ENI}="1"` + "\n",
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Stdout, os.Stderr))
}

func run(ctx context.Context, stdout, stderr io.Writer) int {
	err := lab.Program(ctx, func(tb lab.TB) {
		d := &demo{TB: tb, out: stdout}
		d.boot()
		d.without()
		d.install()
		rules := d.instance.Sh(d, "ip rule")
		d.attach()
		d.answers()
		d.detach(rules)
	})
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return 1
	}
	return 0
}

// A demo ends, with an error, at the first step that does not show what it says.
type demo struct {
	lab.TB
	out      io.Writer
	vpc      *lab.VPC
	eni      *lab.ENI // eth1
	instance *lab.Instance
}

func (d *demo) boot() {
	d.say(`
    client ------- router ---+--- eth0 10.0.0.10 --------------+--- instance
    198.51.100.7             +--- eth1 10.0.1.20, 10.0.1.21 ---+    Debian 12

A VPC made of network namespaces, with an instance that has only eth0 so far. As
on EC2, the VPC drops what an ENI sends from an address that is not its own.
`)
	d.vpc = lab.NewVPC(d, lab.Plan{Primary: []string{eth0}})
	d.eni = d.vpc.AddENI(d, eth1, second)
	d.instance = d.vpc.Boot(d, lab.Setup{Systemd: true, Files: files})
	d.instance.WaitRunning(d)
	d.instance.Echo(d, 7)
}

func (d *demo) without() {
	d.heading("1. Without ec2net: eth1 is attached, and configured by hand")
	d.eni.Attach(d, "eth1")
	d.sh("echo 'iface eth1 inet dhcp' > " + cfg)
	d.sh("ifup eth1 2>/dev/null")
	d.sh("ip address show eth1 | grep -w inet", eth1)
	d.ask(eth0, counts{{Sent: 1}, {}})
	d.ask(eth1, counts{{ForeignSource: 1}, {}})
	d.say("\nThe answer left by the default route, eth0, and the VPC dropped it there:\n")
	d.says(d.vpc.Dropped(d), "ENI "+eth0+": from "+eth1+" to ")
	d.sh("ip route get 198.51.100.7 from "+eth1, "dev eth0")
	d.say("\nEnd of that try:\n")
	d.sh("ifdown eth1 2>/dev/null; rm " + cfg)
	d.eni.Detach(d)
}

func (d *demo) install() {
	d.heading("2. ec2net is installed, by make install DESTDIR=...")
	dir, err := os.MkdirTemp("", "ec2net-demo-")
	if err != nil {
		d.Fatalf("%v", err)
	}
	d.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.CommandContext(d.Context(), "make", "install", "DESTDIR="+dir).CombinedOutput(); err != nil {
		d.Fatalf("make install: %v\n%s", err, out)
	}
	d.instance.Install(d, dir)
	d.sh("systemctl daemon-reload; systemctl enable ec2net-scan; udevadm control --reload")
}

func (d *demo) attach() {
	d.heading("3. With ec2net: eth1 is attached, and nobody does anything")
	d.eni.Describe(lab.Provisional)
	start := time.Now()
	d.eni.Attach(d, "eth1")
	d.say("\nAs on EC2, IMDS knows all of eth1 only some time later; here, after a second.\n")
	d.say("Waiting for eth1 ...")
	time.Sleep(time.Second)
	d.eni.Describe(nil)
	d.settled("ec2net-hotplug@eth1", true)
	d.say(" up after %.1f s\n", time.Since(start).Seconds())

	d.say("\nWhat ec2net did is in the system log:\n")
	d.sh("journalctl -t ec2net -o cat", "wrote "+cfg, "from 10.0.1.20 lookup 1001", "ifup done")
	d.say(`
Packets from eth1's addresses use a route table of their own, 1001. Rules 999: main
routes those that leave by no ENI. Rules with fwmark: answers of containers. While eth1
is up, the primary, eth0, has a table of its own too, 1000; its rules come before main's.
`)
	d.sh("ip rule", "from "+eth1+" lookup 1001", "from "+second+" lookup 1001")
	d.sh("ip route show table 1001", "default via 10.0.1.1 dev eth1")
	d.say("\nThe file that ifup brought eth1 up with:\n")
	d.sh("cat "+cfg, "iface eth1 inet dhcp", "table 1001")
}

func (d *demo) answers() {
	d.heading("4. The client tries again: each address answers by its own ENI")
	d.ask(eth0, counts{{Sent: 1}, {}})
	d.ask(eth1, counts{{}, {Sent: 1}})
	d.ask(second, counts{{}, {Sent: 1}})
	d.sh("ip route get 198.51.100.7 from "+eth1, "dev eth1")
}

func (d *demo) detach(rules string) {
	d.heading("5. eth1 is detached: its rules and routes go, its cfg file stays")
	d.eni.Detach(d)
	d.settled("ec2net-unplug@eth1", false)
	d.sh("journalctl -t ec2net -o cat -n 5", "ifdown done")
	if d.sh("ip rule") != rules || d.sh("ip route show table 1001 | wc -l") != "0\n" {
		d.Fatalf("something of eth1 is left\n%s", d.instance.Trouble())
	}
	d.sh("head -n 2 "+cfg, "# eth1 is "+d.eni.ID)
}

// counts has the VPC's counters of eth0 and of eth1.
type counts [2]lab.Counters

// ask asks an address from the client, and fails unless these are the counts.
func (d *demo) ask(addr string, want counts) {
	d.vpc.ResetCounters(d)
	if d.vpc.Client.Patience = 0; want[0].Dropped() > 0 {
		d.vpc.Client.Patience = lab.Silence
	}
	err, answer := d.vpc.Client.UDP(addr+":7"), "an"
	if err != nil {
		answer = "no"
	}
	d.say("\nThe client sends a UDP packet to %s, and gets %s answer:\n", addr, answer)
	got := counts{d.vpc.Primary.Counters(d), d.eni.Counters(d)}
	for n, c := range got {
		d.say("    packets out of eth%d: passed 0 -> %d, dropped 0 -> %d\n", n, c.Sent, c.Dropped())
	}
	if got != want || (err != nil) != (want[0].Dropped() > 0) {
		d.Fatalf("counted %+v, want %+v; %v\n%s", got, want, err, d.instance.Trouble())
	}
}

// settled waits until ec2net has brought eth1 up or down.
func (d *demo) settled(unit string, up bool) {
	d.instance.WaitFor(d, unit, func() bool {
		_, is := d.instance.ReadFile(d, "/run/ec2net/eth1.up")
		return is == up
	})
	d.instance.WaitSh(d, "flock -n /run/ec2net/eth1.lock true") // ec2net holds it until it is done
	d.instance.WaitSh(d, "test inactive = $(systemctl is-active "+unit+") && journalctl --sync")
}

// sh shows a command of the instance and its output, which has to contain words.
func (d *demo) sh(command string, words ...string) string {
	d.say("\ninstance# %s\n", command)
	out := d.instance.Sh(d, command)
	d.says(out, words...)
	return out
}

// says prints a text, without ip's spaces at the ends of lines.
func (d *demo) says(text string, words ...string) {
	d.say("%s", strings.ReplaceAll(text, " \n", "\n"))
	for _, w := range words {
		if !strings.Contains(text, w) {
			d.Fatalf("it lacks %q\n%s", w, d.instance.Trouble())
		}
	}
}

func (d *demo) heading(text string) { d.say("\n\n%s\n%s\n", text, strings.Repeat("=", len(text))) }

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }
