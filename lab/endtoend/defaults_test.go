package endtoend

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/lab"
)

// defaultRoute is a default route of main.
type defaultRoute struct {
	link, metric, protocol int
	gateway                string
}

// defaults follows main's default routes by the kernel's events, none of which it
// misses: it knows every moment at which the primary's was not the first.
type defaults struct {
	socket  *nl.NetlinkSocket
	handle  *netlink.Handle
	primary int // the index of eth0

	mu     sync.Mutex
	routes []defaultRoute // in the order in which the kernel looks
	events []string       // all that concerned a default route
	wrong  []string       // those after which the primary's was not the first
	marks  int            // that mark has been seen
	err    error
}

// markTable has what mark adds and deletes, and nobody looks at.
const markTable = 999999

// watchDefaults begins to watch.
func watchDefaults(t *testing.T, i *lab.Instance) *defaults {
	t.Helper()
	d := new(defaults)
	ended := make(chan struct{})
	err := i.Do(func() (err error) {
		// One socket for both groups: their events come in the order in which they
		// happened.
		if d.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE); err != nil {
			return err
		}
		if err = d.socket.SetReceiveBufferSize(8<<20, true); err != nil {
			return err
		}
		if d.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		eth0, err := d.handle.LinkByName("eth0")
		if err != nil {
			return err
		}
		d.primary = eth0.Attrs().Index
		d.routes, err = d.now()
		return err
	})
	if err != nil {
		t.Fatalf("cannot watch main: %v", err)
	}
	t.Cleanup(func() {
		d.socket.Close()
		<-ended
		d.handle.Close()
	})
	d.judge("at first")
	go func() {
		defer close(ended)
		d.follow()
	}()
	return d
}

// now are main's default routes as the kernel lists them, but for those of a TOS.
func (d *defaults) now() ([]defaultRoute, error) {
	all, err := d.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	var routes []defaultRoute
	for _, r := range all {
		if length, _ := r.Dst.Mask.Size(); length == 0 && r.Tos == 0 {
			routes = append(routes, defaultRoute{r.LinkIndex, r.Priority, int(r.Protocol), r.Gw.String()})
		}
	}
	return routes, err
}

func (d *defaults) follow() {
	for {
		messages, _, err := d.socket.Receive()
		d.mu.Lock()
		if err != nil {
			d.err = err
			d.mu.Unlock()
			return
		}
		for _, m := range messages {
			d.take(m)
		}
		d.mu.Unlock()
	}
}

func (d *defaults) take(m syscall.NetlinkMessage) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l := nl.DeserializeIfInfomsg(m.Data)
		if m.Header.Type == unix.RTM_DELLINK || l.Flags&unix.IFF_UP == 0 {
			// The kernel has dropped its routes, and tells nobody.
			d.drop(func(r defaultRoute) bool { return r.link == int(l.Index) })
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		msg := nl.DeserializeRtMsg(m.Data)
		attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
		if err != nil {
			d.err = err
			return
		}
		r, table := defaultRoute{protocol: int(msg.Protocol)}, int(msg.Table)
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.RTA_TABLE:
				table = int(nl.NativeEndian().Uint32(a.Value))
			case unix.RTA_OIF:
				r.link = int(nl.NativeEndian().Uint32(a.Value))
			case unix.RTA_PRIORITY:
				r.metric = int(nl.NativeEndian().Uint32(a.Value))
			case unix.RTA_GATEWAY:
				r.gateway = net.IP(a.Value).String()
			}
		}
		if table == markTable {
			d.marks++
		}
		if table != unix.RT_TABLE_MAIN || msg.Dst_len != 0 || msg.Tos != 0 {
			return
		}
		if m.Header.Type == unix.RTM_DELROUTE {
			d.drop(func(old defaultRoute) bool { return old == r })
		} else {
			d.add(r, int(m.Header.Flags))
		}
		what := fmt.Sprintf("%+v added (flags %#x)", r, m.Header.Flags)
		if m.Header.Type == unix.RTM_DELROUTE {
			what = fmt.Sprintf("%+v deleted", r)
		}
		d.events = append(d.events, what)
		d.judge(what)
	}
}

func (d *defaults) drop(which func(defaultRoute) bool) { d.routes = slices.DeleteFunc(d.routes, which) }

// add puts a route where the kernel puts it: before those of its metric, or, by
// NLM_F_APPEND, behind them, or, by NLM_F_REPLACE, in the place of their first.
func (d *defaults) add(r defaultRoute, flags int) {
	if flags&unix.NLM_F_REPLACE != 0 {
		if n := slices.IndexFunc(d.routes, func(o defaultRoute) bool { return o.metric == r.metric }); n >= 0 {
			d.routes[n] = r
			return
		}
	}
	at := slices.IndexFunc(d.routes, func(o defaultRoute) bool {
		return o.metric > r.metric || (o.metric == r.metric && flags&unix.NLM_F_APPEND == 0)
	})
	if at < 0 {
		at = len(d.routes)
	}
	d.routes = slices.Insert(d.routes, at, r)
}

func (d *defaults) judge(what string) {
	if len(d.routes) == 0 || d.routes[0].link != d.primary {
		d.wrong = append(d.wrong, fmt.Sprintf("%s: main has %+v", what, d.routes))
	}
}

// upToNow returns what has happened to the default routes since the watch began,
// when all of it has been seen.
func (d *defaults) upToNow(t *testing.T, i *lab.Instance) []string {
	t.Helper()
	marks := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.err != nil {
			t.Fatalf("the watch of main has ended: %v", d.err)
		}
		return d.marks
	}
	before := marks()
	i.Sh(t, fmt.Sprintf("ip route add blackhole 192.0.2.0/24 table %d && ip route flush table %[1]d", markTable))
	i.WaitFor(t, "the events of main's routes", func() bool { return marks() == before+2 })
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events)
}

// check wants the primary's to have been the first at every moment.
func (d *defaults) check(t *testing.T, i *lab.Instance) {
	t.Helper()
	events := d.upToNow(t, i)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.wrong) > 0 {
		t.Errorf("the primary (%d) was not first at %d moments:\n%s\nof\n%s", d.primary, len(d.wrong), strings.Join(d.wrong, "\n"), strings.Join(events, "\n"))
	}
	// What was followed is what there is, so that nothing was overlooked.
	now, err := d.now()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(now, d.routes) {
		t.Errorf("main has\n%+v\nby its events\n%+v", now, d.routes)
	}
}

// told is a hook that writes down of which interface dhcpcd's hooks are through
// with a lease. Without noarp dhcpcd would probe an address for five seconds.
const told = `
echo noarp >>/etc/dhcpcd.conf
echo 'echo "$interface $reason" >>/run/told' >/etc/dhcpcd.exit-hook
`

// renewed renews leases by dhcpcd, at once, and waits until its hooks are through.
func renewed(t *testing.T, i *lab.Instance, names ...string) {
	t.Helper()
	const count = `told() { grep -Ec "^$1 (BOUND|RENEW|REBIND)$" /run/told; }
`
	script := count
	var wait []string
	for _, name := range names {
		script += fmt.Sprintf("told %s >/run/told.%[1]s || :; dhcpcd -n %[1]s >/dev/null 2>&1\n", name)
		wait = append(wait, fmt.Sprintf(`test "$(told %s)" -gt "$(cat /run/told.%[1]s)"`, name))
	}
	i.Sh(t, script)
	i.WaitSh(t, count+strings.Join(wait, " && "))
}

// ethN of which the number is the primary's index has the metric that dhcpcd gives
// the primary, 1000 and its index. Whatever client and order: main's default route
// is the primary's, at every moment.
func TestPrimaryStaysFirst(t *testing.T) {
	t.Parallel()
	for _, primary := range []struct {
		name, prepare string
		renews        bool
	}{
		{"dhcpcd", "", true},
		{"static", `sed -i 's|^iface eth0 .*|iface eth0 inet static\n    address 10.0.0.10/24\n    gateway 10.0.0.1\n    metric 1002|' /etc/network/interfaces`, false},
	} {
		t.Run(primary.name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			a, b := v.AddENI(t, "10.0.0.20", "10.0.0.21"), v.AddENI(t, "10.0.1.30")
			i := boot(t, v, lab.Setup{Release: "trixie", Dhcpcd: true, Prepare: told + primary.prepare})
			if index := strings.TrimSpace(i.Sh(t, "cat /sys/class/net/eth0/ifindex")); index != "2" {
				t.Fatalf("eth0 has the index %s", index)
			}
			if first := i.Sh(t, "ip route show default"); !strings.Contains(first, "metric 1002") {
				t.Fatalf("main begins with %s", first)
			}
			watch := watchDefaults(t, i)

			// One ENI: a renewal changes nothing.
			a.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			renewed(t, i, "eth1")
			before := watch.upToNow(t, i)
			for range 2 {
				renewed(t, i, "eth1")
				if primary.renews {
					renewed(t, i, "eth0")
				}
			}
			if now := watch.upToNow(t, i); len(now) != len(before) {
				t.Errorf("renewals changed main:\n%s", strings.Join(now[len(before):], "\n"))
			}
			a.Detach(t)
			waitDown(t, i, "eth1")

			// Two, attached and renewed in every order: there is nothing to change
			// either.
			for _, names := range [][]string{{"eth1", "eth2"}, {"eth2", "eth1"}} {
				for n, e := range []*lab.ENI{a, b} {
					e.Attach(t, names[n])
					waitUp(t, i, names[n])
				}
				orders := [][]string{names, {names[1], names[0]}}
				if primary.renews {
					orders = nil
					for _, o := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
						three := []string{"eth0", "eth1", "eth2"}
						orders = append(orders, []string{three[o[0]], three[o[1]], three[o[2]]})
					}
				}
				before := watch.upToNow(t, i)
				for _, order := range orders {
					for _, name := range order {
						renewed(t, i, name)
					}
				}
				renewed(t, i, orders[0]...)
				if now := watch.upToNow(t, i); len(now) != len(before) {
					t.Errorf("renewals changed main:\n%s", strings.Join(now[len(before):], "\n"))
				}
				answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.1.30")
				for n, e := range []*lab.ENI{a, b} {
					e.Detach(t)
					waitDown(t, i, names[n])
				}
			}
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10")
			watch.check(t, i)
		})
	}
}

// The primary goes down and up while an ENI of its subnet is up, whose routes have the metric
// that dhcpcd gives the primary's. They make room for them: main has both routes of the primary
// again, and its default route is the first.
func TestPrimaryComesBack(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth2 := v.AddENI(t, "10.0.0.20")
	i := boot(t, v, lab.Setup{Release: "trixie", Dhcpcd: true, Prepare: told})
	eth2.Attach(t, "eth2")
	waitUp(t, i, "eth2")
	if own := i.Sh(t, "ip route show 10.0.0.0/24 dev eth0"); !strings.Contains(own, "metric 1002") {
		t.Fatalf("the primary's route is %q", own)
	}
	for _, c := range []struct{ down, up string }{
		{"ifdown eth0", "ifup eth0"},
		{"ip link set eth0 down", "ip link set eth0 up"},
	} {
		i.Sh(t, c.down)
		renewed(t, i, "eth2")
		i.Sh(t, c.up)
		i.WaitSh(t, "ip route show 10.0.0.0/24 dev eth0 | grep -q . && ip route show default | head -n 1 | grep -q 'dev eth0'")
		renewed(t, i, "eth2")
		answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20")
	}
}
