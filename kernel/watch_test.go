package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
)

// Each kind of change makes a token.
func TestWatch(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	rule := iprule.Rule{Priority: 1001, Table: 1001, SuppressPrefixLength: -1, SuppressGroup: -1}
	route := plan.Route{Table: 1001, Link: l.Index, Dst: netip.MustParsePrefix("10.7.0.0/16"), Scope: unix.RT_SCOPE_LINK}
	for _, c := range []plan.Change{
		plan.SetGroup{Link: l, Group: 1000},
		plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")},
		plan.AddRoute{Link: l, Route: route},
		plan.AddRule{Rule: rule},
	} {
		w, err := k.Watch(t.Context())
		check(t, err)
		check(t, k.Apply(c))
		if _, ok := <-w.C; !ok {
			t.Fatalf("%v: %v", c, w.Err())
		}
	}
	for _, name := range []string{"eth1", "all"} { // by sysctl
		w, err := k.Watch(t.Context())
		check(t, err)
		setFilter(t, name, "1")
		if _, ok := <-w.C; !ok {
			t.Fatalf("rp_filter of %s: %v", name, w.Err())
		}
	}
	for _, name := range []string{"eth1", "all"} { // whoever switches IPv6 on
		check(t, k.Apply(plan.DisableIPv6{Link: l}))
		w, err := k.Watch(t.Context())
		check(t, err)
		check(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0))
		if _, ok := <-w.C; !ok {
			t.Fatalf("disable_ipv6 of %s: %v", name, w.Err())
		}
	}
}

// A lease shows as an address with a lifetime, each renewal as the same address again.
func TestWatchLeases(t *testing.T) {
	k := inNetns(t)
	addVeth(t, "eth1", mac1)
	w, err := k.Watch(t.Context())
	check(t, err)
	handle, err := netlink.NewHandle()
	check(t, err)
	t.Cleanup(handle.Close)
	link, err := handle.LinkByName("eth1")
	check(t, err)
	addr, err := netlink.ParseAddr("10.0.1.21/32")
	check(t, err)
	check(t, handle.AddrAdd(link, addr))
	<-w.C
	select {
	case <-w.Leases:
		t.Error("an address without a lifetime is a lease")
	default:
	}
	addr, err = netlink.ParseAddr("10.0.1.20/24")
	check(t, err)
	addr.ValidLft, addr.PreferedLft = 3600, 3600
	for range 2 {
		check(t, handle.AddrReplace(link, addr))
		<-w.Leases
	}
	check(t, handle.AddrDel(link, addr))
}

// A watch that ends with its context has not failed; one whose socket fails has.
func TestWatchEnds(t *testing.T) {
	k := inNetns(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := k.Watch(ctx)
	check(t, err)
	cancel()
	for range w.C {
	}
	check(t, w.Err())

	f, err := listen(watched)
	check(t, err)
	w = watch(t.Context(), f)
	check(t, f.Close())
	for range w.C {
	}
	if !errors.Is(w.Err(), os.ErrClosed) {
		t.Error(w.Err())
	}
}

// If the kernel drops events because nobody reads them in time, the watch goes on. It is
// silent once nothing changes any more.
func TestWatchLosesChanges(t *testing.T) {
	k := inNetns(t)
	// Otherwise the kernel looks for duplicates of an IPv6 address for a second or two.
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	f, err := listen(watched)
	check(t, err)
	s := &listener{file: f}
	s.control(t, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	for i := range 60 {
		addVeth(t, fmt.Sprintf("eth%d", i), facts.MAC{2, 0, 0, 0, 3, byte(i)})
	}
	if _, lost := s.queue(t); lost == 0 {
		t.Fatal("the kernel dropped no event")
	}
	rule := iprule.Rule{Priority: 7, Table: 7, SuppressPrefixLength: -1, SuppressGroup: -1}
	w := watch(t.Context(), f)
	for range 10 {
		if _, ok := <-w.C; !ok { // the first token is for the dropped events
			t.Fatal(w.Err())
		}
		for range 100 {
			check(t, k.Apply(plan.AddRule{Rule: rule}))
			check(t, k.Apply(plan.DelRule{Rule: plan.Rule{Rule: rule}}))
		}
	}
	for queued := 1; queued > 0; queued, _ = s.queue(t) {
		_, err := k.Links()
		check(t, err)
	}
	// The last events may still make one more token.
	looks, tokens := 200, 0
	for range looks {
		if len(w.C) > 0 {
			<-w.C
			tokens++
		}
		_, err := k.Look(nil)
		check(t, err)
	}
	if tokens > 2 {
		t.Errorf("%d tokens while nothing changed", tokens)
	}
	check(t, k.Apply(plan.AddRule{Rule: rule}))
	if _, ok := <-w.C; !ok {
		t.Fatal(w.Err())
	}
}

// listener looks at a subscribed socket from the outside.
type listener struct {
	file *os.File
	port uint32
}

func (s *listener) control(t *testing.T, f func(fd int) error) {
	t.Helper()
	conn, err := s.file.SyscallConn()
	check(t, err)
	var failed error
	check(t, conn.Control(func(fd uintptr) {
		own, err := unix.Getsockname(int(fd))
		if err != nil {
			failed = err
			return
		}
		s.port = own.(*unix.SockaddrNetlink).Pid
		failed = f(int(fd))
	}))
	check(t, failed)
}

// queue returns how many bytes wait in the socket, and how many events it had no room
// for.
func (s *listener) queue(t *testing.T) (bytes, lost int) {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	check(t, err)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 9 || f[1] != "0" || f[2] != fmt.Sprint(s.port) {
			continue
		}
		_, err := fmt.Sscan(f[4]+" "+f[8], &bytes, &lost)
		check(t, err)
		return bytes, lost
	}
	t.Fatalf("no socket %d in\n%s", s.port, table)
	return 0, 0
}
