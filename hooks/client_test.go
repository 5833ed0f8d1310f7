package hooks

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ec2net/plan"
)

// The DHCP client of an ENI was killed. When the kernel has removed the address, whose lease
// nobody renewed, watch asks udev to add the ENI again. While the client lives, watch does
// not: the client knows why the address is gone.
func TestClientKilled(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		eth1, _, err := w.linkOf("eth1")
		check(t, err)
		before := w.picture(t)
		lose := func() {
			w.seen.take()
			check(t, w.kernel.Apply(plan.DelAddr{Link: eth1, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
			w.after(10 * time.Second)
		}
		w.put(t, "/run/dhclient.eth1.pid", "77\n")
		w.put(t, "/proc/77/comm", "dhclient\n")
		w.put(t, "/proc/77/cmdline", "dhclient\x00eth1\x00")
		lose()
		same(t, "asked while the client lives", w.seen.take(), nil)
		check(t, w.Tree.Remove("/proc/77/comm"))
		check(t, w.give("eth1", "10.0.1.20/24"))
		w.after(10 * time.Second)
		same(t, "asked while the address is there", w.seen.take(), nil)

		lose()
		if asked := w.seen.take(); !slices.Contains(asked, "add eth1") {
			t.Errorf("asked for %q", asked)
		}
		check(t, w.Add(t.Context(), "eth1"))
		w.after(time.Second)
		same(t, "brought up again", w.picture(t), before)
		w.after(time.Hour)
		same(t, "asked afterwards", w.seen.take(), nil)
	})
}

// ifup and the DHCP client were killed before there was a lease: watch asks udev to add the
// ENI again, as if it had lost one.
func TestClientKilledBeforeLease(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		eth1, _, err := w.linkOf("eth1")
		check(t, err)
		before := w.picture(t)
		check(t, w.Tree.Remove(leasePath("eth1")))
		check(t, w.kernel.Apply(plan.DelAddr{Link: eth1, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
		w.seen.take()
		w.after(10 * time.Second)
		if asked := w.seen.take(); !slices.Contains(asked, "add eth1") {
			t.Errorf("asked for %q", asked)
		}
		check(t, w.Add(t.Context(), "eth1"))
		w.after(time.Hour)
		same(t, "asked afterwards", w.seen.take(), nil)
		same(t, "brought up again", w.picture(t), before)
	})
}

// "systemctl stop networking" takes an ENI down, and somebody sets its link up: nobody asks
// for a lease any more, until watch or a scan has the ENI brought up.
func TestClientGoneLinkUp(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		before := w.picture(t)
		check(t, w.run(t.Context(), "ifdown", "eth1"))
		w.after(time.Hour)
		w.seen.take()
		check(t, w.links.set("eth1", true))
		w.after(10 * time.Second)
		if asked := w.seen.take(); !slices.Contains(asked, "add eth1") {
			t.Errorf("asked for %q", asked)
		}
		check(t, w.Add(t.Context(), "eth1"))
		w.after(time.Hour)
		same(t, "asked afterwards", w.seen.take(), nil)
		same(t, "brought up again", w.picture(t), before)
	})
}
