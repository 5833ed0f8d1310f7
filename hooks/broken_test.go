package hooks

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"ec2net/facts"
	"ec2net/render"
)

// broken is a template that does not render.
type broken struct{}

var errTemplate = errors.New("eth1.rules.tmpl:3: broken")

func (broken) Render(context.Context, facts.ENI, ...string) ([]render.File, error) {
	return nil, errTemplate
}

func (broken) Docker(context.Context, []facts.ENI, int) (render.File, error) {
	return render.File{}, errTemplate
}

// A template that an administrator has broken is said at every turn, and takes
// nothing away: what was rendered last goes on.
func TestBrokenTemplate(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		whole := m.Templates
		m.Templates = broken{}
		event := func(reason string) {
			t.Helper()
			m.log = nil
			err := m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: reason, Address: addrs("10.0.1.20")[0]})
			if !errors.Is(err, errTemplate) || !strings.Contains(strings.Join(m.log, "\n"), "eth1: the rules are those that were rendered last") {
				t.Errorf("%s: %v\n%s", reason, err, strings.Join(m.log, "\n"))
			}
			same(t, "rules after "+reason, m.rulesNow(t), readyRules)
		}
		event("RENEW")
		m.lease(t, "eth1", "EXPIRE", "")
		same(t, "rules after EXPIRE", m.rulesNow(t), nil)
		event("BOUND")

		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "rules after unplug", m.rulesNow(t), nil)
		m.ran = nil
		if err := m.Add(t.Context(), "eth1"); !errors.Is(err, errTemplate) {
			t.Errorf("add: %v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth1"})
		// There is nothing to fall back on for an ENI that is new.
		if err := m.Add(t.Context(), "eth2"); !errors.Is(err, errTemplate) {
			t.Errorf("add eth2: %v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth1"})

		// Without the script the leased address has its rule.
		check(t, m.Tree.Remove("/var/lib/ec2net/eth1.rules"))
		err := m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: "BOUND", Address: addrs("10.0.1.20")[0]})
		if !errors.Is(err, errTemplate) || !slices.Contains(m.rulesNow(t), from1001("10.0.1.20")) {
			t.Errorf("%v\n%s", err, strings.Join(m.rulesNow(t), "\n"))
		}

		m.Templates = whole
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		for _, rule := range readyRules {
			if !slices.Contains(m.rulesNow(t), rule) {
				t.Errorf("no rule %s", rule)
			}
		}
	})
}

// The rules of what was brought up go with it, whatever has become of the facts
// and the settings meanwhile.
func TestDownWithoutFacts(t *testing.T) {
	for what, lose := range map[string]func(*machine){
		"another base":  func(m *machine) { m.Numbers.Base = 3000 },
		"corrupt facts": func(m *machine) { m.put(t, factsPath("eth1"), `[{"eni":`) },
		"empty facts":   func(m *machine) { m.put(t, factsPath("eth1"), "") },
		"no facts":      func(m *machine) { check(t, m.Tree.Remove(factsPath("eth1"))) },
		"another ENI's": func(m *machine) {
			m.put(t, factsPath("eth1"), strings.Replace(m.file(t, factsPath("eth1")), "02:00:00:00:01:20", "02:00:00:00:09:09", 1))
		},
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				lose(m)
				check(t, m.Remove(t.Context(), "eth1"))
				// The rule of all ENIs has the number of the base, which takes a reboot.
				left := slices.DeleteFunc(m.rulesNow(t), func(r string) bool { return r == group999 && m.Numbers.Base != 1000 })
				same(t, "rules", left, nil)
				if m.file(t, notePath("eth1")) != "" {
					t.Error("counts as up")
				}
			})
		})
	}
}

// Facts that cannot be read are as good as none: IMDS is asked, and has them
// written anew.
func TestCorruptFacts(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.put(t, factsPath("eth1"), "\x00\x00\x00")
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "rules", m.rulesNow(t), readyRules)
		if e, err := m.memory().facts("eth1"); err != nil || e.ID != "eni-1" {
			t.Errorf("%v, %v", e.ID, err)
		}
		m.put(t, factsPath("eth1"), "\x00\x00\x00")
		check(t, m.Add(t.Context(), "eth1"))
		if !slices.ContainsFunc(m.log, func(line string) bool { return strings.Contains(line, factsPath("eth1")) }) {
			t.Errorf("log:\n%s", strings.Join(m.log, "\n"))
		}
	})
}

// Facts are lost, and IMDS is gone: what there is stays.
func TestFactsLost(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Tree.Remove(factsPath("eth1")))
		m.vpc.err = errors.New("gone")
		for _, reason := range []string{"RENEW", "BOUND"} {
			m.lease(t, "eth1", reason, "10.0.1.20")
			same(t, "rules after "+reason, m.rulesNow(t), readyRules)
			same(t, "addresses after "+reason, m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		}
	})
}

func (m *machine) put(t *testing.T, path, text string) {
	t.Helper()
	_, err := m.Tree.Write(path, []byte(text))
	check(t, err)
}
