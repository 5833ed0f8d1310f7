package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/render"
)

// world is a machine that things happen to: ENIs come and go, ifup and ifdown
// have the effects that the real ones have, and ec2net may be struck at any of
// its calls: one fails, or ec2net is killed there.
type world struct {
	*machine
	strike *strike
	// attached are the MACs of the ENIs that are there, by name of the device.
	attached map[string]facts.MAC
	// up are the leased addresses of the interfaces that ifup has brought up.
	up map[string]netip.Addr
	// rendered is everything that was ever meant for a file.
	rendered map[string]bool
	// told is what the DHCP client's hook has failed with.
	told  error
	steps []string
}

// killed is what ec2net ends with when it is killed.
type killed struct{}

// strike is what befalls one run of ec2net: at one of its calls, an error or its
// end.
type strike struct {
	at  int
	err error // nil: killed
	// netlink has only requests to the kernel be struck.
	netlink bool
	call    int
	hit     string
}

func (s *strike) next(what string) error {
	if s.netlink && !strings.HasPrefix(what, "netlink: ") {
		return nil
	}
	if s.call++; s.call != s.at {
		return nil
	}
	s.hit = what
	if s.err == nil {
		panic(killed{})
	}
	return s.err
}

// recording keeps what was rendered.
type recording struct {
	Templates
	*world
}

func (r recording) Render(ctx context.Context, e facts.ENI, only ...string) ([]render.File, error) {
	files, err := r.Templates.Render(ctx, e, only...)
	for _, f := range files {
		r.rendered[string(f.Content)] = true
	}
	if err != nil || len(only) > 0 {
		return files, err
	}
	// All are about to be written.
	defer func() {
		if p := recover(); p != nil {
			r.writeSome(Contents(files))
			panic(p)
		}
	}()
	return files, r.strike.next("files")
}

// writeSome leaves what ec2net leaves that is killed while it writes: some files
// are new, and there is half of the next one under its temporary name.
func (w *world) writeSome(files []disk.Content) {
	n := w.strike.at % (len(files) + 1)
	if n < len(files) {
		temp := path.Join(path.Dir(files[n].Path), "."+path.Base(files[n].Path)+".HALF")
		files = append(slices.Clone(files[:n]), disk.Content{Path: temp, Text: files[n].Text[:len(files[n].Text)/2]})
	}
	if _, err := w.Tree.WriteAll(files); err != nil {
		panic(err)
	}
}

// newWorld makes a machine in a network namespace of its own, booted. The
// caller's thread is locked.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{attached: map[string]facts.MAC{}, up: map[string]netip.Addr{}, rendered: map[string]bool{},
		strike: new(strike), machine: &machine{vpc: &vpc{enis: map[facts.MAC]facts.ENI{}}}}
	tree, err := disk.OpenTree(t.TempDir(), false)
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	templates, err := render.Load(nil)
	check(t, err)
	w.Host = &Host{Source: w, Templates: recording{templates, w}, Tree: tree, Numbers: facts.DefaultNumbers,
		Log: record{w.machine},
		Replay: func(name string) error {
			w.added = append(w.added, name)
			return nil
		},
		Run: w.run}
	w.onLogged = func(line string) { _ = w.strike.next("log: " + line) }
	w.put(t, interfacesFile, "source /etc/network/interfaces.d/*.cfg\n")
	w.vpc.enis[primaryMAC] = facts.ENI{MAC: primaryMAC, ID: "eni-0", Primary: true, PrimaryMAC: primaryMAC,
		IPv4: addrs("10.0.0.10"), Subnet: netip.MustParsePrefix("10.0.0.0/24")}
	w.powerOn(t)
	return w
}

// ENI is the door to IMDS, at which ec2net can be struck, too.
func (w *world) ENI(ctx context.Context, name string, mac facts.MAC, n facts.Numbers) (facts.ENI, error) {
	if err := w.strike.next("IMDS"); err != nil {
		return facts.ENI{}, err
	}
	e, err := w.vpc.ENI(ctx, name, mac, n)
	if errors.Is(err, errSilent) {
		<-ctx.Done()
		return e, ctx.Err()
	}
	return e, err
}

func (w *world) MACs(ctx context.Context) ([]facts.MAC, error) {
	if err := w.strike.next("IMDS"); err != nil {
		return nil, err
	}
	macs, err := w.vpc.MACs(ctx)
	if errors.Is(err, errSilent) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return macs, err
}

var errSilent = errors.New("no answer")

// failures of IMDS that last until it is well again.
var failures = []error{errSilent, imdsSays(http.StatusForbidden), imdsSays(http.StatusNotFound), imdsSays(http.StatusServiceUnavailable)}

// errnos of the kernel, as netlink gives them.
var errnos = []error{unix.EPERM, unix.EBUSY, unix.EEXIST, unix.ENODEV, unix.ENOBUFS, netlink.ErrDumpInterrupted}

// powerOn boots the machine: the kernel is new, /run is empty, the disk is what
// it was, the primary has its lease, and udev tells of the ENIs.
func (w *world) powerOn(t *testing.T) {
	t.Helper()
	check(t, unix.Unshare(unix.CLONE_NEWNET))
	struck := openKernel(t)
	struck.Before = func(what string) error { return w.strike.next("netlink: " + what) }
	none := func(plan.Link) bool { return false }
	w.Kernel, w.kernel = struck, openKernel(t)
	struck.IsENI, w.kernel.IsENI = none, none
	netns, err := netlink.NewHandle()
	check(t, err)
	t.Cleanup(netns.Close)
	w.netns = netns
	clear(w.up)
	for _, dir := range []string{runDir, ifstateDir} {
		names, err := w.Tree.List(dir)
		check(t, err)
		for _, name := range names {
			check(t, w.Tree.Remove(dir+"/"+name))
		}
	}
	addVeth(t, w.netns, "eth0", primaryMAC)
	w.address(t, "eth0", "10.0.0.10/24")
	w.address(t, "eth0", "192.0.2.10/32") // an administrator's
	admins := iprule.Rule{Priority: 1001, From: netip.MustParsePrefix("10.9.0.0/16"), Table: 78, SuppressPrefixLength: -1, SuppressGroup: -1}
	check(t, w.kernel.Apply(plan.AddRule{Rule: admins}))
	for _, name := range slices.Sorted(maps.Keys(w.attached)) {
		addVeth(t, w.netns, name, w.attached[name])
	}
}

const ifstateDir = "/run/network"

var metric = regexp.MustCompile(`metric (\d+)`)

// run is ifup and ifdown: what they and their DHCP client do to the kernel, and
// the client's hook.
func (w *world) run(ctx context.Context, program string, args ...string) error {
	if err := w.strike.next(program); err != nil {
		return err
	}
	name := args[len(args)-1]
	cfg, err := w.Tree.Read("/etc/network/interfaces.d/" + name + ".cfg")
	if err != nil || cfg == nil {
		return fmt.Errorf("unknown interface %s", name)
	}
	table, err := strconv.Atoi(metric.FindStringSubmatch(string(cfg))[1])
	if err != nil {
		return err
	}
	if program == "ifup" {
		return w.ifup(ctx, name, table)
	}
	return w.ifdown(ctx, name, table)
}

func (w *world) ifup(ctx context.Context, name string, table int) error {
	state, err := w.Tree.Read(ifstateDir + "/" + name)
	if err != nil || state != nil {
		return err // "already configured"
	}
	l, err := w.netns.LinkByName(name)
	if err != nil {
		return err
	}
	e, ok := w.vpc.enis[w.attached[name]]
	if !ok {
		return errors.New("no lease")
	}
	lease := e.IPv4[0]
	err = errors.Join(
		w.netns.LinkSetUp(l),
		w.netns.AddrReplace(l, &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(lease, 24))}),
		w.netns.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(e.Subnet), Table: table, Scope: netlink.SCOPE_LINK}))
	if err != nil {
		return err
	}
	w.up[name] = lease
	w.hook(ctx, name, "BOUND")
	_, err = w.Tree.Write(ifstateDir+"/"+name, []byte("up\n"))
	return err
}

func (w *world) ifdown(ctx context.Context, name string, _ int) error {
	if l, err := w.netns.LinkByName(name); err == nil {
		if w.up[name].IsValid() {
			w.hook(ctx, name, "RELEASE")
		}
		all, err := w.netns.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, a := range all {
			if err := w.netns.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
		if err := w.netns.LinkSetDown(l); err != nil {
			return err
		}
	}
	delete(w.up, name)
	return w.Tree.Remove(ifstateDir + "/" + name)
}

// hook is the DHCP client's, in a process of its own: if that is killed, its
// parents go on.
func (w *world) hook(ctx context.Context, name, reason string) {
	w.told = survive(func() error {
		return w.OnLease(ctx, Lease{Interface: name, Reason: reason, Address: w.up[name]})
	})
}

var errKilled = errors.New("killed")

// survive runs ec2net, which may be killed.
func survive(run func() error) (err error) {
	defer func() {
		if r := recover(); r == (killed{}) {
			err = errKilled
		} else if r != nil {
			panic(r)
		}
	}()
	return run()
}

// plug attaches an ENI, of which IMDS knows all at once.
func (w *world) plug(t *testing.T, name string, mac facts.MAC, ips []netip.Addr) {
	t.Helper()
	w.vpc.enis[mac] = facts.ENI{MAC: mac, ID: fmt.Sprintf("eni-%x", mac[5]), DeviceNumber: int(mac[5]), PrimaryMAC: primaryMAC,
		IPv4: ips, Subnet: netip.PrefixFrom(ips[0], 24).Masked()}
	w.attached[name] = mac
	addVeth(t, w.netns, name, mac)
}

func (w *world) unplug(t *testing.T, name string) {
	t.Helper()
	l, err := w.netns.LinkByName(name)
	check(t, err)
	check(t, w.netns.LinkDel(l))
	delete(w.vpc.enis, w.attached[name])
	delete(w.attached, name)
	delete(w.up, name)
}

// rename gives an interface another name; udev says so, but not to ec2net.
func (w *world) rename(t *testing.T, name, other string) {
	t.Helper()
	l, err := w.netns.LinkByName(name)
	check(t, err)
	check(t, w.netns.LinkSetDown(l))
	check(t, w.netns.LinkSetName(l, other))
	peer, err := w.netns.LinkByName("p-" + name)
	check(t, err)
	check(t, w.netns.LinkSetName(peer, "p-"+other))
	w.attached[other] = w.attached[name]
	delete(w.attached, name)
	delete(w.up, name)
}

// kernelRules are ec2net's rules, and the administrator's.
func (w *world) kernelRules(t *testing.T) []string {
	t.Helper()
	var texts []string
	for _, k := range w.rules(t) {
		if k.Priority != 0 && k.Priority < 32766 {
			texts = append(texts, k.String())
		}
	}
	slices.Sort(texts)
	return texts
}

// files are those that ec2net keeps, but for the locks and what a kill has left.
func (w *world) files(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, dir := range []string{"/etc/network/interfaces.d", stateDir, runDir} {
		names, err := w.Tree.List(dir)
		check(t, err)
		for _, name := range names {
			if !strings.HasSuffix(name, ".lock") && name[0] != '.' {
				files[dir+"/"+name] = w.file(t, dir+"/"+name)
			}
		}
	}
	return files
}

// always checks what holds after every step, whatever has befallen ec2net.
func (w *world) always(t *testing.T) (wrong []string) {
	t.Helper()
	rules := w.kernelRules(t)
	const admins = "pref 1001 from 10.9.0.0/16 lookup 78 protocol 0"
	if !slices.Contains(rules, admins) {
		wrong = append(wrong, "the administrator's rule is gone")
	}
	if !slices.Contains(w.addrsNow(t, "eth0"), "192.0.2.10/32") || !slices.Contains(w.addrsNow(t, "eth0"), "10.0.0.10/24") {
		wrong = append(wrong, "an address of the primary is gone")
	}
	if slices.Contains(rules, group999) {
		wrong = append(wrong, w.grouped(t)...)
	}
	for path, text := range w.files(t) {
		switch {
		case strings.HasSuffix(path, ".json"):
			enis, err := facts.Decode(bytes.NewReader([]byte(text)), w.Numbers)
			if err != nil || len(enis) != 1 {
				wrong = append(wrong, fmt.Sprintf("%s: %v", path, err))
			}
		case strings.HasSuffix(path, ".up"):
			if n, err := w.memory().note(strings.TrimSuffix(path[len(runDir)+1:], ".up")); err != nil || n == (plan.Note{}) {
				wrong = append(wrong, path+" is not what it should be: "+text)
			}
		case strings.HasSuffix(path, ".lease"):
			if l, err := w.memory().lease(strings.TrimSuffix(path[len(runDir)+1:], ".lease")); err != nil || l == (plan.Lease{}) {
				wrong = append(wrong, path+" is not what it should be: "+text)
			}
		case path == movedPath:
			if moved, err := w.memory().moved(); err != nil || len(moved) != strings.Count(text, "\n") {
				wrong = append(wrong, path+" is not what it should be: "+text)
			}
		case !w.rendered[text]:
			wrong = append(wrong, path+" has what was never rendered")
		}
	}
	return wrong
}

// grouped checks what the group rule relies on.
func (w *world) grouped(t *testing.T) (wrong []string) {
	t.Helper()
	known, err := w.memory().recall("")
	check(t, err)
	known.State = w.state(t)
	for _, l := range known.Members() {
		// One that has no address yet sends nothing.
		if _, sends := w.up[l.Name]; l.Group != 1000 && (sends || l.Name == "eth0") {
			wrong = append(wrong, fmt.Sprintf("there is a group rule, and %s is in group %d", l.Name, l.Group))
		}
	}
	return wrong
}

func (m *machine) logged() string { return strings.Join(m.log, "\n") }

func (m *machine) says(mac facts.MAC, change func(*facts.ENI)) {
	e := m.vpc.enis[mac].Clone()
	change(&e)
	m.vpc.enis[mac] = e
}
