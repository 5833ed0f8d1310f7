package hooks

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ec2net/facts"
	"ec2net/render"
)

// broken is a template that does not render.
type broken struct{}

var errTemplate = errors.New("eth1.rules.tmpl:3: broken")

func (broken) Render(context.Context, render.Stack, facts.ENI, ...string) ([]render.File, error) {
	return nil, errTemplate
}

func (broken) Docker(context.Context, []facts.ENI, int) (render.File, error) {
	return render.File{}, errTemplate
}

// An administrator breaks a template. Every event reports it, and removes nothing: ec2net
// uses the rules that were rendered last.
func TestBrokenTemplate(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		whole := m.Templates
		m.Templates = broken{}
		event := func(reason string) {
			t.Helper()
			m.log = nil
			err := m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: reason, Address: addrs("10.0.1.20")[0]})
			if !errors.Is(err, errTemplate) || !strings.Contains(strings.Join(m.log, "\n"), "eth1: using the ip rules that were rendered last") {
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
		// For a new ENI there is nothing to fall back on.
		if err := m.Add(t.Context(), "eth2"); !errors.Is(err, errTemplate) {
			t.Errorf("add eth2: %v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth1"})

		// Without the script the leased address still has its rule.
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

// Taking an ENI down removes its rules, even if its facts are lost or the settings have
// changed since it came up.
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
				// The group rules have the old base's number; a new base needs a reboot.
				left := slices.DeleteFunc(m.rulesNow(t), func(r string) bool { return isGroupRule(r) && m.Numbers.Base != 1000 })
				same(t, "rules", left, nil)
				if m.file(t, notePath("eth1")) != "" {
					t.Error("counts as up")
				}
			})
		})
	}
}

// Unreadable facts count as none: ec2net asks IMDS, and overwrites them.
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

// Facts are lost, and IMDS is gone: rules and addresses stay.
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

// slowRules are templates that do not end for some interfaces.
type slowRules struct {
	Templates
	slow []string
}

func (s slowRules) Render(ctx context.Context, stack render.Stack, e facts.ENI, only ...string) ([]render.File, error) {
	if slices.Contains(s.slow, e.Name) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Templates.Render(ctx, stack, e, only...)
}

// The templates of several ENIs do not end. The event of another ENI waits for them once,
// and its rules come from its own template. The hooks of all ENIs end in time.
func TestSlowTemplates(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.Log, m.Kernel = quiet{}, m.kernel
		names := m.eight(t)
		for _, name := range names {
			check(t, m.Add(t.Context(), name))
			m.lease(t, name, "BOUND", leased(name).String())
		}
		before := m.rulesNow(t)
		m.Templates = slowRules{m.Templates, names[1:7]}
		event := func(name string, most time.Duration, says error) {
			t.Helper()
			// A new address, so that the answer of IMDS changes something.
			m.says(facts.MAC{2, 0, 0, 0, 8, name[3] - '0'}, func(e *facts.ENI) {
				e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, name[3] - '0', 30}))
			})
			start := time.Now()
			err := m.OnLease(t.Context(), Lease{name, "RENEW", leased(name)})
			if took := time.Since(start); !errors.Is(err, says) || took > most {
				t.Errorf("%s: %v, took %v", name, err, took)
			}
		}
		event("eth1", renderLimit, nil)
		event("eth8", renderLimit, nil)
		event("eth2", 3*renderLimit, context.DeadlineExceeded)
		for _, rule := range append(before, from1001("10.0.1.30"), "pref 1008 from 10.0.8.30 lookup 1008 protocol 236") {
			if !slices.Contains(m.rulesNow(t), rule) {
				t.Errorf("no rule %s", rule)
			}
		}
	})
}

// The template of an ENI is broken, and its last script is lost: no event removes a rule
// of it.
func TestRulesUnknown(t *testing.T) {
	for what, spoil := range map[string]func(*testing.T, *machine){
		"no script": func(t *testing.T, m *machine) { check(t, m.Tree.Remove("/var/lib/ec2net/eth2.rules")) },
		"damaged":   func(t *testing.T, m *machine) { m.put(t, "/var/lib/ec2net/eth2.rules", "\x00") },
		"a folder":  func(t *testing.T, m *machine) { m.unreadable(t, "/var/lib/ec2net/eth2.rules") },
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				check(t, m.Add(t.Context(), "eth2"))
				m.address(t, "eth2", "10.0.1.30/24")
				m.lease(t, "eth2", "BOUND", "10.0.1.30")
				before := m.rulesNow(t)
				spoil(t, m)
				m.Templates = brokenFor{m.Templates, "eth2"}
				m.lease(t, "eth1", "RENEW", "10.0.1.20")
				same(t, "rules", m.rulesNow(t), before)
				if err := m.OnLease(t.Context(), Lease{"eth2", "RENEW", addrs("10.0.1.30")[0]}); !errors.Is(err, errTemplate) {
					t.Errorf("%v", err)
				}
				same(t, "rules", m.rulesNow(t), before)
			})
		})
	}
}

type brokenFor struct {
	Templates
	name string
}

func (b brokenFor) Render(ctx context.Context, stack render.Stack, e facts.ENI, only ...string) ([]render.File, error) {
	if e.Name == b.name {
		return nil, errTemplate
	}
	return b.Templates.Render(ctx, stack, e, only...)
}
