package endtoend

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

// columns are the ways into ec2net.
const (
	addNew   = iota // of an ENI that ec2net has never seen
	addKnown        // of one that it has configured before
	remove
	bound
	renew
	release
	scan
	renderRoot
	columns
)

var columnNames = [columns]string{"hotplug add, new", "hotplug add, known", "hotplug remove", "BOUND", "RENEW", "RELEASE", "scan", "render --root"}

// columnsOf are the columns that a stack has: systemd-networkd calls no hook. Instead of a
// hook, watch sees its leases.
func columnsOf(s stack) []int {
	if s.setup.Image {
		return []int{addNew, addKnown, remove, renew, scan, renderRoot}
	}
	return []int{addNew, addKnown, remove, bound, renew, release, scan, renderRoot}
}

func (s stack) columnName(column int) string {
	if s.setup.Image && column == renew {
		return "watch"
	}
	return columnNames[column]
}

// watched runs watch until what the tests delete before is back, for ten seconds at most.
const watched = `sh -c '/usr/sbin/ec2net watch --refresh 0 & watch=$!
for try in $(seq 100); do
	! ip rule | grep -q "from 10.0.0.21 lookup 1001" || break
	sleep 0.1
done
kill $watch; wait $watch || test $? = 143'` // 143: before it handles signals

// command is what a column calls.
func (s stack) command(column int) string {
	if s.setup.Image && column == renew {
		return watched
	}
	return commands[column]
}

// statuses are the exit statuses of a row; -1 is one that is not known.
type statuses [columns]int

var unknown = statuses{-1, -1, -1, -1, -1, -1, -1, -1}

// commands are what a column calls, for eth1; eth2 is the new one.
var commands = [columns]string{
	"INTERFACE=eth2 ACTION=add /etc/network/ec2net.hotplug",
	"INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug",
	"INTERFACE=eth1 ACTION=remove /etc/network/ec2net.hotplug",
	"interface=eth1 reason=BOUND new_ip_address=10.0.0.20 /usr/sbin/ec2net lease",
	"interface=eth1 reason=RENEW new_ip_address=10.0.0.20 /usr/sbin/ec2net lease",
	"interface=eth1 reason=RELEASE old_ip_address=10.0.0.20 /usr/sbin/ec2net lease",
	"/usr/sbin/ec2net scan",
	"/usr/sbin/ec2net render eth1 --root /tmp/rendered",
}

// patient gives render more than its ten seconds where it is to succeed: IMDS
// has half of them, which on a busy machine may be too few.
const patient = " --timeout 60s"

// limits bound the time of each: those of cmd/ec2net for the hooks, scan and render,
// and for hotplug those of IMDS, ifup and ifdown. Tests in hooks prove the finer limits
// of hooks/imds.go, with a clock of their own: TestAskBounds, TestHookBounds.
var limits = [columns]time.Duration{addNew: 60 * time.Second, addKnown: 40 * time.Second, remove: 40 * time.Second,
	bound: 15 * time.Second, renew: 15 * time.Second, release: 15 * time.Second, scan: 15 * time.Second, renderRoot: 10 * time.Second}

// margin is for a machine that is busy.
const margin = 10 * time.Second

// A fault is a row of the matrix.
type fault struct {
	name string
	// inflict makes it happen, on a machine on which eth1 is up; lift ends it.
	inflict func(*testing.T, *faulty)
	lift    string
	// during happens when IMDS is first asked for eth2.
	during func(*testing.T, *faulty)
	// recalled: render uses the remembered facts, and says so.
	recalled bool
	// brief: the fault of IMDS is over once render and a second hotplug have met it.
	brief bool
	// wrap stands before each command.
	wrap string
	// want are the exit statuses; for each status that is not 0, a line contains says.
	want [columns]int
	says string
	// slow is the time beyond the limit that ifup costs hotplug.
	slow time.Duration
	// left are files that the fault itself leaves.
	left []string
	// comesUp: a known ENI comes up all the same, with status 5.
	comesUp bool
	// goneNew: eth2 is not there in the end.
	goneNew bool
}

// faulty is a machine on which something goes wrong.
type faulty struct {
	vpc        *lab.VPC
	eth1, eth2 *lab.ENI
	stack
	*lab.Instance
}

// newFaulty makes a machine on which nothing goes wrong yet. eth1 is up; ec2net does
// not know of eth2.
func newFaulty(t *testing.T, s stack) *faulty {
	t.Helper()
	v := lab.NewVPC(t, lab.Plan{})
	m := &faulty{stack: s, vpc: v, eth1: v.AddENI(t, "10.0.0.20", "10.0.0.21"), eth2: v.AddENI(t, "10.0.1.30", "10.0.1.31")}
	m.Instance = s.boot(t, v, lab.Setup{Prepare: "echo EC2NET_MARKS=yes >>/etc/default/ec2net; rm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules"})
	m.eth1.Attach(t, "eth1")
	m.eth2.Attach(t, "eth2")
	m.Sh(t, commands[addKnown])
	return m
}

// asked counts the requests to IMDS for an ENI.
func (m *faulty) asked(e *lab.ENI) (n int) {
	for _, r := range m.vpc.IMDS.Requests() {
		if strings.Contains(r.Path, e.MAC) {
			n++
		}
	}
	return n
}

// TestFaults is the matrix of docs/reliability.md: each fault at each way into
// ec2net. A cell is the exit status. In every cell one line says why; every file is the
// old one or the new one; the rules and addresses that worked are there; the time is
// within the limits; no process and no lock is left; and after the fault all is well.
func TestFaults(t *testing.T) { onStacks(t, testFaults) }

// Most of a row is waiting.
var faultRoom = make(chan struct{}, 6)

func testFaults(t *testing.T, s stack) {
	rows := faults(s)
	var all sync.WaitGroup
	found := make([]statuses, len(rows))
	for n, f := range rows {
		found[n] = unknown
		all.Go(func() {
			faultRoom <- struct{}{}
			defer func() { <-faultRoom }()
			t.Run(f.name, func(t *testing.T) { f.test(t, s, &found[n]) })
		})
	}
	all.Wait()
	shown := columnsOf(s)
	lacks := func(row statuses) bool {
		return slices.ContainsFunc(shown, func(column int) bool { return row[column] < 0 })
	}
	if t.Failed() || slices.ContainsFunc(found, lacks) {
		return // or only some were asked for
	}
	var table strings.Builder
	table.WriteString("| fault |")
	for _, column := range shown {
		fmt.Fprintf(&table, " %s |", s.columnName(column))
	}
	fmt.Fprintf(&table, "\n|%s\n", strings.Repeat(" --- |", len(shown)+1))
	for n, f := range rows {
		fmt.Fprintf(&table, "| %s |", f.name)
		for _, column := range shown {
			fmt.Fprintf(&table, " %d |", found[n][column])
		}
		table.WriteString("\n")
	}
	report.Section(t, "../../docs/reliability.md", s.matrix, table.String())
}

func (f fault) test(t *testing.T, s stack, found *statuses) {
	m := newFaulty(t, s)
	v := m.vpc
	// Something to write down at the next renewal.
	m.eth1.Assign(t, "10.0.0.22")
	before := m.files(t)
	f.inflict(t, m)
	inflicted := time.Now()

	// The row that takes longest runs beside the rest.
	added := make(chan string, 1)
	v.IMDS.ResetLog()
	go func() {
		wrong := "hotplug of eth2 was given up" // by a Fatalf, which ends this goroutine only
		defer func() { added <- wrong }()
		wrong = f.cell(t, m, addNew, found)
	}()
	if f.during != nil {
		m.WaitFor(t, "IMDS to be asked for eth2", func() bool { return m.asked(m.eth2) > 0 })
		f.during(t, m)
	}
	var wrong []string
	at := func(column int) {
		t.Helper()
		if w := f.cell(t, m, column, found); w != "" {
			wrong = append(wrong, w)
		}
	}
	rules := func(when string, want ...string) {
		t.Helper()
		now := m.Sh(t, "ip rule")
		for _, addr := range []string{"10.0.0.20", "10.0.0.21"} {
			if strings.Contains(now, "from "+addr+" lookup 1001") != slices.Contains(want, addr) {
				wrong = append(wrong, fmt.Sprintf("after %s, rules:\n%s", when, now))
				return
			}
		}
	}
	m.Sh(t, "ip rule del from 10.0.0.21")
	at(renew)
	rules(s.columnName(renew), "10.0.0.20", "10.0.0.21")
	at(scan)
	rules("scan", "10.0.0.20", "10.0.0.21")
	at(renderRoot)
	if f.brief {
		before := len(v.IMDS.Requests())
		m.WaitFor(t, "IMDS to be asked for eth2 once more", func() bool { return len(v.IMDS.Requests()) > before })
		time.Sleep(time.Until(inflicted.Add(5 * time.Second)))
		v.IMDS.Heal()
	}
	if !s.setup.Image {
		at(release)
		rules("RELEASE")
		at(bound)
		rules("BOUND", "10.0.0.20", "10.0.0.21")
	}
	at(remove)
	rules("remove")
	at(addKnown)
	if f.want[addKnown] != 5 || f.comesUp { // without ifup there is no lease
		rules("add", "10.0.0.20", "10.0.0.21")
	}
	if w := <-added; w != "" {
		wrong = append(wrong, w)
	}
	during := m.files(t)
	if n := m.asked(m.eth2); n > 180 {
		wrong = append(wrong, fmt.Sprintf("IMDS was asked %d times for eth2", n))
	}

	v.IMDS.Heal()
	v.Metadata(t, lab.Up)
	if f.lift != "" {
		m.Sh(t, f.lift)
	}
	wrong = append(wrong, m.left(t)...)
	m.Sh(t, commands[addKnown])
	up := []string{"10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.0.22"}
	if !f.goneNew {
		m.Sh(t, commands[addNew])
		up = append(up, "10.0.1.30", "10.0.1.31")
	}
	// If IMDS does not answer in time, ec2net uses remembered facts.
	m.WaitSh(t, "env "+s.renew("eth1", "10.0.0.20")+" && ip address show dev eth1 | grep -qwF 10.0.0.22")
	v.ResetCounters(t) // a RELEASE that leaves by the primary is dropped
	answers(t, v, []*lab.Place{v.Client}, up...)
	after := m.files(t)
	for path, text := range during {
		if !has(before, path, text) && !has(after, path, text) && !slices.Contains(f.left, path) {
			wrong = append(wrong, fmt.Sprintf("%s was neither old nor new:\n%s", path, text))
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%s\nlog:\n%s", strings.Join(wrong, "\n"), m.Log(t))
	}
}

// cell calls ec2net once, records the result, and reports what is wrong with it.
func (f fault) cell(t *testing.T, m *faulty, column int, found *statuses) string {
	said := len(m.Log(t))
	start := time.Now()
	command, limit := m.command(column), limits[column]+margin
	switch {
	case column == addNew || column == addKnown:
		limit += f.slow
	case column == renderRoot && f.want[column] == 0 && !f.recalled:
		command, limit = command+patient, 60*time.Second+margin
	}
	r := m.Run(t, lab.Cmd{Args: []string{"sh", "-c", f.wrap + " env " + command}})
	took := time.Since(start)
	found[column] = r.Status
	lines := m.Log(t)[said:] + r.Stderr
	want := f.want[column]
	if m.setup.Image && column == renew {
		want = 0 // watch goes on
	}
	switch {
	case r.Status != want:
		return fmt.Sprintf("%s: status %d, want %d\n%s%s", m.columnName(column), r.Status, want, r.Stdout, r.Stderr)
	case took > limit:
		return fmt.Sprintf("%s: took %v", m.columnName(column), took)
	case r.Status != 0 && !strings.Contains(lines, f.says):
		return fmt.Sprintf("%s: nothing says %q:\n%s", m.columnName(column), f.says, lines)
	case column == renderRoot && f.recalled && (!strings.Contains(lines, f.says) || !strings.Contains(lines, "using the remembered facts")):
		return fmt.Sprintf("%s: nothing says %q, and what serves:\n%s", m.columnName(column), f.says, lines)
	}
	return ""
}

// files returns the files that ec2net writes.
func (m *faulty) files(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for name := range strings.Lines(m.Sh(t, "find "+m.folder+" /var/lib/ec2net -type f ! -name full")) {
		name = strings.TrimSpace(name)
		found[name], _ = m.ReadFile(t, name)
	}
	return found
}

// has reports whether a file has this text.
func has(files map[string]string, name, text string) bool {
	there, ok := files[name]
	return ok && there == text
}

// left finds what ec2net has left running, locked or lying about.
func (m *faulty) left(t *testing.T) (wrong []string) {
	t.Helper()
	script := `
pgrep -r D,R,S,T -a '^ec2net' | grep -v 'ec2net refresh' || : # it ends by itself
for lock in /run/ec2net/*[!h].lock; do flock -w 10 $lock true || echo $lock is held; done
mkdir -p /tmp/rendered
find ` + m.folder + ` /var/lib/ec2net /run/ec2net /tmp/rendered -name '.?*' 
`
	if out := m.Sh(t, script); out != "" {
		wrong = append(wrong, "left:\n"+out)
	}
	return wrong
}
