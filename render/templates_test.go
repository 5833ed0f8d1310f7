package render_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/facts"
	"ec2net/render"
)

// memory is an administrator's folder of templates, by file name.
type memory map[string]string

func (m memory) Names() ([]string, error) {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (m memory) Read(name string) ([]byte, error) {
	if text, ok := strings.CutPrefix(m[name], "refuse: "); ok {
		return nil, errors.New(text)
	}
	return []byte(m[name]), nil
}

func (m memory) Path(name string) string { return "/dir/" + name }

// renderWith renders one kind of file for the ENI of the case "one", under this name.
func renderWith(ctx context.Context, t *testing.T, m memory, name, kind string) (string, error) {
	t.Helper()
	templates, err := render.Load(m)
	if err != nil {
		return "", err
	}
	e, err := facts.Renamed(testCases(t)["one"][0], name, facts.DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	files, err := templates.Render(ctx, "", e, kind)
	if err != nil {
		return "", err
	}
	return string(files[0].Content), nil
}

func TestOverrides(t *testing.T) {
	all := memory{
		"ethN.iptables.tmpl": "# all {{.Name}}\n",
		"eth1.iptables.tmpl": "# one {{.Name}}\n",
	}
	for _, c := range []struct {
		name string
		m    memory
		want string
	}{
		{"eth1", all, "# one eth1\n"},
		{"eth2", all, "# all eth2\n"},
		{"eth1", memory{"eth1.iptables.tmpl": "# {{.Template}} {{.Chain}} {{.Path \"rules\"}}"}, "# /dir/eth1.iptables.tmpl ec2net-eth1 /var/lib/ec2net/eth1.rules"},
		{"eth1", memory{"ethN.iptables.tmpl": "# {{template \"x\" .}}{{define \"x\"}}{{.Index}}{{end}}"}, "# 1"},
		// blocks.tmpl can redefine a block of an administrator's own template too.
		{"eth1", memory{"ethN.iptables.tmpl": "# {{block \"own\" .}}{{end}}", "blocks.tmpl": "{{define \"own\"}}mine{{end}}"}, "# mine"},
		// A template does not see the definitions of another one.
		{"eth1", memory{"ethN.iptables.tmpl": "{{define \"x\"}}a{{end}}# {{template \"x\"}}", "ethN.iptables-down.tmpl": "{{define \"x\"}}b{{end}}"}, "# a"},
	} {
		got, err := renderWith(t.Context(), t, c.m, c.name, "iptables")
		if err != nil || got != c.want {
			t.Errorf("%s with %v: %q, %v; want %q", c.name, c.m, got, err, c.want)
		}
	}
}

// A block adds its line to the built-in template. The rendered file says where the line
// comes from.
func TestBlocks(t *testing.T) {
	plain, err := renderWith(t.Context(), t, nil, "eth1", "cfg")
	if err != nil {
		t.Fatal(err)
	}
	m := memory{"blocks.tmpl": `{{define "cfg-post-up"}}
    post-up logger {{template "who" .}}{{end}}
{{define "who"}}{{.Name}}{{end}}`}
	got, err := renderWith(t.Context(), t, m, "eth1", "cfg")
	if err != nil {
		t.Fatal(err)
	}
	got = strings.Replace(got, " and /dir/blocks.tmpl.", ".", 1)
	if want := strings.Replace(got, "    post-up logger eth1\n", "", 1); want == got || want != plain {
		t.Errorf("not the default plus a line:\n%s", got)
	}
	if rules, err := renderWith(t.Context(), t, m, "eth1", "rules"); err != nil || strings.Contains(rules, "blocks.tmpl") {
		t.Errorf("blocks.tmpl is named where it changes nothing: %v\n%s", err, rules)
	}
}

// Every block of the built-in templates is empty, and has an effect when redefined.
func TestEveryBlock(t *testing.T) {
	blocks := render.DefaultBlocks()
	if len(blocks) < 5 {
		t.Fatalf("only %v", blocks)
	}
	for _, b := range blocks {
		kind, _, _ := strings.Cut(b, "-")
		m := memory{"blocks.tmpl": fmt.Sprintf("{{define %q}}\n# here\n{{end}}", b)}
		if kind == "docker" {
			templates, err := render.Load(m)
			if err != nil {
				t.Fatal(err)
			}
			f, err := templates.Docker(t.Context(), testCases(t)["same-subnet"], 1000)
			if err != nil || !strings.Contains(string(f.Content), "# here") || f.Path != "/var/lib/ec2net/docker.iptables" {
				t.Errorf("%s: %v\n%s", b, err, f.Content)
			}
			continue
		}
		got, err := renderWith(t.Context(), t, m, "eth1", kind)
		if err != nil || !strings.Contains(got, "# here") {
			t.Errorf("%s: %v\n%s", b, err, got)
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		m    memory
		kind string
		want string // in the message
		hint string // in the hint
	}{
		{"syntax", memory{"ethN.cfg.tmpl": "a\nb {{if}}"}, "cfg", "cannot render eth1.cfg: /dir/ethN.cfg.tmpl:2: missing value for if", ""},
		{"not closed", memory{"eth1.cfg.tmpl": "a\n{{.Name"}, "cfg", "/dir/eth1.cfg.tmpl:2: unclosed action", ""},
		{"field", memory{"ethN.cfg.tmpl": "\n\n{{.Nmae}}"}, "cfg", "/dir/ethN.cfg.tmpl:3:2: executing \"/dir/ethN.cfg.tmpl\" at <.Nmae>: can't evaluate field Nmae", "help templates"},
		{"key", memory{"ethN.cfg.tmpl": `{{(dict "a" 1).b}}`}, "cfg", "map has no entry for key \"b\"", ""},
		{"function", memory{"ethN.cfg.tmpl": "{{frobnicate}}"}, "cfg", "function \"frobnicate\" not defined", "help templates"},
		{"environment", memory{"ethN.cfg.tmpl": `{{env "HOME"}}`}, "cfg", "function \"env\" not defined", ""},
		{"clock", memory{"ethN.cfg.tmpl": `{{now}}`}, "cfg", "function \"now\" not defined", ""},
		{"chance", memory{"ethN.cfg.tmpl": `{{randInt 0 9}}`}, "cfg", "function \"randInt\" not defined", ""},
		{"fail", memory{"ethN.cfg.tmpl": `{{fail "not here"}}`}, "cfg", "not here", ""},
		{"recursion", memory{"ethN.cfg.tmpl": `{{define "x"}}{{template "x"}}{{end}}{{template "x"}}`}, "cfg", "exceeded maximum template depth", ""},
		{"endless", memory{"ethN.cfg.tmpl": `{{range 9000000000000000000}}{{end}}`}, "cfg", "/dir/ethN.cfg.tmpl: the template did not end in time", ""},
		{"100 MB", memory{"ethN.cfg.tmpl": `{{range 100}}{{repeat 1000000 "x"}}{{end}}`}, "cfg", "the output is longer than 1048576 bytes", ""},
		{"100 MB in lines", memory{"ethN.cfg.tmpl": "{{range 100000000}}x\n{{end}}"}, "cfg", "the output is longer than", ""},
		{"text that doubles", memory{"ethN.cfg.tmpl": `{{$x := repeat 1000 "x"}}{{range 100}}{{$x = print $x $x}}{{end}}`}, "cfg", "made more than 16 MiB", ""},
		{"long sequence", memory{"ethN.cfg.tmpl": `{{$x := seq 1 60000000}}`}, "cfg", "seq: a number beyond 65536", ""},
		{"text times a list", memory{"ethN.cfg.tmpl": `{{$s := repeat 65536 "x"}}{{$x := join $s (until 20000)}}`}, "cfg", "made more than 16 MiB", ""},
		{"deep indent", memory{"ethN.cfg.tmpl": `{{$x := indent 2000000000 "x"}}`}, "cfg", "made more than 16 MiB", ""},
		{"dict that doubles", memory{"ethN.cfg.tmpl": `{{$d := dict}}{{range 100}}{{$d = dict "a" $d "b" $d}}{{end}}{{toJson $d}}`}, "cfg", "made more than 16 MiB", ""},
		{"function in an endless loop", memory{"ethN.cfg.tmpl": `{{range 9000000000000000000}}{{$x := repeat 1000 "x"}}{{end}}`}, "cfg", "made more than 16 MiB", ""},
		{"unreadable", memory{"ethN.cfg.tmpl": "refuse: not trusted"}, "cfg", "cannot render eth1.cfg: /dir/ethN.cfg.tmpl: not trusted", ""},
		{"blocks unreadable", memory{"blocks.tmpl": "refuse: not trusted"}, "cfg", "cannot use /dir/blocks.tmpl: not trusted", ""},
		{"blocks syntax", memory{"blocks.tmpl": "\n{{define}}"}, "cfg", "/dir/blocks.tmpl:2: ", ""},
		{"block misspelt", memory{"blocks.tmpl": `{{define "cfg-postup"}}x{{end}}`}, "cfg", "no template has a block \"cfg-postup\"", "cfg-post-up"},
		{"text between blocks", memory{"blocks.tmpl": "post-up id\n"}, "cfg", "has no effect", ""},
		{"field in block", memory{"blocks.tmpl": "{{define \"cfg-post-up\"}}\n{{.Nmae}}{{end}}"}, "cfg", "/dir/blocks.tmpl:2:2: ", "help templates"},
		{"bare EC2SYNC", memory{"ethN.cfg.tmpl": "EC2SYNC=no\niface eth1 inet dhcp\n"}, "cfg", `line 1 of the output, "EC2SYNC=no": not allowed outside a stanza`, "interfaces(5)"},
		{"EC2SYNC in a comment", memory{"ethN.network.tmpl": "# EC2SYNC=no\n[Match]\nMACAddress={{.MAC}}\nName={{.Name}}\n"}, "network", "the output says EC2SYNC=no", "EC2NET_UNMANAGED"},
		{"other stanza", memory{"ethN.cfg.tmpl": "iface eth9 inet dhcp\n"}, "cfg", "there is no stanza \"iface eth1 ...\"", ""},
		{"option without value", memory{"blocks.tmpl": "{{define \"cfg-options\"}}\n    hostname\n{{end}}"}, "cfg", `"hostname": an option without a value`, ""},
		{"unknown family", memory{"ethN.cfg.tmpl": "iface eth1 bogus dhcp\n"}, "cfg", "no method dhcp of the family bogus", ""},
		{"unknown method", memory{"ethN.cfg.tmpl": "iface eth1 inet bogus\n"}, "cfg", "no method bogus of the family inet", ""},
		{"half a stanza", memory{"ethN.cfg.tmpl": "iface eth1 inherits\n"}, "cfg", "iface takes a name", ""},
		{"mapping", memory{"ethN.cfg.tmpl": "mapping eth0\n  foo bar\niface eth1 inet dhcp\n"}, "cfg", "line 2 of the output, \"foo bar\": a mapping has only script and map", ""},
		{"option twice", memory{"blocks.tmpl": "{{define \"cfg-options\"}}\n    metric 5\n{{end}}"}, "cfg", `"metric 5": this option appears twice`, ""},
		{"NUL", memory{"ethN.cfg.tmpl": "iface eth1 inet dhcp\n# \x00\n"}, "cfg", "NUL byte", ""},
		{"no fragment", memory{"ethN.iptables.tmpl": "total garbage"}, "iptables", `line 1 of the output, "total garbage": outside a table`, "iptables-restore(8)"},
		{"half a fragment", memory{"ethN.iptables.tmpl": "*mangle\n-A x"}, "iptables", "there is no COMMIT after *mangle", ""},
		{"garbage in a fragment", memory{"blocks.tmpl": "{{define \"iptables-rules\"}}\nrm -rf\n{{end}}"}, "iptables", "neither a chain", ""},
		{"no-break space in a rule", memory{"ethN.rules.tmpl": "rule add pref 1001\u00a0from 10.0.0.1 lookup 1001\n"}, "rules", "pref: ", ""},
		{"rule of another table", memory{"blocks.tmpl": "{{define \"rules\"}}\nrule add pref 1001 from 10.9.9.9 lookup 254\n{{end}}"}, "rules", "lookup 254, but the table of eth1 is 1001", "pref 1001"},
		{"command as rule", memory{"ethN.rules.tmpl": "link set eth1 down\n"}, "rules", `not a line of "rule add"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			if c.name == "endless" {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
			}
			got, err := renderWith(ctx, t, c.m, "eth1", c.kind)
			var known *render.Error
			if !errors.As(err, &known) {
				t.Fatalf("%.200q, %v", got, err)
			}
			if !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if !strings.Contains(known.Hint(), c.hint) {
				t.Errorf("hint %q does not say %q", known.Hint(), c.hint)
			}
		})
	}
}

// A template that is given up ends at the next function that it calls.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := memory{"ethN.cfg.tmpl": `{{range 9000000000000000000}}{{list}}{{end}}`}
		cancel()
		if _, err := renderWith(ctx, t, m, "eth1", "cfg"); err == nil || !strings.Contains(err.Error(), "in time") {
			t.Error(err)
		}
		// The bubble waits for all its goroutines, so each of them ends.
	})
}

// Render returns all files of an ENI, or none.
func TestAllOrNone(t *testing.T) {
	templates, err := render.Load(memory{"ethN.rules.tmpl": "{{.Nmae}}"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := templates.Render(t.Context(), render.Ifupdown, testCases(t)["one"][0])
	if err == nil || files != nil {
		t.Errorf("%d files, %v", len(files), err)
	}
}

func TestListAndText(t *testing.T) {
	templates, err := render.Load(memory{"eth1.cfg.tmpl": "a", "ethN.rules.tmpl": "b", "ethN.rule.tmpl": "c", "README": "d", "a b.cfg.tmpl": "e"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range templates.List() {
		got = append(got, row.Name+", "+row.For+", "+row.From)
	}
	want := []string{"ethN.cfg.tmpl, every ENI, by ifupdown, built in", "eth1.cfg.tmpl, eth1, /dir/eth1.cfg.tmpl",
		"ethN.network.tmpl, every ENI, by networkd, built in", "ethN.iptables.tmpl, every ENI, built in",
		"ethN.iptables-down.tmpl, every ENI, built in", "ethN.rules.tmpl, every ENI, /dir/ethN.rules.tmpl", "docker.iptables.tmpl, the host, built in"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if u := templates.Unused(); !slices.Equal(u, []string{"/dir/a b.cfg.tmpl", "/dir/ethN.rule.tmpl"}) {
		t.Errorf("%q", u)
	}
	for name, want := range map[string]string{"rules": "b", "ethN.rules.tmpl": "b", "eth1.cfg.tmpl": "a"} {
		if text, err := templates.Text(name); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if _, err := templates.Text("../render.go"); err == nil {
		t.Error("showed a file that is no template")
	}
}
