package endtoend

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
	"ec2net/lab/imds"
)

var (
	seed  = flag.Uint64("seed", 1, "the seed of the first random sequence; two more follow")
	steps = flag.Int("steps", 100, "how many steps a random sequence has")
)

// TestSequence does random things to a whole instance. After each, every interface
// that is up answers, whatever happens to the others. A seed always means the same
// things; only the moment of a kill differs.
func TestSequence(t *testing.T) {
	t.Parallel()
	for s := *seed; s < *seed+3; s++ {
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			t.Parallel()
			newSequence(t, s).run()
		})
	}
}

type sequence struct {
	t     *testing.T
	rng   *rand.Rand
	v     *lab.VPC
	i     *lab.Instance
	spare []*lab.ENI // not attached
	at    map[string]*lab.ENI
	// works are the interfaces that answered, and that have been left alone since;
	// known those whose facts are complete.
	works, known map[string]*lab.ENI
	extra        map[*lab.ENI][]string // secondary addresses
	ill          bool                  // IMDS
	steps        []string
}

func newSequence(t *testing.T, seed uint64) *sequence {
	s := &sequence{t: t, rng: rand.New(rand.NewPCG(seed, 0)), v: lab.NewVPC(t, lab.Plan{}),
		at: map[string]*lab.ENI{}, works: map[string]*lab.ENI{}, known: map[string]*lab.ENI{}, extra: map[*lab.ENI][]string{}}
	for _, a := range []string{"10.0.0.20", "10.0.0.21", "10.0.1.20", "10.0.1.21"} {
		s.spare = append(s.spare, s.v.AddENI(t, a))
	}
	s.i = boot(t, s.v, lab.Setup{})
	return s
}

func (s *sequence) run() {
	t := s.t
	defer func() {
		if t.Failed() {
			t.Logf("the steps:\n%s", strings.Join(s.steps, "\n"))
		}
	}()
	touchTables(t, s.i)
	for range *steps {
		s.step()
		s.always()
		if t.Failed() {
			return
		}
	}
	s.heal()
	for _, name := range slices.Sorted(maps.Keys(s.at)) {
		s.detach(name, -1)
	}
	lacks(t, s.i.State(t), "proto 236", "ec2net-eth", "dhclient.eth1", "dhclient.eth2", "dhclient.eth3")
}

func (s *sequence) note(format string, args ...any) {
	s.steps = append(s.steps, fmt.Sprintf(format, args...))
}

func (s *sequence) step() {
	name := fmt.Sprintf("eth%d", 1+s.rng.IntN(3))
	e, there := s.at[name]
	kill := -1 // milliseconds until ec2net is killed
	if s.rng.IntN(4) == 0 {
		kill = s.rng.IntN(300)
	}
	switch p := s.rng.IntN(100); {
	case p < 30 && !there && len(s.spare) > 0:
		s.attach(name, kill)
	case p < 30 && there:
		s.detach(name, kill)
	case p < 50 && there:
		s.renew(name, kill)
	case p < 60 && there:
		s.readdress(e)
	case p < 68 && s.works[name] != nil:
		s.note("ec2ifdown %s, ec2ifup", name)
		delete(s.works, name)
		s.i.Sh(s.t, "ec2ifdown "+name+"; ec2ifup "+name) // IMDS may well be ill
		s.up(name)
	case p < 80:
		s.imds()
	case p < 90 && !s.ill:
		s.recover()
	case p < 94:
		s.reboot()
	}
}

// always fails unless interfaces that worked still do, and ifupdown can read its files.
func (s *sequence) always() {
	s.t.Helper()
	addrs := []string{"10.0.0.10"}
	for _, name := range slices.Sorted(maps.Keys(s.works)) {
		addrs = append(addrs, s.works[name].Addrs()[0])
	}
	for _, a := range addrs {
		if err := s.v.Client.TCP(a + ":7"); err != nil {
			s.t.Errorf("after %q: %s does not answer: %v\n%s", s.steps, a, err, s.i.Trouble())
		}
	}
	if out := s.i.Sh(s.t, "ifquery --list --allow=ec2net 2>&1 >/dev/null"); out != "" {
		s.t.Errorf("after %q: ifupdown says %s", s.steps, out)
	}
}

func (s *sequence) struck(kill int) bool {
	if kill < 0 {
		return false
	}
	s.i.Sh(s.t, fmt.Sprintf("sleep %.3f; pkill -KILL -x 'ec2.*' || :", float64(kill)/1000))
	return true
}

func (s *sequence) attach(name string, kill int) {
	n := s.rng.IntN(len(s.spare))
	e := s.spare[n]
	s.spare = slices.Delete(s.spare, n, n+1)
	s.note("attach %s as %s, killed after %d ms", e.Addrs()[0], name, kill)
	e.Attach(s.t, name)
	s.at[name] = e
	switch {
	case s.struck(kill):
		delete(s.known, name) // they may be of either
	case s.known[name] == e:
		s.up(name) // whatever IMDS says
	case !s.ill:
		s.up(name)
		s.whole(name)
	}
}

func (s *sequence) detach(name string, kill int) {
	e := s.at[name]
	s.note("detach %s, killed after %d ms", name, kill)
	delete(s.at, name)
	delete(s.works, name)
	s.spare = append(s.spare, e)
	e.Detach(s.t)
	if !s.struck(kill) && !s.ill {
		s.gone(name)
	}
}

// gone waits until nothing is left of an interface but its files.
func (s *sequence) gone(name string) {
	s.t.Helper()
	s.i.WaitSh(s.t, fmt.Sprintf("! test -e /run/ec2net/%[1]s.up && ! ip rule | grep -q 'lookup 100%[2]s' && ! pgrep -f [d]hclient.%[1]s", name, name[3:]))
}

// renew runs the DHCP client's hook, as the client does.
func (s *sequence) renew(name string, kill int) {
	s.note("RENEW of %s, killed after %d ms", name, kill)
	script := hook + "hook RENEW"
	if kill >= 0 {
		script += fmt.Sprintf(" 2>/dev/null & sleep %.3f; pkill -KILL -x 'ec2.*' || :; wait", float64(kill%100)/1000)
	}
	script = strings.NewReplacer("interface=eth1", "interface="+name, "10.0.0.20", s.at[name].Addrs()[0]).Replace(script)
	run := func() {
		if out := s.i.Sh(s.t, script); out != "status 0\n" {
			s.t.Errorf("the hook says %s", out)
		}
	}
	run()
	if kill < 0 && !s.ill && s.works[name] != nil {
		s.i.WaitFor(s.t, "all of "+name+", renewed again if IMDS was not in time", func() bool {
			if s.has(name) {
				return true
			}
			run()
			return false
		})
		s.whole(name)
	}
}

// has reports whether an interface has the addresses that IMDS gives.
func (s *sequence) has(name string) bool {
	now := s.i.Sh(s.t, "ip -4 -oneline address show dev "+name)
	return !slices.ContainsFunc(s.at[name].Addrs(), func(a string) bool { return !strings.Contains(now, " "+a+"/") })
}

// readdress gives an ENI a secondary address in EC2, or takes it away.
func (s *sequence) readdress(e *lab.ENI) {
	if has := s.extra[e]; len(has) > 0 && s.rng.IntN(2) == 0 {
		s.note("EC2 takes %s away", has[0])
		e.Unassign(s.t, has[0])
		s.extra[e] = has[1:]
		return
	}
	a := e.Addrs()[0] + fmt.Sprint(1+s.rng.IntN(3)) // 10.0.0.20 has 10.0.0.201
	if !slices.Contains(s.extra[e], a) {
		s.note("EC2 gives %s", a)
		e.Assign(s.t, a)
		s.extra[e] = append(s.extra[e], a)
	}
}

var illnesses = []imds.Fault{hang, {Status: 401}, {Status: 403}, {Status: 404}, {Status: 429}, {Status: 503}, {Reset: true}, {Truncate: 3}}

func (s *sequence) imds() {
	if s.ill {
		s.heal()
		return
	}
	f := illnesses[s.rng.IntN(len(illnesses))]
	s.note("IMDS is ill: %+v", f)
	s.v.IMDS.Fault(f)
	s.ill = true
}

func (s *sequence) heal() {
	s.note("IMDS is well")
	s.v.IMDS.Heal()
	s.ill = false
	s.recover()
}

// recover brings a machine back after anything: a scan, and once more taking down the
// ENIs that were detached.
func (s *sequence) recover() {
	const quiet = "! pgrep -x 'ec2.*|ifup|ifdown'"
	s.note("scan")
	s.i.WaitSh(s.t, quiet)
	for _, name := range []string{"eth1", "eth2", "eth3"} {
		if s.at[name] == nil {
			s.i.Sh(s.t, "ec2ifdown "+name+" || test $? = 6") // it may never have been there
			s.gone(name)
		}
	}
	s.i.Sh(s.t, "ec2ifupscan; udevadm settle --timeout=30")
	s.i.WaitSh(s.t, quiet)
	for _, name := range slices.Sorted(maps.Keys(s.at)) {
		s.up(name)
		s.renew(name, -1)
	}
	s.i.WaitSh(s.t, quiet)
}

func (s *sequence) reboot() {
	s.note("reboot")
	clear(s.works)
	s.i.Crash(s.t)
	s.i.On(s.t)
	s.i.Echo(s.t, 7)
	for _, name := range slices.Sorted(maps.Keys(s.at)) {
		if s.known[name] == s.at[name] {
			s.up(name) // whatever IMDS says
		}
	}
}

// up fails unless an interface is up: its leased address answers.
func (s *sequence) up(name string) {
	s.t.Helper()
	waitUp(s.t, s.i, name)
	s.answer(name, s.at[name].Addrs()[:1])
	oneClient(s.t, s.i, name)
	s.works[name] = s.at[name]
}

// whole fails unless an interface has all that IMDS says.
func (s *sequence) whole(name string) {
	s.t.Helper()
	s.answer(name, s.at[name].Addrs())
	s.known[name] = s.at[name]
}

func (s *sequence) answer(name string, addrs []string) {
	s.t.Helper()
	for _, a := range addrs {
		if err := s.v.Client.TCP(a + ":7"); err != nil {
			s.t.Errorf("after %q: %s of %s does not answer: %v\n%s", s.steps, a, name, err, s.i.Trouble())
			return
		}
	}
}
