package hooks

import (
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
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/render"
)

// world is a machine to which things happen. ENIs come and go, and ifup and ifdown, or
// networkctl and ip, have the effects of the real ones. A strike may hit any call of ec2net:
// the call fails, or ec2net is killed there.
type world struct {
	*machine
	boot   boot
	links  links
	strike *strike
	// networkd is the systemd-networkd that brings the ENIs up; nil: ifupdown does.
	networkd *fakeNetworkd
	// attached has the MACs of the attached ENIs, by name.
	attached map[string]facts.MAC
	// up has the leased addresses of the interfaces that ifup has brought up, by name.
	up map[string]netip.Addr
	// rendered has every text that was ever rendered for a file.
	rendered map[string]bool
	kept     kept
	// ungrouped says that another program has taken an ENI out of its group, and that no
	// run of ec2net has succeeded since.
	ungrouped bool
	// forwards says that the machine forwards packets, whatever its kernel says.
	forwards bool
	// wiped says that systemd-networkd has deleted ec2net's rules in this step.
	wiped bool
	// told is the error of the DHCP client's hook, or of watch.
	told  error
	steps []string
}

// killed is the panic that stands for the death of ec2net.
type killed struct{}

// strike hits one run of ec2net, at one of its calls: with an error, or death.
type strike struct {
	at  int
	err error // nil: killed
	// netlink says that only requests to the kernel count.
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

// recording keeps every text that is rendered.
type recording struct {
	Templates
	*world
}

func (r recording) Render(ctx context.Context, stack render.Stack, e facts.ENI, only ...string) ([]render.File, error) {
	files, err := rendered(ctx, r.Templates, stack, e, only)
	for _, f := range files {
		r.rendered[string(f.Content)] = true
	}
	if err != nil || len(only) > 0 {
		return files, err
	}
	// ec2net is about to write all of them.
	defer func() {
		if p := recover(); p != nil {
			r.writeSome(Contents(files))
			panic(p)
		}
	}()
	return files, r.strike.next("files")
}

// Docker renders the marks of answers.
func (r recording) Docker(ctx context.Context, enis []facts.ENI, group int) (render.File, error) {
	key := fmt.Sprint("marks", enis, group)
	if f, ok := renderings.Load(key); ok {
		r.rendered[string(f.(render.File).Content)] = true
		return f.(render.File), nil
	}
	f, err := r.Templates.Docker(ctx, enis, group)
	if r.rendered[string(f.Content)] = true; err == nil {
		renderings.Store(key, f)
	}
	return f, err
}

// renderings caches what the built-in templates make of an ENI, for all worlds: it is the
// same each time, and rendering takes a while.
var renderings sync.Map

func rendered(ctx context.Context, templates Templates, stack render.Stack, e facts.ENI, only []string) ([]render.File, error) {
	key := fmt.Sprint(stack, e, only)
	if files, ok := renderings.Load(key); ok {
		return files.([]render.File), nil
	}
	files, err := templates.Render(ctx, stack, e, only...)
	if err == nil {
		renderings.Store(key, files)
	}
	return files, err
}

// writeSome leaves what ec2net leaves if it is killed while it writes: some new files, and
// half of the next one under its temporary name.
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

// newWorld makes a machine with this kernel, and boots it. Without a networkd ifupdown brings
// its ENIs up.
func newWorld(t *testing.T, boot boot, by *fakeNetworkd) *world {
	t.Helper()
	w := &world{boot: boot, attached: map[string]facts.MAC{}, up: map[string]netip.Addr{}, rendered: map[string]bool{},
		strike: new(strike), machine: &machine{vpc: &vpc{enis: map[facts.MAC]facts.ENI{}}}}
	w.kept = watchKept(t, rootOnTmpfs(t))
	tree, err := disk.OpenTree(w.kept.root, false)
	check(t, err)
	tree.Sole()
	t.Cleanup(func() { tree.Close() })
	templates, err := builtIn()
	check(t, err)
	w.Host = &Host{Stack: render.Ifupdown, Source: w, Templates: recording{templates, w}, Tree: tree, Numbers: facts.DefaultNumbers,
		Log: record{w.machine},
		Replay: func(name string) error {
			w.added = append(w.added, name)
			return nil
		},
		Unplug: func(name string) error {
			w.gone = append(w.gone, name)
			return nil
		},
		Run: w.run}
	if by != nil {
		w.Stack, w.networkd, by.world = render.Networkd, by, w
		w.Later = func(name string) error { // a DHCP client's hook asks anyway
			w.later = append(w.later, name)
			return nil
		}
	}
	w.firewall = newFirewall(tree)
	w.Output = w.firewall.output
	w.onLogged = func(line string) { _ = w.strike.next("log: " + line) }
	w.put(t, interfacesFile, "source /etc/network/interfaces.d/*.cfg\n")
	w.vpc.enis[primaryMAC] = facts.ENI{MAC: primaryMAC, ID: "eni-0", Primary: true, PrimaryMAC: primaryMAC,
		IPv4: addrs("10.0.0.10"), Subnet: netip.MustParsePrefix("10.0.0.0/24")}
	w.powerOn(t)
	return w
}

var builtIn = sync.OnceValues(func() (*render.Templates, error) { return render.Load(nil) })

// ENI asks IMDS. A strike may hit this call too.
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

// failures are those of IMDS that last until a later step ends them.
var failures = []error{errSilent, imdsSays(http.StatusForbidden), imdsSays(http.StatusNotFound), imdsSays(http.StatusServiceUnavailable)}

// errnos are the errors of the kernel, as netlink returns them.
var errnos = []error{unix.EPERM, unix.EBUSY, unix.EEXIST, unix.ENODEV, unix.ENOBUFS, netlink.ErrDumpInterrupted}

// powerOn boots the machine: the kernel is new, /run is empty, the disk is as it was, the
// primary has its lease, and udev adds the ENIs.
func (w *world) powerOn(t *testing.T) {
	t.Helper()
	b := w.boot(t, func(what string) error { return w.strike.next("netlink: " + what) })
	w.Kernel, w.kernel, w.links = forwarder{b.ec2net, w}, b.eyes, b.links
	w.forwards = false
	w.firewall.flush()
	clear(w.up)
	for _, dir := range []string{runDir, ifstateDir, netifDir + "/links", netifDir + "/leases"} {
		names, err := w.Tree.List(dir)
		check(t, err)
		for _, name := range names {
			check(t, w.Tree.Remove(dir+"/"+name))
		}
	}
	metric := 1002 // dhcpcd's
	if w.networkd != nil {
		metric = 100 // netplan's
	}
	check(t, w.links.add("eth0", primaryMAC))
	check(t, w.links.set("eth0", true))
	check(t, w.give("eth0", "10.0.0.10/24"))
	check(t, w.give("eth0", "192.0.2.10/32")) // an administrator's own
	check(t, w.defaultRoute("eth0", "10.0.0.1", metric))
	admins := iprule.Rule{Priority: 1001, From: netip.MustParsePrefix("10.9.0.0/16"), Table: 78, SuppressPrefixLength: -1, SuppressGroup: -1}
	check(t, w.kernel.Apply(plan.AddRule{Rule: admins}))
	for _, name := range slices.Sorted(maps.Keys(w.attached)) {
		check(t, w.links.add(name, w.attached[name]))
	}
	if w.networkd != nil {
		w.networkd.start(t)
	}
}

// forwarder is a kernel that forwards packets if its world does.
type forwarder struct {
	Kernel
	*world
}

// Forwards reports whether the machine forwards packets.
func (f forwarder) Forwards() bool { return f.forwards || f.Kernel.Forwards() }

// Look has every link forward packets if the machine does.
func (f forwarder) Look(scope func([]plan.Link) plan.Scope) (plan.State, error) {
	s, err := f.Kernel.Look(scope)
	for i := range s.Links {
		s.Links[i].Forwards = s.Links[i].Forwards || f.forwards
	}
	return s, err
}

const ifstateDir = "/run/network"

var metric = regexp.MustCompile(`metric (\d+)`)

// run stands for ifup and ifdown: it does what they and their DHCP client do to the kernel,
// and calls the client's hook.
func (w *world) run(ctx context.Context, program string, args ...string) error {
	if err := w.strike.next(program); err != nil {
		return err
	}
	if is, err := w.firewall.run(program, args); is {
		return err
	}
	if w.networkd != nil {
		return w.networkd.run(program, args)
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
	states, err := w.ifstates()
	if err != nil || slices.Contains(states, name) {
		return err // "already configured"
	}
	l, there, err := w.linkOf(name)
	if err != nil {
		return err
	}
	e, ok := w.vpc.enis[w.attached[name]]
	if !there || !ok {
		return errors.New("no lease")
	}
	lease := e.IPv4[0]
	if err := w.kernel.Apply(plan.DisableIPv6{Link: l}); err != nil {
		return err
	}
	if err := w.links.set(name, true); err != nil {
		return err
	}
	err = errors.Join(
		w.give(name, netip.PrefixFrom(lease, 24).String()),
		w.kernel.Apply(plan.AddRoute{Link: l, Route: plan.Route{Link: l.Index, Dst: e.Subnet, Table: table,
			Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_BOOT}}))
	if err != nil {
		return err
	}
	if err := w.defaultRoute(name, netip.PrefixFrom(lease, 24).Masked().Addr().Next().String(), table); err != nil {
		return err
	}
	w.up[name] = lease
	w.hook(ctx, name, "BOUND")
	return w.setIfstates(append(states, name))
}

// ifstates are the interfaces that ifupdown counts as up.
func (w *world) ifstates() ([]string, error) {
	text, err := w.Tree.Read(ifstateDir + "/ifstate")
	var names []string
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	return names, err
}

func (w *world) setIfstates(names []string) error {
	text := ""
	for _, name := range names {
		text += name + "=" + name + "\n"
	}
	_, err := w.Tree.Write(ifstateDir+"/ifstate", []byte(text))
	return err
}

func (w *world) ifdown(ctx context.Context, name string, _ int) error {
	if _, there, err := w.linkOf(name); err != nil {
		return err
	} else if there {
		if w.up[name].IsValid() {
			w.hook(ctx, name, "RELEASE")
		}
		if err := w.takeAll(name); err != nil {
			return err
		}
		if err := w.links.set(name, false); err != nil {
			return err
		}
	}
	delete(w.up, name)
	states, err := w.ifstates()
	if err != nil {
		return err
	}
	return w.setIfstates(slices.DeleteFunc(states, func(other string) bool { return other == name }))
}

// linkOf returns the device that has a name now, if there is one.
func (w *world) linkOf(name string) (l plan.Link, there bool, err error) {
	all, err := w.kernel.Links()
	l, there = named(all, name)
	return l, there, err
}

// give gives an interface an address, unless it has it.
func (w *world) give(name, addr string) error {
	l, _, err := w.linkOf(name)
	if err != nil {
		return err
	}
	return w.kernel.Apply(plan.AddAddr{Link: l, Addr: netip.MustParsePrefix(addr)})
}

// defaultRoute makes a DHCP client's default route, in the place of any other with this
// metric, as dhcpcd does.
func (w *world) defaultRoute(name, gateway string, metric int) error {
	s, err := w.kernel.Look(nil)
	if err != nil {
		return err
	}
	for _, r := range s.Routes {
		if r.Table == iprule.MainTable && r.Default() && r.TOS == 0 && r.Metric == metric {
			err = errors.Join(err, w.kernel.Apply(plan.DelRoute{Route: r}))
		}
	}
	l, _ := s.LinkNamed(name)
	return errors.Join(err, w.kernel.Apply(plan.AddRoute{Link: l, Route: plan.Route{Table: iprule.MainTable, Link: l.Index,
		Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr(gateway), Metric: metric, Protocol: unix.RTPROT_DHCP}}))
}

// takeAll removes all addresses of an interface.
func (w *world) takeAll(name string) error {
	s, err := w.kernel.Look(nil)
	if err != nil {
		return err
	}
	l, _ := s.LinkNamed(name)
	for _, a := range s.Addrs {
		if a.Link == l.Index {
			err = errors.Join(err, w.kernel.Apply(plan.DelAddr{Link: l, Addr: a.Prefix})) // a secondary address goes with its primary one
		}
	}
	return err
}

// hook runs the DHCP client's hook, a process of its own: if it is killed, its parents go
// on.
func (w *world) hook(ctx context.Context, name, reason string) {
	w.told = survive(func() error {
		return w.OnLease(ctx, Lease{Interface: name, Reason: reason, Address: w.up[name]})
	})
}

// renewed is a DHCP client's event of an ENI: its hook, or of systemd-networkd's client what
// watch and a refresh do.
func (w *world) renewed(t *testing.T, name, reason string) error {
	t.Helper()
	if w.networkd == nil {
		return w.OnLease(t.Context(), Lease{name, reason, w.up[name]})
	}
	return errors.Join(w.convergeAsWatch(), w.Refresh(t.Context(), name))
}

// primaryBound is renewed for the primary.
func (w *world) primaryBound(t *testing.T) error {
	t.Helper()
	if w.networkd == nil {
		return w.OnLease(t.Context(), Lease{"eth0", "BOUND", netip.MustParseAddr("10.0.0.10")})
	}
	return w.renewed(t, "eth0", "")
}

var errKilled = errors.New("killed")

// survive runs ec2net, and survives if that is killed.
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

// plug attaches an ENI. IMDS knows all of it at once.
func (w *world) plug(t *testing.T, name string, mac facts.MAC, ips []netip.Addr) {
	t.Helper()
	w.vpc.mu.Lock()
	w.vpc.enis[mac] = facts.ENI{MAC: mac, ID: fmt.Sprintf("eni-%x", mac[5]), DeviceNumber: int(mac[5]), PrimaryMAC: primaryMAC,
		IPv4: ips, Subnet: netip.PrefixFrom(ips[0], 24).Masked()}
	w.vpc.mu.Unlock()
	w.attached[name] = mac
	check(t, w.links.add(name, mac))
	w.seen(t, name)
}

// seen has networkd see a link that is new, or has a new name.
func (w *world) seen(t *testing.T, name string) {
	t.Helper()
	if w.networkd != nil {
		check(t, w.networkd.sees(name))
	}
}

func (w *world) unplug(t *testing.T, name string) {
	t.Helper()
	l, _, err := w.linkOf(name)
	check(t, err)
	check(t, w.links.del(name))
	if w.networkd != nil {
		check(t, w.networkd.forgets(l.Index))
	}
	w.vpc.mu.Lock()
	delete(w.vpc.enis, w.attached[name])
	w.vpc.mu.Unlock()
	delete(w.attached, name)
	delete(w.up, name)
}

// rename gives an interface another name, without an event for ec2net.
func (w *world) rename(t *testing.T, name, other string) {
	t.Helper()
	if w.networkd != nil {
		check(t, w.networkd.run("ip", []string{"link", "set", "dev", name, "down"}))
	} else {
		check(t, w.links.set(name, false))
	}
	check(t, w.links.rename(name, other))
	w.attached[other] = w.attached[name]
	delete(w.attached, name)
	delete(w.up, name)
	w.seen(t, other)
}

// kernelRules returns the rules of ec2net and of the administrator.
func (w *world) kernelRules(t *testing.T) []string { return rulesOf(w.state(t)) }

func rulesOf(s plan.State) []string {
	var texts []string
	for _, k := range s.Rules {
		if k.Priority == 0 || k.Priority >= 32766 {
			continue
		}
		text, ok := textsOfRules.Load(k)
		if !ok {
			text, _ = textsOfRules.LoadOrStore(k, k.String())
		}
		texts = append(texts, text.(string))
	}
	slices.Sort(texts)
	return texts
}

// textsOfRules caches the text of each rule: the sequences read the same few millions of times.
var textsOfRules sync.Map // of plan.Rule to string

// always checks what holds after every step, even one in which ec2net was struck.
func (w *world) always(t *testing.T) (wrong []string) {
	state := w.state(t)
	rules := rulesOf(state)
	const admins = "pref 1001 from 10.9.0.0/16 lookup 78 protocol 0"
	if !slices.Contains(rules, admins) {
		wrong = append(wrong, "the administrator's rule is gone")
	}
	eth0, _ := state.LinkNamed("eth0")
	for _, a := range []string{"192.0.2.10/32", "10.0.0.10/24"} {
		if !slices.Contains(state.Addrs, plan.Addr{Link: eth0.Index, Prefix: netip.MustParsePrefix(a)}) {
			wrong = append(wrong, "an address of the primary is gone: "+a)
		}
	}
	if slices.ContainsFunc(rules, isGroupRule) && !w.ungrouped {
		wrong = append(wrong, w.outside(state, func(group int) bool { return group != 0 })...)
	}
	// The kernel uses the first that it lists.
	first := slices.IndexFunc(state.Routes, func(r plan.Route) bool { return r.Table == iprule.MainTable && r.Default() && r.TOS == 0 })
	if first < 0 {
		wrong = append(wrong, "main has no default route")
	} else if state.Routes[first].Link != eth0.Index {
		wrong = append(wrong, fmt.Sprintf("main's default route is %+v", state.Routes[first]))
	}
	return slices.AppendSeq(wrong, maps.Values(w.keeps(t).wrong))
}

// outside returns which ENIs are in a wrong group although there is a group rule. It skips
// those without an address, since they send nothing, and those that ec2net does not know.
func (w *world) outside(state plan.State, right func(group int) bool) (wrong []string) {
	for _, l := range state.Links {
		if !right(l.Group) && (w.sends(l) || l.Name == "eth0") {
			wrong = append(wrong, fmt.Sprintf("there is a group rule, and %s is in group %d", l.Name, l.Group))
		}
	}
	return wrong
}

// sends reports whether an ENI has an address, and ec2net knows the ENI: if ec2net was killed
// after it had written the ENI's file, only systemd-networkd knows it.
func (w *world) sends(l plan.Link) bool {
	known, err := w.memory().facts(l.Name)
	return w.up[l.Name].IsValid() && (w.networkd == nil || err == nil && known.MAC == l.MAC)
}

func (m *machine) logged() string { return strings.Join(m.log, "\n") }

func (m *machine) says(mac facts.MAC, change func(*facts.ENI)) {
	m.vpc.mu.Lock()
	defer m.vpc.mu.Unlock()
	e := m.vpc.enis[mac].Clone()
	change(&e)
	m.vpc.enis[mac] = e
}
