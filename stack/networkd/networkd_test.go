package networkd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/networkd/unit"
)

// machine is a tree of files, and a networkd that takes ec2net's file for eth1 whenever it
// reads its files. It records what runs and what is logged.
type machine struct {
	*Stack
	ran, told []string
	fails     error // of networkctl
	noLease   error
}

func newMachine(t *testing.T, files map[string]string) *machine {
	t.Helper()
	m := &machine{Stack: &Stack{Tree: openTree(t, files)}}
	m.Run = func(_ context.Context, program string, args ...string) error {
		m.ran = append(m.ran, program+" "+strings.Join(args, " "))
		if program == "networkctl" {
			if m.fails != nil {
				return m.fails
			}
			_, err := m.Tree.Write(linkFile, []byte(configured(unit.Path("eth1"))))
			return err
		}
		return nil
	}
	m.Tell = func(_, what string) { m.told = append(m.told, what) }
	m.AwaitAddress = func(context.Context, plan.Link) error { return m.noLease }
	return m
}

// up brings eth1 up, which is up or down already.
func (m *machine) up(t *testing.T, isUp, live bool) {
	t.Helper()
	link := eth1
	link.Up = isUp
	if err := m.Up(t.Context(), link, live); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) write(t *testing.T, file, text string) {
	t.Helper()
	if _, err := m.Tree.Write(file, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// same fails unless these programs have run since its last call.
func (m *machine) same(t *testing.T, what string, want ...string) {
	t.Helper()
	if !slices.Equal(m.ran, want) {
		t.Errorf("%s: ran %q, want %q", what, m.ran, want)
	}
	m.ran = nil
}

const (
	reload  = "networkctl reload"
	setUp   = "ip link set dev eth1 up"
	setDown = "ip link set dev eth1 down"
	flush   = "ip -4 addr flush dev eth1"
)

func (m *machine) prepare(t *testing.T) {
	t.Helper()
	if err := m.Prepare("eth1"); err != nil {
		t.Fatal(err)
	}
}

// networkd reads its files again when ec2net's has changed, and only then: also if ec2net was
// killed after it wrote the file, and not at a boot with the same file.
func TestUp(t *testing.T) {
	file := unit.Path("eth1")
	m := newMachine(t, map[string]string{linkFile: "ADMIN_STATE=unmanaged\n"})
	m.prepare(t)
	m.write(t, file, "[Match]\n")
	m.up(t, false, false)
	m.same(t, "the first time", reload, setUp)
	m.prepare(t)
	m.up(t, true, false)
	m.same(t, "again")

	m.write(t, file, "[Match]\nName=eth1\n")
	m.up(t, true, true)
	m.same(t, "changed while it is live")
	if h, err := m.Health(plan.State{}, eth1); err != nil || !h.Changed {
		t.Errorf("%+v, %v", h, err)
	}
	m.up(t, true, false)
	m.same(t, "changed", reload)

	if err := m.Tree.Remove(copyPath("eth1")); err != nil { // as a boot does
		t.Fatal(err)
	}
	m.prepare(t)
	m.up(t, true, false)
	m.same(t, "after a boot")
	m.write(t, file, "[Match]\n")
	m.prepare(t) // after a boot, ec2net was killed here
	m.up(t, true, false)
	m.same(t, "changed after a boot", reload)

	// Somebody has removed the file, and its state does not tell yet that networkd knows.
	if err := m.Tree.Remove(file); err != nil {
		t.Fatal(err)
	}
	m.prepare(t)
	m.write(t, file, "[Match]\n")
	m.up(t, true, false)
	m.same(t, "removed", reload)
}

// Without D-Bus, networkd would not read what ec2net writes.
func TestPrepareWithoutBus(t *testing.T) {
	m := newMachine(t, nil)
	m.prepare(t)
	if err := m.Tree.Remove(bus); err != nil {
		t.Fatal(err)
	}
	var noBus *NoBusError
	if err := m.Prepare("eth1"); !errors.As(err, &noBus) || noBus.Hint() == "" {
		t.Errorf("%v", err)
	}
}

// An ENI is live, and networkd, which starts again, has not seen it yet.
func TestUpWhileNetworkdStarts(t *testing.T) {
	m := newMachine(t, map[string]string{unit.Path("eth1"): "[Match]\n"})
	later(t, 100*time.Millisecond, func() { _, _ = m.Tree.Write(linkFile, []byte(configured(unit.Path("eth1")))) })
	m.up(t, true, true)
	m.same(t, "live")
}

// networkd does not configure a link again that it has given up, whether its file has changed
// or not.
func TestUpGivenUp(t *testing.T) {
	m := newMachine(t, map[string]string{unit.Path("eth1"): "[Match]\n", copyPath("eth1"): "[Match]\n",
		linkFile: strings.Replace(configured(unit.Path("eth1")), "=configured", "=failed", 1)})
	if h, err := m.Health(plan.State{}, eth1); err != nil || !h.NoClient {
		t.Errorf("%+v, %v", h, err)
	}
	m.up(t, true, true)
	m.same(t, "live")
	m.up(t, false, false)
	m.same(t, "the same file", "networkctl reconfigure eth1", setUp)
}

// later calls a function after a while, and lets the test end only then.
func later(t *testing.T, after time.Duration, what func()) {
	t.Helper()
	done := make(chan struct{})
	time.AfterFunc(after, func() {
		defer close(done)
		what()
	})
	t.Cleanup(func() { <-done })
}

// networkd adds the routes of a lease after its address: Up waits for them too.
func TestUpRoutes(t *testing.T) {
	m := newMachine(t, map[string]string{linkFile: configured(unit.Path("eth1")), unit.Path("eth1"): "[Match]\n"})
	var routes atomic.Bool
	m.AwaitAddress = func(context.Context, plan.Link) error {
		m.write(t, linkFile, strings.Replace(configured(unit.Path("eth1")), "=configured", "=configuring", 1))
		later(t, 50*time.Millisecond, func() {
			routes.Store(true)
			_, _ = m.Tree.Write(linkFile, []byte(configured(unit.Path("eth1"))))
		})
		return nil
	}
	if m.up(t, false, false); !routes.Load() {
		t.Error("did not wait")
	}
}

// After a reload networkd keeps a link's former file for a moment, and the address of that: Up
// asks for the address afterwards.
func TestUpReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, map[string]string{linkFile: configured(generated), unit.Path("eth1"): "[Match]\n"})
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if program == "networkctl" {
				later(t, 30*time.Millisecond, func() { _ = run(ctx, program, args...) })
			}
			return nil
		}
		asked := ""
		m.AwaitAddress = func(context.Context, plan.Link) error {
			now, err := stack.ReadLinkState(m.Tree, eth1.Index)
			asked = now.File
			return err
		}
		if m.up(t, true, false); asked != unit.Path("eth1") {
			t.Errorf("asked for the address of %q", asked)
		}
	})
}

func TestUpFails(t *testing.T) { synctest.Test(t, upFails) }

func upFails(t *testing.T) {
	m := newMachine(t, map[string]string{linkFile: "ADMIN_STATE=unmanaged\n", unit.Path("eth1"): "[Match]\n"})
	m.fails = errors.New("no bus")
	for range 2 { // the second one has not forgotten
		if err := m.Up(t.Context(), eth1, false); !errors.Is(err, m.fails) {
			t.Error(err)
		}
		m.same(t, "no bus", reload)
	}
	m.fails, m.noLease = nil, context.DeadlineExceeded
	if err := m.Up(t.Context(), eth1, false); err == nil || !strings.Contains(err.Error(), "no lease") {
		t.Error(err)
	}
	m.write(t, linkFile, configured("/etc/systemd/network/00-any.network"))
	m.Run = func(context.Context, string, ...string) error { return nil }
	if err := m.Up(t.Context(), eth1, false); err == nil || !strings.Contains(err.Error(), "00-any.network") {
		t.Error(err)
	}
}

// Down leaves the file, unless somebody has removed it: then networkd forgets it.
func TestDown(t *testing.T) {
	m := newMachine(t, map[string]string{linkFile: "ADMIN_STATE=unmanaged\n", unit.Path("eth1"): "[Match]\n"})
	m.up(t, false, false)
	m.ran = nil
	link := eth1
	for _, c := range []struct {
		what    string
		isUp    bool
		removed bool
		want    []string
	}{
		{"up", true, false, []string{setDown, flush}},
		{"down already", false, false, nil},
		{"its file is gone", true, true, []string{setDown, flush, reload}},
		{"and networkd knows", false, true, nil},
	} {
		if link.Up = c.isUp; c.removed {
			if err := m.Tree.Remove(unit.Path("eth1")); err != nil {
				t.Fatal(err)
			}
		}
		ran, err := m.Down(t.Context(), link)
		if err != nil || ran != (len(c.want) > 0) {
			t.Errorf("%s: %t, %v", c.what, ran, err)
		}
		m.same(t, c.what, c.want...)
	}
	if ran, err := m.Down(t.Context(), plan.Link{Name: "eth1"}); err != nil || ran {
		t.Errorf("gone: %t, %v", ran, err)
	}
}

// With EC2NET_TAKE_OVER=no a link goes back to cloud-init, if netplan has a file for it.
func TestGiveBack(t *testing.T) {
	const ours = "# Generated by ec2net from its built-in template.\n[Match]\n"
	for text, want := range map[string][]string{
		"[Match]\nPermanentMACAddress=02:00:00:00:01:ab\nName=eth1\n": {setDown, flush, reload},
		"[Match]\nPermanentMACAddress=02:00:00:00:01:ac\n":            {setDown, flush},
	} {
		m := newMachine(t, map[string]string{linkFile: "ADMIN_STATE=unmanaged\n", unit.Path("eth1"): ours, generated: text})
		m.up(t, true, false)
		m.ran, m.LeaveCloudInit = nil, true
		link := eth1
		link.Up = true
		if _, err := m.Down(t.Context(), link); err != nil {
			t.Fatal(err)
		}
		m.same(t, text, want...)
		if left, err := m.Tree.Read(unit.Path("eth1")); err != nil || (left == nil) != (len(want) == 3) {
			t.Errorf("%q: %q, %v", text, left, err)
		}
	}
}

// networkd has a lease, and somebody has deleted its address.
func TestHealth(t *testing.T) {
	const lease = "/run/systemd/netif/leases/7"
	m := newMachine(t, nil)
	has := plan.State{Addrs: []plan.Addr{{Link: 7, Prefix: netip.MustParsePrefix("10.0.1.20/24")}}}
	for text, want := range map[string]stack.Health{
		"": {}, "# this is private\nADDRESS=10.0.1.20\n": {}, "ADDRESS=10.0.1.21\n": {NoClient: true}, "ADDRESS=x\n": {},
	} {
		m.write(t, lease, text)
		if got, err := m.Health(has, eth1); got != want || err != nil {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	// Somebody has removed ec2net's file, and networkd has started again.
	m = newMachine(t, map[string]string{linkFile: "ADMIN_STATE=unmanaged\n"})
	if got, err := m.Health(has, eth1); !got.NoClient || err != nil {
		t.Errorf("without a file: %+v, %v", got, err)
	}
	m.write(t, unit.Path("eth1")+".d/x.conf", "[Link]\nUnmanaged=yes\n")
	if got, err := m.Health(has, eth1); got.NoClient || err != nil {
		t.Errorf("told to leave it alone: %+v, %v", got, err)
	}
}

// An administrator has written a netplan for a link that ec2net configures: the file behind
// ec2net's counts, cloud-init's does not. ec2net steps aside.
func TestHiddenOwner(t *testing.T) {
	const ours = "# Generated by ec2net from its built-in template.\n[Match]\n"
	behind := "[Match]\nMACAddress=" + eth1.MAC.String() + "\nName=eth1\n"
	for yaml, mine := range map[string]bool{
		"/etc/netplan/60-mine.yaml": true,
		cloudInitYAML:               false,
	} {
		m := newMachine(t, map[string]string{linkFile: configured(unit.Path("eth1")), unit.Path("eth1"): ours, generated: behind,
			yaml: cloudInit("eth1")})
		o, err := m.Owner(t.Context(), eth1, true)
		if err != nil || o.Nobody() == mine {
			t.Errorf("%s: %+v, %v", yaml, o, err)
		}
	}
	m := newMachine(t, map[string]string{unit.Path("eth1"): ours})
	if err := m.StepAside(t.Context(), eth1); err != nil {
		t.Fatal(err)
	}
	m.same(t, "nobody is behind it")
	m.write(t, generated, behind)
	for range 2 {
		if err := m.StepAside(t.Context(), eth1); err != nil {
			t.Fatal(err)
		}
	}
	m.same(t, "step aside", reload)
	if left, err := m.Tree.Read(unit.Path("eth1")); err != nil || left != nil {
		t.Errorf("%q, %v", left, err)
	}
}
