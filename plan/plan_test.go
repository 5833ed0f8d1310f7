package plan_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/rogpeppe/go-internal/txtar"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/render"
)

var update = flag.Bool("update", false, "write anew what the cases of testdata expect")

// TestPlan runs the cases of testdata, which testdata/README.md explains.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var shared string
			for i, section := range archive.Files {
				if section.Name == "machine" {
					shared = string(section.Data)
					continue
				}
				t.Run(section.Name, func(t *testing.T) {
					own, want, ok := strings.Cut(string(section.Data), "=>\n")
					if !ok {
						t.Fatal("there is no line =>")
					}
					m, err := read(shared, own)
					if err != nil {
						t.Fatal(err)
					}
					got := m.answers(t)
					archive.Files[i].Data = []byte(own + "=>\n" + got + "\n")
					if want = strings.TrimRight(want, "\n") + "\n"; got != want && !*update {
						t.Errorf("%s", diff.Diff("want", []byte(want), "got", []byte(got)))
					}
				})
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o666); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// answers returns the changes that the machine needs, or the answers to the questions of
// the case. It also checks what holds for every machine.
func (m *machine) answers(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, question := range m.asked {
		answer, err := m.answerTo(question)
		if err != nil {
			t.Fatalf("ask %s: %v", strings.Join(question, " "), err)
		}
		lines = append(lines, answer)
	}
	changes := m.holds(t)
	if m.asked == nil {
		for _, c := range changes {
			lines = append(lines, text(c))
		}
	}
	if lines == nil {
		return "nothing\n"
	}
	return strings.Join(lines, "\n") + "\n"
}

func text(c plan.Change) string {
	text := c.String()
	switch c := c.(type) {
	case plan.AddRoute:
		text += extra(c.Route)
	case plan.DelRoute:
		text += extra(c.Route)
	case plan.MoveRoute:
		text += extra(c.Route)
	}
	if c.Of() == "" {
		return text
	}
	return c.Of() + ": " + text
}

func extra(r plan.Route) string {
	if r.Extra == "" {
		return ""
	}
	return " extra " + r.Extra
}

func (m *machine) answerTo(question []string) (string, error) {
	asked, words := question[0], question[1:]
	about := func(name string) plan.Link {
		l, _ := m.State.LinkNamed(name)
		return l
	}
	verdicts, want := m.want()
	switch asked {
	case "judge":
		i := slices.IndexFunc(verdicts, func(v plan.Verdict) bool { return v.Name == words[0] })
		if i < 0 {
			return "", errors.New("nothing is known of it")
		}
		return words[0] + ": " + verdict(verdicts[i]), nil
	case "check":
		e, err := m.eni(words)
		if err != nil {
			return "", err
		}
		return said(m.Check(about(e.Name), e), e.Name+": believed"), nil
	case "distinct":
		e, err := m.eni(words)
		if err != nil {
			return "", err
		}
		return said(m.Distinct(e), e.Name+": distinct"), nil
	case "overtaken":
		e, err := m.eni(words)
		if err != nil {
			return "", err
		}
		return e.Name + map[bool]string{true: ": overtaken", false: ": not overtaken"}[m.Overtaken(e, m.then)], nil
	case "elsewhere":
		e := m.Elsewhere(about(words[0]))
		if e == nil {
			return words[0] + ": nothing known elsewhere", nil
		}
		return fmt.Sprintf("%s: %s, table %d, %v", e.Name, e.ID, e.Number, e.IPv4), nil
	case "marked":
		text := "marked:"
		for _, e := range m.Marked("") {
			text += fmt.Sprintf(" %s %v/%v", e.Name, e.Mark(), e.MarkMask)
		}
		return text, nil
	case "members":
		return "members:" + names(want.Members), nil
	case "enis":
		links := m.ENILinks()
		if len(words) > 0 { // those with one of these MACs
			var macs []facts.MAC
			for _, word := range words {
				mac, err := facts.ParseMAC(word)
				if err != nil {
					return "", err
				}
				macs = append(macs, mac)
			}
			links = plan.ENIsAmong(m.State.Links, macs)
		}
		return "enis:" + names(links), nil
	case "freed":
		return fmt.Sprintf("%s frees %v", words[0], m.Freed(words[0])), nil
	case "foreign":
		return "foreign:" + names(want.Foreign), nil
	case "waiting":
		text := "waiting:"
		for _, r := range want.Waiting(m.State) {
			text += "\n" + r.String()
		}
		return text, nil
	case "can-be-eni":
		return fmt.Sprintf("%s can be an ENI: %t", words[0], m.CanBeENI(about(words[0]))), nil
	case "primary":
		primary := m.Primary()
		if primary == (facts.MAC{}) {
			return fmt.Sprintf("primary: not known, counts as up: %t", m.PrimaryUp()), nil
		}
		return fmt.Sprintf("primary: %s, up: %t", primary, m.PrimaryUp()), nil
	case "moved":
		text := "moved:"
		for _, v := range m.Moved {
			text += fmt.Sprintf(" %s from %s to %s", v.Addr, v.From, v.To)
		}
		return text, nil
	case "scope":
		s := m.Scope(m.State.Links)
		return fmt.Sprintf("scope: tables %v, main by %v", s.Tables, s.Main), nil
	case "docker-there":
		return fmt.Sprintf("docker0 is stable: %t", m.DockerThere()), nil
	}
	return "", errors.New("no such question")
}

func said(err error, otherwise string) string {
	if err != nil {
		return err.Error()
	}
	return otherwise
}

func names(links []plan.Link) (text string) {
	for _, l := range links {
		text += " " + l.Name
	}
	return text
}

func verdict(v plan.Verdict) string {
	switch v.Do {
	case plan.Leave:
		return "leave"
	case plan.Rest:
		return "rest"
	case plan.Clear:
		return fmt.Sprintf("clear %v", v.Numbers)
	}
	lease := "unknown"
	if v.Lease.IsValid() {
		lease = v.Lease.String()
	}
	spare := map[plan.Spare]string{plan.SpareNone: "none", plan.SpareLive: "live", plan.SpareAll: "all"}[v.Spare]
	return fmt.Sprintf("serve %d, lease %s, spare %s", v.Facts.Number, lease, spare)
}

// The cases use the same rules as the built-in template renders.
func TestRulesAsRendered(t *testing.T) {
	templates, err := render.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	examples, err := facts.Examples(facts.DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		files, err := templates.Render(t.Context(), "", e, "rules")
		if err != nil {
			t.Fatal(err)
		}
		want, err := iprule.Parse(files[0].Content, e)
		if err != nil {
			t.Fatal(err)
		}
		if got := rendered(e); !slices.Equal(got, want) {
			t.Errorf("%s:\n%v\nwant:\n%v", e.Name, got, want)
		}
	}
}

// The text of a change is the command that would make it. Removes decides whether ec2net
// looks again afterwards.
func TestChanges(t *testing.T) {
	eth1 := plan.Link{Name: "eth1"}
	six := plan.Route{Table: 1001, Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1"), Protocol: iprule.Protocol}
	subnet := plan.Route{Table: iprule.MainTable, Dst: netip.MustParsePrefix("10.0.0.0/24"), Scope: 253}
	rule := iprule.Rule{Priority: 1001, From: netip.MustParsePrefix("2001:db8::1/128"), Table: 1001, SuppressPrefixLength: -1, SuppressGroup: -1}
	for _, c := range []struct {
		change  plan.Change
		text    string
		removes bool
	}{
		{plan.DropFlows{ENI: "eth1", Mark: 0x3e9, Mask: 0x3fff}, "eth1: conntrack -D --mark 0x3e9/0x3fff", true},
		{plan.MoveRoute{ENI: "eth1", Link: eth1, Route: subnet, Metric: 1001},
			"eth1: ip route append 10.0.0.0/24 dev eth1 metric 1001 && ip route del 10.0.0.0/24 dev eth1", false},
		{plan.AddRoute{ENI: "eth1", Link: eth1, Route: six}, "eth1: ip -6 route add default via fe80::1 dev eth1 table 1001 proto 236", false},
		{plan.AddRule{ENI: "eth1", Rule: rule}, "eth1: ip -6 rule add pref 1001 from 2001:db8::1 lookup 1001 protocol 0", false},
		{plan.SetGroup{Link: plan.Link{Name: "br-$(id)'s"}, Group: 1000}, `br-$(id)'s: ip link set dev 'br-$(id)'\''s' group 1000`, false},
		{plan.SetGroup{Link: eth1, Group: 1000}, "eth1: ip link set dev eth1 group 1000", false},
	} {
		if got := text(c.change); got != c.text || c.change.Removes() != c.removes {
			t.Errorf("%s, removes: %t", got, c.change.Removes())
		}
	}
}

// Two looks at a name saw the same device if MAC and index are the same.
func TestSameDevice(t *testing.T) {
	l := plan.Link{Name: "eth1", Index: 3, MAC: facts.MAC{2, 0, 0, 0, 1, 0x20}}
	up, again, other := l, l, l
	up.Up, up.Group = true, 1000
	again.Index = 7
	other.MAC[5]++
	if !l.Is(up) || l.Is(again) || l.Is(other) {
		t.Errorf("up %t, came again %t, another %t", l.Is(up), l.Is(again), l.Is(other))
	}
}
