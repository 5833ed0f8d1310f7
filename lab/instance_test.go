package lab

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// eth1Stanza is what one writes by hand for a second ENI.
const eth1Stanza = "iface eth1 inet dhcp\n"

func TestInstance(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := NewVPC(t, Plan{})
			i := v.Boot(t, Setup{Release: release})
			state := i.State(t)
			for _, want := range []string{
				"\neth0    inet 10.0.0.10/24 brd 10.0.0.255 scope global dynamic eth0\n",
				"\ndefault via 10.0.0.1 dev eth0\n",
				"\neth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9001 qdisc noqueue state UP mode DEFAULT group default link/ether 02:00:0a:00:00:0a ",
				"\n/lib/systemd/systemd-udevd --daemon\n",
				"\nlocal fe80::aff:fe00:a dev eth0 table local ", // or it comes a second later
				"\ndhclient -4 ",
			} {
				if !strings.Contains(state, want) {
					t.Errorf("the state lacks %q", want)
				}
			}
			if again := i.State(t); again != state {
				t.Errorf("the state was:\n%s\nand is without a change:\n%s", state, again)
			}
			i.Sh(t, "ip rule add pref 1001 from 10.0.0.10 lookup 1001 protocol 90")
			if i.State(t) == state {
				t.Errorf("a rule does not change the state")
			}
			i.Sh(t, "ip rule delete pref 1001")

			i.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:7")
			asks(t, v.Host(t, "10.0.0.9"), "10.0.0.10:7")
			asks(t, v.Host(t, "10.0.1.9"), "10.0.0.10:7")
			if dropped := v.Dropped(t); dropped != "" {
				t.Errorf("dropped:\n%s", dropped)
			}
			got := i.Sh(t, `
				url=http://169.254.169.254/latest
				curl -sS --max-time 5 --output /dev/null --write-out '%{http_code}\n' $url/meta-data/mac
				token=$(curl -sS --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $url/api/token)
				curl -sS --max-time 5 -H "X-aws-ec2-metadata-token: $token" $url/meta-data/mac`)
			if want := "401\n02:00:0a:00:00:0a"; got != want {
				t.Errorf("IMDS without and with a token: %q, want %q", got, want)
			}
			if t.Failed() {
				t.Log(i.Trouble())
			}
		})
	}
}

func TestInstanceRun(t *testing.T) {
	t.Parallel()
	i := NewVPC(t, Plan{}).Boot(t, Setup{
		Files:   map[string]string{"/etc/marker": "written\n"},
		Prepare: "cat /etc/marker > /etc/prepared; ls /sys/class/net >> /etc/prepared",
	})
	if got, _ := i.ReadFile(t, "/etc/prepared"); got != "written\nlo\n" {
		t.Errorf("prepared with %q", got)
	}
	if _, ok := i.ReadFile(t, "/no/such/file"); ok {
		t.Error("a file that is not there is")
	}
	for script, want := range map[string]int{
		"exit 3":              3,
		"kill -TERM $$":       128 + 15,
		"no-such-tool":        127,
		"sleep 1000 & exit 4": 4,
	} {
		if r := i.Run(t, Cmd{Args: []string{"sh", "-c", script}}); r.Status != want {
			t.Errorf("%s: status %d, want %d\n%s", script, r.Status, want, r.Stderr)
		}
	}
	// The background process is there, once it has become a sleep.
	i.WaitSh(t, "test 1 = $(ps -e -o args= | grep -c '^sleep 1000$')")
	r := i.Run(t, Cmd{Args: []string{"sh", "-c", "cat; umask; pwd; env; echo no >&2"}, Stdin: "in ", Env: []string{"A=b"}})
	for _, want := range []string{"in 0022\n/\n", "A=b\n", "HOME=/root\n"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("%q lacks %q", r.Stdout, want)
		}
	}
	if r.Stderr != "no\n" {
		t.Errorf("the standard error is %q", r.Stderr)
	}

	p := i.Start(t, Cmd{Args: []string{"sh", "-c", "echo begun; trap 'echo over; exit 5' TERM; while :; do sleep 0.01; done"}})
	i.WaitFor(t, "the output of a daemon", func() bool { out, _ := p.Output(); return out == "begun\n" })
	p.Signal(syscall.SIGTERM)
	if ended := p.Wait(t); ended.Status != 5 || ended.Stdout != "begun\nover\n" {
		t.Errorf("the daemon ended with %+v", ended)
	}

	i.Sh(t, "logger --tag ec2net 'eth1: up'")
	i.WaitFor(t, "the line in the log", func() bool { return strings.Contains(i.Log(t), "\nec2net: eth1: up\n") })

	// A machine's kernel settings are its own, or read-only.
	r = i.Run(t, Cmd{Args: []string{"sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward && echo $(cat /proc/sys/kernel/panic) > /proc/sys/kernel/panic"}})
	if r.Status == 0 || !strings.Contains(r.Stderr, "kernel/panic: Read-only") {
		t.Errorf("writing settings: %+v", r)
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"lib/udev/rules.d/53.rules": 0o644, "usr/bin/tool": 0o755} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho "+name+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("tool", filepath.Join(dir, "usr/bin/link")); err != nil {
		t.Fatal(err)
	}
	i := NewVPC(t, Plan{}).Boot(t, Setup{Install: dir})
	i.Install(t, dir) // again
	got := i.Sh(t, "link; stat --format '%a %N' /lib /lib/udev/rules.d/53.rules /usr/bin/tool /usr/bin/link /bin")
	want := `usr/bin/tool
777 '/lib' -> 'usr/lib'
644 '/lib/udev/rules.d/53.rules'
755 '/usr/bin/tool'
777 '/usr/bin/link' -> 'tool'
777 '/bin' -> 'usr/bin'
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// seen is a RUN program. The shell has a PATH, even if it was given none.
const seen = `#!/bin/sh
path=$(tr '\0' '\n' < /proc/$$/environ | grep ^PATH= || echo no PATH)
echo "$ACTION $INTERFACE $path $(cat /sys/class/net/$INTERFACE/address)" >> /run/seen
`

// TestUdev: udevd sees an ENI come and go like hardware, with a name and a MAC that
// need no change.
func TestUdev(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := NewVPC(t, Plan{})
			i := v.Boot(t, Setup{Release: release, Files: map[string]string{
				"/etc/udev/rules.d/53-test.rules": `SUBSYSTEM=="net", KERNEL=="eth*", RUN+="/usr/local/bin/seen"` + "\n",
				"/usr/local/bin/seen":             seen,
			}})
			seen := func() string { text, _ := i.ReadFile(t, "/run/seen"); return text }
			begin := "add eth0 no PATH 02:00:0a:00:00:0a\n" // udevadm trigger, when it booted
			if got := seen(); got != begin {
				t.Fatalf("at boot udevd saw %q, want %q", got, begin)
			}
			before := i.State(t)
			e := v.AddENI(t, "10.0.0.20")
			for range 2 {
				i.Sh(t, "rm /run/seen")
				e.Attach(t, "eth1")
				i.WaitFor(t, "add", func() bool { return seen() == "add eth1 no PATH 02:00:0a:00:00:14\n" })
				i.Sh(t, "udevadm trigger --action=add /sys/class/net/eth1; udevadm settle")
				i.WaitFor(t, "the replayed add", func() bool { return strings.Count(seen(), "add eth1") == 2 })
				i.Sh(t, "rm /run/seen")
				e.Detach(t)
				i.WaitFor(t, "remove", func() bool { return seen() == "remove eth1 no PATH \n" })
			}
			if after := i.State(t); after != before {
				t.Errorf("the state was:\n%s\nand is:\n%s", before, after)
			}
		})
	}
}

// TestWithoutEC2net shows what ec2net is for: a second ENI on the primary's subnet,
// configured by hand, does not answer outside.
func TestWithoutEC2net(t *testing.T) {
	t.Parallel()
	v := NewVPC(t, Plan{})
	e := v.AddENI(t, "10.0.0.20")
	i := v.Boot(t, Setup{Files: map[string]string{"/etc/network/interfaces.d/eth1.cfg": eth1Stanza}})
	e.Attach(t, "eth1")
	i.Sh(t, "ifup eth1")
	i.Echo(t, 7)

	asks(t, v.Client, "10.0.0.10:7")
	// The metadata service is behind every ENI.
	for _, name := range []string{"eth0", "eth1"} {
		i.Sh(t, "test 401 = $(curl -sS --max-time 5 --interface "+name+" --output /dev/null --write-out '%{http_code}' http://169.254.169.254/)")
	}
	if c := e.Counters(t); c.Sent < 4 {
		t.Errorf("to the metadata service eth1 sent %d packets", c.Sent)
	}
	if dropped := v.Dropped(t); dropped != "" {
		t.Errorf("dropped before:\n%s", dropped)
	}
	// On an Ethernet both interfaces would answer for either address.
	for range 3 {
		for _, own := range []*ENI{v.Primary, e} {
			if got := v.whoHas(t, own.Addrs()[0]); got != own.MAC {
				t.Errorf("%s is at %s, want %s", own.Addrs()[0], got, own.MAC)
			}
		}
	}
	v.Client.Patience = Silence
	if err := v.Client.TCP("10.0.0.20:7"); err == nil {
		t.Errorf("the client got an answer from eth1's address")
	}
	v.Client.Patience = 0
	// The answers tried to leave by eth0.
	if c := v.Primary.Counters(t); c.ForeignSource == 0 {
		t.Errorf("at eth0's port: %+v", c)
	}
	if c := e.Counters(t); c.Dropped() != 0 {
		t.Errorf("at eth1's port: %+v", c)
	}
	if want := "ENI 10.0.0.10: from 10.0.0.20 to 198.51.100.7, protocol tcp: "; !strings.Contains(v.Dropped(t), want) {
		t.Errorf("dropped:\n%s\nwant a line %q", v.Dropped(t), want)
	}

	// What makes it work, by hand: the test's other half.
	i.Sh(t, "ip route add default via 10.0.0.1 dev eth1 table 1001; ip rule add from 10.0.0.20 lookup 1001")
	v.ResetCounters(t)
	asks(t, v.Client, "10.0.0.20:7")
	if dropped := v.Dropped(t); dropped != "" {
		t.Errorf("dropped with a rule:\n%s", dropped)
	}
	if c := e.Counters(t); c.Sent < 4 {
		t.Errorf("with a rule eth1 sent %d packets", c.Sent)
	}
}

// whoHas returns the MAC that the router is told when it asks for an address.
func (v *VPC) whoHas(t *testing.T, addr string) string {
	t.Helper()
	out, err := v.router.sh(t.Context(), `
		ip neighbour flush dev subnet0
		for n in $(seq 200); do
			curl --silent --max-time 0.2 telnet://`+addr+`:9 || true
			ip neighbour show `+addr+` dev subnet0 | grep -q lladdr && break
		done
		ip neighbour show `+addr+` dev subnet0 | sed 's/.*lladdr \([^ ]*\).*/\1/'`, nil)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestDhcpcd(t *testing.T) {
	t.Parallel()
	v := NewVPC(t, Plan{})
	i := v.Boot(t, Setup{Release: "trixie", Dhcpcd: true, Files: map[string]string{
		"/etc/dhcpcd.conf": "noarp\n", // else it probes an address for five seconds
	}})
	state := i.State(t)
	for _, want := range []string{"\neth0    inet 10.0.0.10/24 ", "\ndhcpcd: eth0 [ip4]"} {
		if !strings.Contains(state, want) {
			t.Errorf("the state lacks %q:\n%s", want, state)
		}
	}
	if strings.Contains(state, "dhclient") {
		t.Errorf("dhclient runs:\n%s", state)
	}
	i.Echo(t, 7)
	asks(t, v.Client, "10.0.0.10:7")
	if dropped := v.Dropped(t); dropped != "" {
		t.Errorf("dropped:\n%s", dropped)
	}
}
