package hooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/stack/networkd/unit"
)

// fakeNetworkd is the systemd-networkd of a world: it does what the real one does to the kernel
// and to its files in /run.
type fakeNetworkd struct {
	*world
	// read has its files, as it has read them, by path. used has the path of the one by which
	// it configures a link, by index; empty: it does not.
	read map[string]string
	used map[int]string
	// failed are the links that it has given up, until it configures them again.
	failed map[int]bool
	// ruthless says that it deletes the rules of other programs when it configures a link
	// anew: it was started before ec2net's 50-ec2net.conf was there.
	ruthless bool
	// slow says that a link which is renamed keeps its file until networkd reads its files
	// again, as in version 252.
	slow bool
	// watches says that ec2net watch runs, and sees each change before the next one.
	watches bool
}

const (
	netifDir     = "/run/systemd/netif"
	primarysFile = "/run/systemd/network/10-netplan-eth0.network"
)

var routeMetric = regexp.MustCompile(`RouteMetric=(\d+)`)

func linkStatePath(index int) string            { return fmt.Sprint(netifDir, "/links/", index) }
func networkdsLease(index int) string           { return fmt.Sprint(netifDir, "/leases/", index) }
func (n *fakeNetworkd) file(l plan.Link) string { return n.read[n.used[l.Index]] }

// start starts it at boot, with the primary and the attached ENIs.
func (n *fakeNetworkd) start(t *testing.T) {
	t.Helper()
	n.put(t, netifDir+"/state", "OPER_STATE=routable\n")
	n.put(t, "/run/dbus/system_bus_socket", "")
	n.used, n.failed = map[int]string{}, map[int]bool{}
	check(t, n.readFiles())
	eth0, _, err := n.linkOf("eth0")
	check(t, err)
	n.used[eth0.Index] = primarysFile
	check(t, n.tell(eth0, "configured"))
	n.put(t, networkdsLease(eth0.Index), "ADDRESS=10.0.0.10\n")
	for _, name := range slices.Sorted(maps.Keys(n.attached)) {
		check(t, n.sees(name))
	}
}

func (n *fakeNetworkd) readFiles() error {
	n.read = map[string]string{}
	files, err := n.Tree.List(unit.Folder)
	if err != nil {
		return err
	}
	for _, file := range files {
		if path.Ext(file) != ".network" {
			continue
		}
		text, err := n.Tree.Read(unit.Folder + "/" + file)
		if err != nil {
			return err
		}
		n.read[unit.Folder+"/"+file] = string(text)
	}
	return nil
}

// tell writes the state of a link to its file.
func (n *fakeNetworkd) tell(l plan.Link, admin string) error {
	text := "ADMIN_STATE=" + admin + "\n"
	if file := n.used[l.Index]; file != "" {
		text += "NETWORK_FILE=" + file + "\n"
	}
	_, err := n.Tree.Write(linkStatePath(l.Index), []byte(text))
	return err
}

// sees meets a new link, or a link with another name, which is down.
func (n *fakeNetworkd) sees(name string) error {
	l, _, err := n.linkOf(name)
	if _, known := n.used[l.Index]; err != nil || known && n.slow {
		return err
	}
	return n.configure(l)
}

// forgets ends what it knows of a link that is gone.
func (n *fakeNetworkd) forgets(index int) error {
	delete(n.used, index)
	delete(n.failed, index)
	return errors.Join(n.Tree.Remove(linkStatePath(index)), n.Tree.Remove(networkdsLease(index)))
}

// matching returns the path of the file for a link, of those that it has read.
func (n *fakeNetworkd) matching(l plan.Link) string {
	for _, file := range slices.Sorted(maps.Keys(n.read)) {
		if unit.Matches([]byte(n.read[file]), l.Name, l.MAC) {
			return file
		}
	}
	return ""
}

// run stands for networkctl(1) and ip(8).
func (n *fakeNetworkd) run(program string, args []string) error {
	command := program + " " + strings.Join(args, " ")
	if command == "networkctl reload" {
		return n.reload()
	}
	name, is := args[len(args)-1], args[len(args)-1]
	if args[0] == "link" { // set dev NAME up
		name = args[len(args)-2]
	}
	l, there, err := n.linkOf(name)
	switch {
	case err != nil:
		return err
	case !there:
		return fmt.Errorf("%s: no such device", command)
	}
	switch command {
	case "networkctl reconfigure " + name:
		return n.configure(l)
	case "ip link set dev " + name + " " + is:
		return n.set(l, is == "up")
	case "ip -4 addr flush dev " + name:
		return n.takeAll(name)
	}
	return fmt.Errorf("what is %s?", command)
}

// reload reads all files, and configures the links anew whose file is another one now.
func (n *fakeNetworkd) reload() error {
	before := n.read
	if err := n.readFiles(); err != nil {
		return err
	}
	links, err := n.kernel.Links()
	for _, l := range links {
		file := n.matching(l)
		if used, known := n.used[l.Index]; known && used != primarysFile && (file != used || n.read[file] != before[file]) {
			err = errors.Join(err, n.configure(l))
		}
	}
	return err
}

// set sets a link up or down: with its carrier, networkd's addresses and routes come and go.
func (n *fakeNetworkd) set(l plan.Link, up bool) error {
	if l.Up == up {
		return nil
	}
	if !up {
		err := errors.Join(n.links.set(l.Name, false), n.lose(l))
		if n.used[l.Index] == "" || n.failed[l.Index] {
			return err
		}
		return errors.Join(err, n.tell(l, "configuring"))
	}
	if err := n.links.set(l.Name, true); err != nil || n.used[l.Index] == "" || n.failed[l.Index] {
		return err
	}
	return n.acquire(l)
}

// configure takes from a link what it has of networkd, and begins anew.
func (n *fakeNetworkd) configure(l plan.Link) error {
	return errors.Join(n.lose(l), n.begin(l))
}

// begin configures a link by the file that matches it now. By KeepConfiguration=static the
// addresses stay that others have added.
func (n *fakeNetworkd) begin(l plan.Link) (err error) {
	if n.ruthless {
		err = n.dropForeign()
	}
	n.used[l.Index] = n.matching(l)
	delete(n.failed, l.Index)
	if n.used[l.Index] == "" {
		return errors.Join(err, n.lose(l), n.tell(l, "unmanaged"))
	}
	return errors.Join(err, n.tell(l, "configuring"), n.links.set(l.Name, true), n.acquire(l))
}

// dropForeign deletes what ec2net has made, and is not of one link.
func (n *fakeNetworkd) dropForeign() error {
	s, err := n.kernel.Look(nil)
	for _, r := range s.Rules {
		if r.Protocol == iprule.Protocol {
			err = errors.Join(err, n.kernel.Apply(plan.DelRule{Rule: r}))
		}
	}
	for _, r := range s.Routes {
		if r.Protocol == iprule.Protocol && r.Link == 0 {
			err = errors.Join(err, n.kernel.Apply(plan.DelRoute{Route: r}))
		}
	}
	n.wiped = true
	return err
}

// acquire adds the routes of a link's file, and gets a lease.
func (n *fakeNetworkd) acquire(l plan.Link) error {
	var err error
	for _, r := range unit.Routes([]byte(n.file(l)), l.Name) {
		route := plan.Route{Link: l.Index, Dst: r.Dst, Gateway: r.Gateway, OnLink: r.OnLink, Table: r.Table, Protocol: unix.RTPROT_STATIC}
		if !r.Gateway.IsValid() {
			route.Scope = unix.RT_SCOPE_LINK
		}
		err = errors.Join(err, n.kernel.Apply(plan.AddRoute{Link: l, Route: route}))
	}
	return errors.Join(err, n.lease(l))
}

// lease gets a lease of a link, with its routes.
func (n *fakeNetworkd) lease(l plan.Link) error {
	e, ok := n.vpc.enis[n.attached[l.Name]]
	if !ok {
		return nil
	}
	lease := netip.PrefixFrom(e.IPv4[0], 24)
	metric, err := strconv.Atoi(routeMetric.FindStringSubmatch(n.file(l))[1])
	if err != nil {
		return err
	}
	err = errors.Join(n.give(l.Name, lease.String()), n.defaultRoute(l.Name, lease.Masked().Addr().Next().String(), metric))
	if err != nil {
		return err
	}
	n.up[l.Name] = e.IPv4[0]
	n.ungrouped = n.ungrouped || l.Group == 0
	_, err = n.Tree.Write(networkdsLease(l.Index), fmt.Appendf(nil, "ADDRESS=%s\n", e.IPv4[0]))
	n.watch()
	return errors.Join(err, n.tell(l, "configured"))
}

// giveUp gives a link up, as networkd does if it cannot configure the link.
func (n *fakeNetworkd) giveUp(l plan.Link) error {
	n.failed[l.Index] = true
	return errors.Join(n.lose(l), n.tell(l, "failed"))
}

// restart ends it and starts it anew: the leases go on.
func (n *fakeNetworkd) restart() error {
	err := n.readFiles()
	links, failed := n.kernel.Links()
	for _, l := range links {
		if used, known := n.used[l.Index]; known && used != primarysFile {
			err = errors.Join(err, n.begin(l))
		}
	}
	return errors.Join(err, failed)
}

// lose ends the lease of a link, if there is one.
func (n *fakeNetworkd) lose(l plan.Link) error {
	text, err := n.Tree.Read(networkdsLease(l.Index))
	addr, leased := strings.CutPrefix(strings.TrimSpace(string(text)), "ADDRESS=")
	if err != nil || !leased {
		return err
	}
	s, err := n.kernel.Look(nil)
	if err != nil {
		return err
	}
	for _, r := range s.Routes {
		if r.Link == l.Index && r.Protocol == unix.RTPROT_DHCP {
			err = errors.Join(err, n.kernel.Apply(plan.DelRoute{Link: l, Route: r}))
		}
	}
	delete(n.up, l.Name)
	err = errors.Join(err, n.kernel.Apply(plan.DelAddr{Link: l, Addr: netip.PrefixFrom(netip.MustParseAddr(addr), 24)}),
		n.Tree.Remove(networkdsLease(l.Index)))
	n.watch()
	return err
}

// watch is what ec2net watch does at a change. If it is killed, systemd starts it again.
func (n *fakeNetworkd) watch() {
	if n.watches {
		n.told = survive(n.convergeAsWatch)
	}
}

func (w *world) convergeAsWatch() error {
	_, err := w.converge(context.Background(), news{why: "watch"})
	return err
}

// networkd brings an ENI up at boot, and watch gives it the addresses of before. It loses the one
// that IMDS does not list any more.
func TestNetworkdBoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, kernelInMemory, &fakeNetworkd{watches: true})
		mac := facts.MAC{2, 0, 0, 0, 1, 1}
		w.plug(t, "ens4", mac, addrs("10.0.1.20", "10.0.1.21"))
		check(t, w.Add(t.Context(), "ens4"))
		w.says(mac, func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20") })
		w.powerOn(t)
		same(t, "addresses at boot", w.addrsNow(t, "ens4"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		check(t, w.Add(t.Context(), "ens4"))
		same(t, "addresses", w.addrsNow(t, "ens4"), []string{"10.0.1.20/24"})
		if rules := strings.Join(w.kernelRules(t), "\n"); strings.Contains(rules, "10.0.1.21") {
			t.Errorf("rules:\n%s", rules)
		}
	})
}

// networkd keeps the file of a link that is renamed: the link is ec2net's under its new name.
func TestNetworkdRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, kernelInMemory, &fakeNetworkd{slow: true})
		w.plug(t, "eth1", facts.MAC{2, 0, 0, 0, 1, 1}, addrs("10.0.1.20", "10.0.1.21"))
		check(t, w.Add(t.Context(), "eth1"))
		w.rename(t, "eth1", "eth2")
		check(t, w.Add(t.Context(), "eth2"))
		same(t, "addresses", w.addrsNow(t, "eth2"), []string{"10.0.1.20/24", "10.0.1.21/32"})
	})
}
