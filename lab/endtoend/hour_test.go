package endtoend

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

var hourLong = flag.Duration("hour", 0, "how long to disturb machines, seed by seed; 0: three short runs")

const (
	// hourEpisodes is how many times a machine is disturbed, left alone and judged.
	hourEpisodes = 6
	// hourMachines is how many machines a long hour has at a time.
	hourMachines = 2
	// hourBound is how soon a machine has to be whole when everything is well again.
	hourBound = 3 * time.Minute
	// hourSlow is how soon it should be; later, the log says what came before.
	hourSlow = 20 * time.Second
)

// TestHour disturbs a machine that systemd has booted at random, as people, EC2, the kernel
// and other programs do, several times within a second. Then it makes everything well, and
// waits until the machine is quiet and has what the model says and nothing else. A seed
// always gives the same events, but each may find the machine in another state.
func TestHour(t *testing.T) {
	t.Parallel()
	var told hourTally
	if *hourLong == 0 {
		for s := *seed; s < *seed+3; s++ { // "make hour" has the others
			t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
				t.Parallel()
				newHour(t, s, &told).run(2)
			})
		}
		t.Run(fmt.Sprintf("image, seed %d", *seed), func(t *testing.T) {
			t.Parallel()
			newHourOn(t, *seed, true, &told).run(2)
		})
		return
	}
	next, began := *seed, time.Now()
	end := began.Add(*hourLong)
	var mu sync.Mutex
	var machines sync.WaitGroup
	for range hourMachines {
		machines.Go(func() {
			for time.Now().Before(end) {
				mu.Lock()
				s := next
				next++
				mu.Unlock()
				t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) { newHourOn(t, s, s%3 == 2, &told).run(hourEpisodes) })
			}
		})
	}
	machines.Wait()
	if !t.Failed() {
		report.Update(t, "../../docs/reliability.md", "hour", told.table(*seed, next-1, time.Since(began)))
	}
}

// hourTally counts what happened.
type hourTally struct {
	sync.Mutex
	events  map[string]int
	judged  int
	longest time.Duration
}

func (n *hourTally) count(event string) {
	n.Lock()
	defer n.Unlock()
	if n.events == nil {
		n.events = make(map[string]int)
	}
	n.events[event]++
}

func (n *hourTally) whole(after time.Duration) {
	n.Lock()
	defer n.Unlock()
	n.judged++
	n.longest = max(n.longest, after)
}

func (n *hourTally) table(first, last uint64, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| seeds | %d to %d, in %v, %d machines at a time |\n| --- | --- |\n", first, last, took.Round(time.Second), hourMachines)
	for _, e := range hourEvents {
		fmt.Fprintf(&b, "| %s | %d |\n", e.name, n.events[e.name])
	}
	fmt.Fprintf(&b, "| times it was quiet again, and judged | %d |\n| longest time until it was whole | %.0f s |\n| findings | none |\n", n.judged, n.longest.Seconds())
	return b.String()
}

// hour is a machine and its model.
type hour struct {
	t     *testing.T
	rng   *rand.Rand
	v     *lab.VPC
	i     *lab.Instance
	hosts []*lab.Place
	enis  []*lab.ENI // all, the primary too
	spare []*lab.ENI // not attached
	at    map[string]*lab.ENI
	// hands says, by interface, how a person has taken it down.
	hands map[string]string
	// clientless are the interfaces whose DHCP client, ifup or ifdown was killed: they may be
	// up without a client, and ifupdown's state may be wrong.
	clientless map[string]bool
	killed     bool // some process was
	forwards   bool
	legacy     bool // the back end of iptables
	short      bool // leases
	dhcpcd     bool
	image      bool // systemd-networkd brings the ENIs up
	told       *hourTally
	began      time.Time
	steps      []string
	timers     []*time.Timer
}

// hourFiles make units try again sooner, and dhclient give up sooner.
var hourFiles = map[string]string{
	"/etc/systemd/system/ec2net-hotplug@.service.d/lab.conf": "[Service]\nRestartSec=5s\n",
	"/etc/systemd/system/ec2net-unplug@.service.d/lab.conf":  "[Service]\nRestartSec=5s\n",
	"/etc/dhcp/dhclient.conf":                                "timeout 20;\nretry 20;\n",
}

const hourPrepare = "test ! -e /etc/dhcpcd.conf || printf 'noarp\\ntimeout 20\\n' >>/etc/dhcpcd.conf; systemctl enable ec2net-scan.service ec2net-watch.service; echo EC2NET_REFRESH=10s >>/etc/default/ec2net\n"

func newHour(t *testing.T, seed uint64, told *hourTally) *hour {
	return newHourOn(t, seed, false, told)
}

func newHourOn(t *testing.T, seed uint64, image bool, told *hourTally) *hour {
	plan := lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}}
	if seed%3 == 0 {
		plan.Lease = 2 * time.Minute // clients renew often, and a lease ends if its client was killed
	}
	h := &hour{t: t, rng: rand.New(rand.NewPCG(seed, 0)), v: lab.NewVPC(t, plan), told: told, image: image,
		at: make(map[string]*lab.ENI), hands: make(map[string]string), clientless: make(map[string]bool)}
	for _, addrs := range [][]string{{"10.0.0.20", "10.0.0.21"}, {"10.0.1.20", "10.0.1.21"}, {"10.0.1.30"}, {"10.0.0.40", "10.0.0.41"}} {
		h.spare = append(h.spare, h.v.AddENI(t, addrs...))
	}
	setup := lab.Setup{Release: []string{"bookworm", "trixie"}[seed%2], Systemd: true}
	h.legacy, h.short = seed%4 >= 2, plan.Lease > 0
	h.dhcpcd = seed%4 == 3 && !image
	setup.Dhcpcd = h.dhcpcd
	if image {
		setup.Image, setup.Rendered = true, true
	}
	h.enis = append([]*lab.ENI{h.v.Primary}, h.spare...)
	prepare := hourPrepare
	if h.legacy {
		prepare += "update-alternatives --set iptables /usr/sbin/iptables-legacy\n"
	}
	for path, text := range hourFiles {
		prepare += fmt.Sprintf("mkdir -p $(dirname %[1]s)\nprintf '%[2]s' >%[1]s\n", path, strings.ReplaceAll(text, "\n", `\n`))
	}
	setup.Prepare = prepare
	h.i = boot(t, h.v, setup)
	h.hosts = []*lab.Place{h.v.Client, h.v.Host(t, "10.0.0.99"), h.v.Host(t, "10.0.1.99")}
	h.i.WaitRunning(t)
	h.began = time.Now()
	t.Cleanup(h.stopTimers)
	return h
}

func (h *hour) run(episodes int) {
	defer func() {
		if h.t.Failed() {
			h.t.Logf("the events, by seconds:\n%s\nthe journal:\n%s", strings.Join(h.steps, "\n"), h.i.Log(h.t))
		}
	}()
	for n := range episodes {
		h.note("episode %d", n+1)
		if h.rng.IntN(3) > 0 {
			h.attach()
		}
		for range 3 + h.rng.IntN(20) {
			h.event()
			// The next event meets this one under way, or done.
			time.Sleep([]time.Duration{0, 0, 50, 200, 1000, 2500}[h.rng.IntN(6)] * time.Millisecond)
		}
		h.well()
		h.wholeAgain()
		if h.t.Failed() {
			return
		}
	}
}

func (h *hour) note(format string, args ...any) {
	h.steps = append(h.steps, fmt.Sprintf("%7.2f ", time.Since(h.began).Seconds())+fmt.Sprintf(format, args...))
}

// wholeAgain waits until the judge has nothing to say, and then asks each address.
func (h *hour) wholeAgain() {
	start := time.Now()
	h.note("all is well")
	var last []string
	for {
		s := h.look()
		wrong := h.judge(s)
		if len(wrong) == 0 {
			break
		}
		if time.Since(start) > hourBound {
			h.t.Errorf("after %v:\n%s\nthe machine:\n%v", hourBound, strings.Join(wrong, "\n"), s)
			return
		}
		if strings.Join(wrong, "\n") != strings.Join(last, "\n") {
			h.note("  not yet: %.600q", wrong)
		}
		last = wrong
		time.Sleep(200 * time.Millisecond)
	}
	h.told.whole(time.Since(start))
	h.note("whole again after %.1f s", time.Since(start).Seconds())
	h.t.Logf("whole %.1f s after all was well; before: %.200q", time.Since(start).Seconds(), last)
	if time.Since(start) > hourSlow {
		h.t.Logf("slow; the events, by seconds:\n%s\nthe journal:\n%s", strings.Join(h.steps, "\n"), h.i.Log(h.t))
	}
	h.v.ResetCounters(h.t)
	addrs := h.v.Primary.Addrs()
	s := h.look()
	for name, st := range h.standings(s) {
		if s.clients(name) == 1 {
			delete(h.clientless, name)
		}
		// The lease of a client that was killed may be over just now.
		if st == serving && !(h.short && h.clientless[name]) {
			addrs = append(addrs, h.at[name].Addrs()...)
		}
	}
	if h.short { // a client asks its server about a lease by main, so the VPC drops that
		answer(h.t, h.hosts, addrs...)
	} else {
		answers(h.t, h.v, h.hosts, addrs...)
	}
	if h.rng.IntN(2) == 0 {
		h.sh("iptables-save >/root/saved") // and soon it is an old one
	}
}
