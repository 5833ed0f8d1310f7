// Command demo shows a person what ec2net does: an ENI whose addresses do not answer a
// client outside, and the same ENI with ec2net, on an instance as Debian's image for EC2
// boots it and on one with ifupdown. Run "make demo".
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
	network            = "/etc/systemd/network/05-ec2net-eth1.network"
	cfg                = "/etc/network/interfaces.d/eth1.cfg"
)

// files makes the lab's ENIs count as ENIs, since they have no driver of one.
var files = map[string]string{
	"/etc/udev/rules.d/52-lab.rules": `SUBSYSTEM=="net", ACTION!="remove", KERNEL=="eth*", ENV{EC2NET_ENI}="1"` + "\n",
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Stdout, os.Stderr))
}

func run(ctx context.Context, stdout, stderr io.Writer) int {
	err := lab.Program(ctx, func(tb lab.TB) {
		dir := makeInstall(tb)
		image, other := newDemo(tb, stdout), newDemo(tb, stdout)
		image.eni.Attach(tb, "eth1")
		image.boot(lab.Setup{Image: true, Files: files})
		other.boot(lab.Setup{Systemd: true, Install: dir, Files: files, Prepare: "systemctl enable ec2net-scan ec2net-watch"})
		image.onImage(dir)
		other.onIfupdown()
	})
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return 1
	}
	return 0
}

// makeInstall returns a folder with the files of ec2net.
func makeInstall(tb lab.TB) string {
	dir, err := os.MkdirTemp("", "ec2net-demo-")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.CommandContext(tb.Context(), "make", "install", "DESTDIR="+dir).CombinedOutput(); err != nil {
		tb.Fatalf("make install: %v\n%s", err, out)
	}
	return dir
}

// onImage shows all of it: without ec2net, with it, detached.
func (d *demo) onImage(installed string) {
	d.say(`
    client ------- router ---+--- eth0 10.0.0.10 --------------+--- instance
    198.51.100.7             +--- eth1 10.0.1.20, 10.0.1.21 ---+    Debian 12

A VPC made of network namespaces, with an instance that boots as Debian's image for EC2
does, by cloud-init, netplan and systemd-networkd. As on EC2, the VPC drops what an ENI
sends from an address that is not its own.
`)
	d.ready()
	d.without()
	d.install(installed)
	rules := d.instance.Sh(d, "ip rule")
	d.heading("3. With ec2net: eth1 is attached, and nobody does anything")
	d.attach()
	d.shows()
	d.heading("4. The client tries again: each address answers by its own ENI")
	d.answers()
	d.sh("ip route get 198.51.100.7 from "+eth1, "dev eth1")
	d.heading("5. eth1 is detached: its rules and routes go, its file stays")
	d.detach(rules)
	d.sh("ip rule")
	d.sh("head -n 2 "+network, "# eth1 is "+d.eni.ID)
}

// onIfupdown shows what is different on an instance with ifupdown.
func (d *demo) onIfupdown() {
	d.heading("6. The same on an instance with ifupdown")
	d.say(`
Another VPC, with a Debian 12 that has ifupdown and dhclient, and ec2net already. eth1 is
attached. Rules and routes are the same; the file is another, and ifup reads it.
`)
	d.ready()
	rules := d.instance.Sh(d, "ip rule")
	d.attach()
	d.sh("journalctl -t ec2net -o cat | grep -e wrote -e 'pref 1001' -e ifup", "wrote "+cfg, "from 10.0.1.20 lookup 1001", "ifup done")
	d.sh("grep -v '^ *#' "+cfg, "iface eth1 inet dhcp", "table 1001")
	d.answers()
	d.say("\neth1 is detached:\n")
	d.detach(rules)
	d.sh("ip rule")
}

// A demo ends, with an error, at the first step that does not show what it says.
type demo struct {
	lab.TB
	out      io.Writer
	vpc      *lab.VPC
	eni      *lab.ENI // eth1
	instance *lab.Instance
}

func newDemo(tb lab.TB, stdout io.Writer) *demo {
	d := &demo{TB: tb, out: stdout, vpc: lab.NewVPC(tb, lab.Plan{Primary: []string{eth0}})}
	d.eni = d.vpc.AddENI(d, eth1, second)
	return d
}

// boot does not wait for the end of it: both instances boot at once.
func (d *demo) boot(setup lab.Setup) { d.instance = d.vpc.Boot(d, setup) }

func (d *demo) ready() {
	d.instance.WaitRunning(d)
	d.instance.Echo(d, 7)
}

func (d *demo) without() {
	d.heading("1. Without ec2net: cloud-init configures eth1, at the first boot")
	d.instance.WaitSh(d, "ip address show eth1 | grep -w "+eth1+" && ip address show eth0 | grep -w "+eth0)
	d.sh("networkctl --no-pager --no-legend list", "eth1")
	d.sh("ip address show eth1 | grep -w inet", eth1, second)
	d.ask(eth0, counts{{Sent: 1}, {}})
	d.ask(eth1, counts{{ForeignSource: 1}, {}})
	d.say("\nThe answer left by the default route, eth0, and the VPC dropped it there:\n")
	d.says(d.vpc.Dropped(d), "ENI "+eth0+": from "+eth1+" to ")
	d.sh("ip route get 198.51.100.7 from "+eth1, "dev eth0")
	d.say("\neth1 is detached again. An ENI that is attached while this image runs stays down:\nnothing looks.\n")
	d.eni.Detach(d)
}

func (d *demo) install(from string) {
	d.heading("2. ec2net is installed, by make install DESTDIR=...")
	d.instance.Install(d, from)
	d.sh("systemctl daemon-reload; udevadm control --reload")
	d.sh("systemctl --quiet enable --now ec2net-watch")
}

// attach attaches eth1 and waits until ec2net has brought it up.
func (d *demo) attach() {
	d.eni.Describe(lab.Provisional)
	start := time.Now()
	d.eni.Attach(d, "eth1")
	d.say("\nAs on EC2, IMDS knows all of eth1 only some time later; here, after a second.\n")
	d.say("Waiting for eth1 ...")
	time.Sleep(time.Second)
	d.eni.Describe(nil)
	d.settled("ec2net-hotplug@eth1", true)
	d.instance.WaitSh(d, "ec2net status && journalctl --sync")
	d.say(" up after %.1f s\n", time.Since(start).Seconds())
}

func (d *demo) shows() {
	d.say("\nWhat ec2net did is in the system log:\n")
	d.sh("journalctl -t ec2net -o cat", "wrote "+network, "from 10.0.1.20 lookup 1001", "is up by systemd-networkd")
	d.say(`
Packets from eth1's addresses use a route table of their own, 1001. Rules 999: main
routes those that leave by no ENI. Rules with fwmark: answers of containers. While eth1
is up, the primary, eth0, has a table of its own too, 1000; its rules come before main's.
`)
	d.sh("ip rule", "from "+eth1+" lookup 1001", "from "+second+" lookup 1001")
	d.sh("ip route show table 1001", "default via 10.0.1.1 dev eth1")
	d.say("\nThe file that systemd-networkd brought eth1 up with:\n")
	d.sh("cat "+network, "DHCP=ipv4", "Table=1001")
}

func (d *demo) answers() {
	d.ask(eth0, counts{{Sent: 1}, {}})
	d.ask(eth1, counts{{}, {Sent: 1}})
	d.ask(second, counts{{}, {Sent: 1}})
}

// detach fails if something of eth1 is left.
func (d *demo) detach(rules string) {
	d.eni.Detach(d)
	d.settled("ec2net-unplug@eth1", false)
	if d.instance.Sh(d, "ip rule") != rules || d.sh("ip route show table 1001 | wc -l") != "0\n" {
		d.Fatalf("something of eth1 is left\n%s", d.instance.Trouble())
	}
}

// counts has the VPC's counters of eth0 and of eth1.
type counts [2]lab.Counters

// ask asks an address from the client, and fails unless these are the counts. It tries three
// times: ec2net may ask IMDS meanwhile.
func (d *demo) ask(addr string, want counts) {
	if d.vpc.Client.Patience = 0; want[0].Dropped() > 0 {
		d.vpc.Client.Patience = lab.Silence
	}
	var got counts
	var err error
	for try := 0; try == 0 || try < 3 && got != want; try++ {
		d.vpc.ResetCounters(d)
		err = d.vpc.Client.UDP(addr + ":7")
		got = counts{d.vpc.Primary.Counters(d), d.eni.Counters(d)}
	}
	answer := "an"
	if err != nil {
		answer = "no"
	}
	d.say("\nThe client sends a UDP packet to %s, and gets %s answer:\n", addr, answer)
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
