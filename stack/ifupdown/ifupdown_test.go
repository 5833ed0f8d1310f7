package ifupdown

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	copy1   = "/run/ec2net/eth1.cfg"
	ifstate = "/run/network/ifstate"
	byCopy  = "ifdown --force -i /run/ec2net/eth1.cfg eth1"
)

// withPrograms gives a machine an ifup and an ifdown that keep ifupdown's state.
// Both record their runs in ran; fails has errors by program.
func withPrograms(t *testing.T, m *machine) (ran *[]string, fails map[string]error) {
	ran, fails = new([]string), make(map[string]error)
	m.Run = func(_ context.Context, program string, args ...string) error {
		*ran = append(*ran, program+" "+strings.Join(args, " "))
		if err := fails[program]; err != nil {
			return err
		}
		state := map[string]string{"ifup": "lo=lo\neth1=eth1\n", "ifdown": "lo=lo\n"}
		m.put(t, ifstate, state[program])
		return nil
	}
	return ran, fails
}

// same fails unless these programs have run since its last call.
func same(t *testing.T, what string, ran *[]string, want ...string) {
	t.Helper()
	if !slices.Equal(*ran, want) {
		t.Errorf("%s: ran %q, want %q", what, *ran, want)
	}
	*ran = nil
}

func (m *machine) text(t *testing.T, file string) string {
	t.Helper()
	text, err := m.Tree.Read(file)
	check(t, err)
	return string(text)
}

func (m *machine) down(t *testing.T, wantRan bool) {
	t.Helper()
	ran, err := m.Down(t.Context(), eth1)
	if err != nil || ran != wantRan {
		t.Errorf("down: %t, %v", ran, err)
	}
}

func (m *machine) changed(t *testing.T, want bool) {
	t.Helper()
	if got, err := m.Stack.changed("eth1"); got != want || err != nil {
		t.Errorf("changed: %t, %v", got, err)
	}
}

// Up brings an interface up, and Down takes it down by the same stanza, whatever
// the file has become.
func TestUpAndDown(t *testing.T) {
	m := newMachine(t)
	ran, _ := withPrograms(t, m)
	for what, become := range map[string]func(){
		"the same": func() { m.changed(t, false) },
		"another":  func() { m.put(t, cfg1, "iface eth1 inet manual\n"); m.changed(t, true) },
		"gone":     func() { check(t, m.Tree.Remove(cfg1)); m.changed(t, false) },
		"a folder": func() {
			check(t, m.Tree.Remove(cfg1))
			check(t, m.Tree.MakeDir(cfg1))
			if _, err := m.Stack.changed("eth1"); err == nil {
				t.Error("knows whether a folder is another stanza")
			}
		},
	} {
		m.put(t, cfg1, "iface eth1 inet dhcp\n")
		m.changed(t, false)
		check(t, m.Up(t.Context(), eth1, false))
		same(t, what, ran, "ifup eth1")
		become()
		if got := m.text(t, copy1); got != "iface eth1 inet dhcp\n" {
			t.Errorf("%s: the copy is %q", what, got)
		}
		m.down(t, true)
		same(t, what, ran, byCopy)
		if m.text(t, copy1) != "" {
			t.Errorf("%s: the copy is still there", what)
		}
		check(t, os.RemoveAll(path.Join(m.dir, cfg1)))
		m.down(t, false)
		same(t, what+", again", ran)
	}
}

// An interface that is up keeps the stanza that it was brought up by.
func TestUpAgain(t *testing.T) {
	m := newMachine(t)
	ran, _ := withPrograms(t, m)
	m.put(t, cfg1, "iface eth1 inet dhcp\n")
	check(t, m.Up(t.Context(), eth1, false))
	m.put(t, cfg1, "iface eth1 inet manual\n")
	check(t, m.Up(t.Context(), eth1, true))
	same(t, "again", ran, "ifup eth1", "ifup eth1")
	m.changed(t, true)
	m.down(t, true)
	check(t, m.Up(t.Context(), eth1, false))
	m.changed(t, false)
	if got := m.text(t, copy1); got != "iface eth1 inet manual\n" {
		t.Errorf("the copy is %q", got)
	}
}

// A person has run ifup by another stanza, that of the ENI that had the name before.
func TestUpByAnother(t *testing.T) {
	m := newMachine(t)
	ran, _ := withPrograms(t, m)
	m.put(t, "/etc/network/interfaces", "source /etc/network/interfaces.d/*\n")
	for _, c := range []struct {
		what, now string
		want      []string
	}{
		{"another stanza", "iface eth1 inet manual\n", []string{byCopy, "ifup eth1"}},
		{"the same", "iface eth1 inet dhcp\n", []string{"ifup eth1"}},
	} {
		m.put(t, cfg1, "iface eth1 inet dhcp\n")
		check(t, m.Run(t.Context(), "ifup", "eth1"))
		*ran = nil
		check(t, m.Prepare("eth1"))
		m.put(t, cfg1, c.now)
		check(t, m.Up(t.Context(), eth1, false))
		same(t, c.what, ran, c.want...)
		m.down(t, true)
	}
}

// A failed ifup leaves a DHCP client, which only ifdown --force ends: by the stanza
// that ifup had.
func TestUpFails(t *testing.T) {
	m := newMachine(t)
	ran, fails := withPrograms(t, m)
	m.put(t, cfg1, "iface eth1 inet dhcp\n")
	fails["ifup"] = errors.New("exit status 1: post-up")
	if err := m.Up(t.Context(), eth1, false); err == nil || err.Error() != "ifup eth1: exit status 1: post-up" {
		t.Errorf("%v", err)
	}
	check(t, m.Tree.Remove(cfg1))
	fails["ifdown"] = errors.New("exit status 1")
	if again, err := m.Down(t.Context(), eth1); err == nil || err.Error() != byCopy+": exit status 1" || !again {
		t.Errorf("%t, %v", again, err)
	}
	delete(fails, "ifdown")
	m.down(t, true)
	same(t, "failed", ran, "ifup eth1", byCopy, byCopy)
	m.down(t, false)
}

// An interface that an older ec2net or a person brought up has no copy: ifdown uses
// the file.
func TestDownWithoutCopy(t *testing.T) {
	m := newMachine(t)
	ran, fails := withPrograms(t, m)
	m.put(t, cfg1, "iface eth1 inet dhcp\n")
	m.put(t, ifstate, "eth1=eth1\n")
	check(t, m.Up(t.Context(), eth1, false))
	same(t, "up", ran, "ifup eth1")
	m.changed(t, false)
	fails["ifdown"] = errors.New("exit status 1")
	if again, err := m.Down(t.Context(), eth1); err == nil || !again {
		t.Errorf("%t, %v", again, err)
	}
	delete(fails, "ifdown")
	m.down(t, true)
	same(t, "down", ran, "ifdown --force eth1", "ifdown --force eth1")
}

// Without a stanza ifup fails; the copy of an earlier one does not replace it.
func TestUpWithoutCfg(t *testing.T) {
	m := newMachine(t)
	ran, fails := withPrograms(t, m)
	m.put(t, copy1, "iface eth1 inet dhcp\n")
	fails["ifup"] = errors.New("unknown interface")
	if err := m.Up(t.Context(), eth1, false); err == nil || m.text(t, copy1) != "" {
		t.Errorf("%v, %q", err, m.text(t, copy1))
	}
	same(t, "up", ran, "ifup eth1")
}

// If the stanza cannot be read, no program runs.
func TestUnreadable(t *testing.T) {
	for _, file := range []string{cfg1, copy1, ifstate} {
		m := newMachine(t)
		ran, _ := withPrograms(t, m)
		if file != cfg1 {
			m.put(t, cfg1, "iface eth1 inet dhcp\n")
		}
		check(t, m.Tree.MakeDir(file))
		if err := m.Up(t.Context(), eth1, false); err == nil {
			t.Errorf("%s is a folder: up", file)
		}
		same(t, file, ran)
		if file == ifstate {
			continue // Down does not look at it
		}
		if again, err := m.Down(t.Context(), eth1); err == nil || again {
			t.Errorf("%s is a folder: down: %t, %v", file, again, err)
		}
		same(t, file, ran)
	}
}

func TestCountedUp(t *testing.T) {
	m := newMachine(t)
	for text, want := range map[string]bool{
		"": false, "lo=lo\neth1=eth1\n": true, "eth1=lan": true, "eth10=eth10\n": false, "lan=eth1\n": false, "eth1": false,
	} {
		m.put(t, ifstate, text)
		if got, err := m.countedUp("eth1"); got != want || err != nil {
			t.Errorf("%q: %t, %v", text, got, err)
		}
	}
	check(t, m.Tree.Remove(ifstate))
	if got, err := m.countedUp("eth1"); got || err != nil {
		t.Errorf("no file: %t, %v", got, err)
	}
	check(t, m.Tree.MakeDir(ifstate))
	if _, err := m.countedUp("eth1"); err == nil {
		t.Error("a folder is no answer")
	}
}

func TestClientAlive(t *testing.T) {
	const dhcp = "iface eth1 inet dhcp\n"
	dhclient := map[string]string{"comm": "dhclient\n", "cmdline": "dhclient\x00-4\x00-pf\x00/run/dhclient.eth1.pid\x00eth1\x00-e\x00IF_METRIC=1001\x00"}
	dhcpcd := map[string]string{"comm": "dhcpcd\n", "cmdline": "dhcpcd: eth1 [ip4] [ip6]\x00"}
	for _, c := range []struct {
		name    string
		cfg     string
		copy    string
		pidFile string
		pid     string
		process map[string]string // /proc/70
		want    bool
	}{
		{name: "no stanza", want: true},
		{name: "a static address", cfg: "iface eth1 inet static\n", want: true},
		{name: "a DHCPv6 client alone, which ec2net does not ask for", cfg: "iface eth1 inet6 dhcp\n", want: true},
		{name: "none", cfg: dhcp},
		{name: "dhclient", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "70\n", process: dhclient, want: true},
		{name: "dhclient by the copy", cfg: "iface eth1 inet static\n", copy: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "70\n", process: dhclient, want: true},
		{name: "none by the copy", cfg: "iface eth1 inet static\n", copy: dhcp},
		{name: "static by the copy", cfg: dhcp, copy: "iface eth1 inet static\n", want: true},
		{name: "dhcpcd", cfg: dhcp, pidFile: "/run/dhcpcd/eth1.pid", pid: "70\n", process: dhcpcd, want: true},
		{name: "dhcpcd for IPv4 alone", cfg: dhcp, pidFile: "/run/dhcpcd/eth1-4.pid", pid: "70\n", process: dhcpcd, want: true},
		{name: "dhcpcd for all", cfg: dhcp, pidFile: "/run/dhcpcd/pid", pid: "70\n", want: true,
			process: map[string]string{"comm": "dhcpcd\n", "cmdline": "dhcpcd: [manager] [ip4] [ip6]\x00"}},
		{name: "udhcpc", cfg: dhcp, pidFile: "/run/udhcpc.eth1.pid", pid: "70", want: true,
			process: map[string]string{"comm": "udhcpc\n", "cmdline": "udhcpc\x00-n\x00-i\x00eth1\x00"}},
		{name: "gone", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "71\n", process: dhclient},
		{name: "another program has the number", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "70\n", process: dhcpcd},
		{name: "another interface's client has the number", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "70\n",
			process: map[string]string{"comm": "dhclient\n", "cmdline": "dhclient\x00eth10\x00"}},
		{name: "a zombie", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "70\n", process: map[string]string{"comm": "dhclient\n", "cmdline": ""}},
		{name: "a zombie that was for all", cfg: dhcp, pidFile: "/run/dhcpcd/pid", pid: "70\n", process: map[string]string{"comm": "dhcpcd\n", "cmdline": ""}},
		{name: "another interface's", cfg: dhcp, pidFile: "/run/dhclient.eth2.pid", pid: "70\n", process: dhclient},
		{name: "no number yet", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "", process: dhclient},
		{name: "no number", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "../70", process: dhclient},
		{name: "a group of processes", cfg: dhcp, pidFile: "/run/dhclient.eth1.pid", pid: "-70", process: dhclient},
	} {
		m := newMachine(t)
		for file, text := range c.process {
			m.put(t, "/proc/70/"+file, text)
		}
		for file, text := range map[string]string{cfg1: c.cfg, copy1: c.copy, c.pidFile: c.pid} {
			if file != "" && (text != "" || file == c.pidFile) {
				m.put(t, file, text)
			}
		}
		if got, err := m.clientAlive("eth1"); got != c.want || err != nil {
			t.Errorf("%s: %t, %v", c.name, got, err)
		}
	}
	for _, file := range []string{"/run/dhclient.eth1.pid", "/proc/70/comm", "/proc/70/cmdline"} {
		m := newMachine(t)
		m.put(t, cfg1, dhcp)
		if file != "/run/dhclient.eth1.pid" {
			m.put(t, "/run/dhclient.eth1.pid", "70\n")
		}
		if path.Base(file) == "cmdline" {
			m.put(t, "/proc/70/comm", "dhclient\n")
		}
		check(t, m.Tree.MakeDir(file))
		if alive, err := m.clientAlive("eth1"); err == nil {
			t.Errorf("%s cannot be read: %t", file, alive)
		}
	}
}

// The limit of ifup is longer than dhclient waits for a lease.
func TestLimit(t *testing.T) {
	for conf, want := range map[string]time.Duration{
		"":                          100 * time.Second,
		"#timeout 60;\nretry 60;\n": 100 * time.Second,
		"request subnet-mask;\ntimeout 300; # Ubuntu\n": 340 * time.Second,
		"retry 60; timeout 120; select-timeout 5;":      160 * time.Second,
		"timeout 10;":                      100 * time.Second,
		"timeout 86400;":                   340 * time.Second,
		"timeout 99999999999999999999999;": 340 * time.Second,
		"timeout soon;":                    100 * time.Second,
	} {
		m := newMachine(t)
		m.put(t, "/etc/dhcp/dhclient.conf", conf)
		if got := m.limit(); got != want {
			t.Errorf("%q: %v, want %v", conf, got, want)
		}
	}
	if got := newMachine(t).limit(); got != 100*time.Second {
		t.Errorf("without a file: %v", got)
	}
}
