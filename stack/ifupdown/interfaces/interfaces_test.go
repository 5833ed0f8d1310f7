package interfaces

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                nil,
		"\n \t\n# comment\n  # another\n": nil,
		"auto eth1\n\n  iface eth1 \n":    {"1:auto eth1", "3:iface eth1"},
		"up a \\\n  b\nup c":              {"1:up a   b", "3:up c"},
		"up a\\\nb":                       {"1:up ab"},
		"up a\\\\\nb":                     {`1:up a\b`},
		"up a\\ \nup b":                   {`1:up a\`, "2:up b"},
		"\\\nauto eth1":                   {"1:auto eth1"},
		"\\\n# no comment here":           {"1:# no comment here"},
		"# a comment does not go on \\\nauto eth1": {"2:auto eth1"},
		"up a \\\n# b\n":                      {"1:up a # b"},
		"up a\\\n\nup b":                      {"1:up a", "3:up b"},
		"up at the end\\":                     {"1:up at the end"},
		"auto eth1\r\n\v\f\r\niface eth1\r\n": {"1:auto eth1", "3:iface eth1"},
	} {
		var got []string
		for line := range Lines([]byte(text)) {
			got = append(got, fmt.Sprintf("%d:%s", line.Number, line.Text))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for line := range Lines([]byte("a\nb\n")) {
		if line.Text != "a" {
			t.Errorf("went on to %q", line.Text)
		}
		break
	}
}

func TestStanzas(t *testing.T) {
	for _, c := range []struct {
		text      string
		has, dhcp bool
	}{
		{"iface eth1 inet dhcp\n", true, true},
		{"\tiface\teth1\tinet\tdhcp\r\n", true, true},
		{"iface \\\n eth1 inet \\\n dhcp", true, true},
		{"iface eth1 inet static\niface eth1 inet dhcp\n", true, true},
		{"iface eth1 inet6 dhcp\n", true, false},
		{"iface eth1 inet manual\n", true, false},
		{"iface eth1\n", true, false},
		{"iface eth10 inet dhcp\n", false, false},
		{"auto eth1\nmapping eth1\n", false, false},
		{"# iface eth1 inet dhcp\n", false, false},
		{"  up iface eth1 inet dhcp\n", false, false},
		{"", false, false},
	} {
		if got := Has([]byte(c.text), "eth1"); got != c.has {
			t.Errorf("%q: has a stanza: %t", c.text, got)
		}
		if got := DHCP([]byte(c.text), "eth1"); got != c.dhcp {
			t.Errorf("%q: asks for a client: %t", c.text, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		"auto eth1\niface eth1 inet dhcp\n  metric 1001\n  up a\n  up b\n": "",
		"mapping eth*\n  script /x\n  map a\niface eth1 inet manual\n":     "",
		"allow-ec2net eth1\nsource /x\niface eth1 inet6 auto\n":            "",
		"iface eth1 inet dhcp\x00\n":                                       "a NUL byte",
		"iface eth2 inet dhcp\n":                                           `there is no stanza "iface eth1 ..."`,
		"":                                                                 "there is no stanza",
		"iface eth1 inet\n":                                                "iface takes a name, an address family and a method",
		"iface eth1 inherits base\n":                                       "ifupdown has no method",
		"iface eth1 inet4 dhcp\n":                                          "ifupdown has no method dhcp of the family inet4",
		"iface eth1 inet slip\n":                                           "ifupdown has no method slip",
		"\n\n  metric 1\n":                                                 `line 3 of the output, "metric 1": not allowed outside a stanza`,
		"iface eth1 inet dhcp\nauto lo\n  metric 1\n":                      "line 3 of the output",
		"auto\n":                           "auto takes a name",
		"allow- eth1\n":                    "not allowed outside a stanza",
		"iface eth1 inet dhcp\n  metric\n": "an option without a value",
		"iface eth1 inet dhcp\n  metric 1\n  metric 2\n": "this option appears twice",
		"mapping eth*\n  metric 1\n":                     "a mapping has only script and map",
	} {
		err := Check([]byte(text), "eth1")
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// The files that a line sources, by the rules of wordexp(3). The package above tests
// the same against the real ifupdown.
func TestSources(t *testing.T) {
	for line, want := range map[string]string{
		"source /a/* /b":           "pattern /a/*, /b",
		"source a/*.cfg b":         "pattern /etc/network/a/*.cfg, /b",
		"source-directory d":       "folder /etc/network/d",
		"source-dir /d/*":          "folder pattern /d/*",
		"source":                   "/etc/network/",
		`source /'a b'/"c d"/e\ f`: "/a b/c d/e f",
		`source "/a"`:              "/etc/network//a", // it does not begin with a slash,
		`source /a"b`:              "nothing",
		`source /a'b`:              "nothing",
		`source /a\`:               "/a", // goes on where the file ends
		`source /a '' "" b`:        "/a, /, /, /b",
		`source /"*" /'?' /\[`:     "/*, /?, /[",
		`source /'*'x*`:            "pattern /*x*", // so it is in the GNU C library
		`source /*"a b`:            "pattern /*a, /b",
		`source /*'$X'`:            "pattern /*$X",
		`source /*"\a\$"\b`:        `pattern /*\a$b`,
		`source /*;x`:              "pattern /*;x",
		"source /a;x":              "nothing",
		"source /a (b)":            "nothing",
		"source /{a,b}":            "nothing",
		"source /`a`":              "nothing",
		"source /\"`a`\"":          "nothing",
		"source /$(a)":             "nothing",
		"source /*$(a)":            "nothing",
		"source /$((1))":           "unclear",
		"source /$X":               "unclear",
		`source /"${X}"`:           "unclear",
		"source /a $X/b":           "unclear",
		"source /*$X":              "unclear",
		"source ~/a":               "/etc/network/~/a", // it is not the word's beginning
		"source /a ~/b":            "unclear",
		"source /a b~":             "/a, /b~",
		`source /"a$" /'$c' /b$`:   "/a$, /$c, /b$",
		`source /"a\b\"\$\\"`:      `/a\b"$\`,
		"source /a#b # c":          "/a#b, /#, /c",
		"sources /a":               "no source",
		"  source \\\n\t/a":        "/a",
	} {
		var got []string
		found := Sources(Main, []byte(line))
		for _, s := range found {
			if s.Folders {
				got = append(got, "folder ")
			}
			if s.Unclear {
				got = append(got, "unclear")
			} else if len(s.Patterns) == 0 {
				got = append(got, "nothing")
			}
			for i, p := range s.Patterns {
				if i > 0 {
					got = append(got, ", ")
				}
				if p.Glob {
					got = append(got, "pattern ")
				}
				got = append(got, p.Path)
			}
		}
		if len(found) == 0 {
			got = append(got, "no source")
		}
		if s := strings.Join(got, ""); s != want {
			t.Errorf("%q: %q, want %q", line, s, want)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"*", []string{"a", "eth1.cfg"}, []string{".a"}},
		{"*.cfg", []string{"eth1.cfg", "a.cfg.cfg"}, []string{"eth1.cfg~", "cfg", ".cfg"}},
		{"e*1*g", []string{"eth1.cfg", "e11g"}, []string{"eth2.cfg", "e1"}},
		{"eth?.cfg", []string{"eth1.cfg"}, []string{"eth10.cfg", "eth.cfg"}},
		{"eth[0-9]", []string{"eth0", "eth9"}, []string{"etha", "eth", "eth10"}},
		{"eth[!0-2]", []string{"eth3", "eth-"}, []string{"eth1"}},
		{"eth[^0-2]", []string{"eth3"}, []string{"eth1"}},
		{"[]a]", []string{"]", "a"}, []string{"[", "b"}},
		{"[a-]", []string{"a", "-"}, []string{"b"}},
		{`[\]-a]`, []string{"]", "_", "a"}, []string{`\`, "-"}},
		{"[[:digit:]x]", []string{"1", "x"}, []string{"y", ":"}},
		{"[![:alpha:]]", []string{"1"}, []string{"a", "Z"}},
		{"[[:nothing:]]", nil, []string{"a", "n"}},
		{"[[:xdigit:][:blank:]]", []string{"f", "A", " "}, []string{"g"}},
		{"[[:punct:]]", []string{"-", "~"}, []string{"a", " "}},
		{"[a", []string{"[a"}, []string{"a"}},
		{`\*`, []string{"*"}, []string{"a", `\*`}},
		{`\`, []string{`\`}, []string{"a"}},
		{".*", []string{".a", "."}, []string{"a"}},
		{`\.a`, []string{".a"}, nil},
		{"[.]a", nil, []string{".a"}},
		{"?a", nil, []string{".a"}},
		{"", []string{""}, []string{"a"}},
	} {
		for _, name := range c.yes {
			if !Match(c.pattern, name) {
				t.Errorf("%s does not match %q", c.pattern, name)
			}
		}
		for _, name := range c.no {
			if Match(c.pattern, name) {
				t.Errorf("%s matches %q", c.pattern, name)
			}
		}
	}
}

func TestMatchPath(t *testing.T) {
	for pattern, want := range map[string]bool{
		"/etc/network/interfaces.d": true, "/e*//net?ork/*.d/": true, "/*/*": false, "/etc/network/more": false, "/*/*/*/*": false, "": false,
	} {
		if got := MatchPath(pattern, Folder); got != want {
			t.Errorf("%s: %t", pattern, got)
		}
	}
}

func TestPlainName(t *testing.T) {
	for name, want := range map[string]bool{"eth1": true, "A_b-9": true, "eth1.cfg": false, "eth1~": false, "": false, "é": false} {
		if got := PlainName(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// A text that Check takes has the stanza that ifup looks for, and only lines of
// interfaces(5).
func FuzzCheck(f *testing.F) {
	f.Add("auto eth1\niface eth1 inet dhcp\n  post-up a \\\n b\n")
	f.Add("iface eth1 inet dhcp\n\tmetric 1001\n# iface eth2\nmapping eth*\n script /x\n")
	f.Fuzz(func(t *testing.T, text string) {
		if Check([]byte(text), "eth1") != nil {
			return
		}
		if !Has([]byte(text), "eth1") || strings.Contains(text, "\x00") {
			t.Errorf("took %q", text)
		}
		for line := range Lines([]byte(text)) {
			if words := line.words(); len(words) < 2 && words[0] != "mapping" {
				t.Errorf("took %q", line.Text)
			}
		}
	})
}

// Whatever is in a file: reading it ends, a line has a word, a pattern begins at the
// root.
func FuzzSources(f *testing.F) {
	f.Add("source a/* \\\n 'b c'\"$X\"\nsource-dir \\")
	f.Add("source /*['\" ~`$(\n")
	f.Fuzz(func(t *testing.T, text string) {
		for line := range Lines([]byte(text)) {
			if len(line.words()) == 0 || strings.Contains(line.Text, "\n") {
				t.Errorf("line %d: %q", line.Number, line.Text)
			}
		}
		for _, s := range Sources(Main, []byte(text)) {
			for _, p := range s.Patterns {
				if !strings.HasPrefix(p.Path, "/") || s.Unclear {
					t.Errorf("%q: %+v", text, s)
				}
			}
		}
	})
}

// A name with all its characters escaped is a pattern that matches it.
func FuzzMatch(f *testing.F) {
	f.Add("eth1.cfg", "*")
	f.Add("[]", "[!]a-z[:digit:]]")
	f.Fuzz(func(t *testing.T, name, pattern string) {
		Match(pattern, name)
		quoted := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
		if !Match(quoted, name) {
			t.Errorf("%q does not match %q", quoted, name)
		}
		if !Match(quoted+"*", name) || (!strings.HasPrefix(name, ".") && !Match("*", name)) {
			t.Errorf("* does not match %q", name)
		}
	})
}

func TestUpCommands(t *testing.T) {
	const cfg = `up outside
auto eth1
iface eth1 inet dhcp
    metric 1001
    pre-up a
    up  b  c
    post-up d \
        e
    # post-up comment
    down f
    post-up   ` + `
auto eth2
    up g
iface eth2 inet dhcp
    up h
iface eth1 inet6 manual
	post-up	i || true
`
	if got, want := UpCommands([]byte(cfg), "eth1"), []string{"b  c", "d         e", "", "i || true"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLoose(t *testing.T) {
	const line = "post-up echo 2 >/proc/sys/net/ipv4/conf/eth1/rp_filter"
	for cfg, want := range map[string]bool{
		line + " || true\n":               true,
		line + "\n":                       true,
		line + "\n" + line + " || true\n": true,
		"":                                false,
		"pre-" + strings.TrimPrefix(line, "post-"):                      false,
		strings.Replace(line, "2", "1", 1):                              false,
		strings.Replace(line, "eth1", "all", 1):                         false,
		line + "\npost-up sysctl -w net.ipv4.conf.eth1.rp_filter=1":     false,
		"post-up test -e /x && " + strings.TrimPrefix(line, "post-up "): false,
	} {
		if got := Loose([]byte("iface eth1 inet dhcp\n"+cfg), "eth1"); got != want {
			t.Errorf("%q: %t", cfg, got)
		}
	}
	if Loose([]byte("iface eth2 inet dhcp\n"+line+"\n"), "eth1") {
		t.Error("it is a line of eth2")
	}
}

func TestNoIPv6(t *testing.T) {
	const line = "pre-up echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/eth1/disable_ipv6"
	for cfg, want := range map[string]bool{
		line + " || true\n": true,
		line + "\npost-up ip route replace default via 10.0.1.1 dev eth1 table 1001\npost-down echo 0 >/proc/sys/net/ipv6/conf/eth1/disable_ipv6\n": true,
		"":                                      false,
		strings.Replace(line, "1", "0", 1):      false,
		strings.Replace(line, "eth1", "all", 1): false,
		"post-down" + strings.TrimPrefix(line, "pre-up"):                             false,
		line + "\npre-up echo 0 >/proc/sys/net/ipv6/conf/eth1/disable_ipv6":          false,
		line + "\npost-up sysctl -w net.ipv6.conf.eth1.accept_ra=2":                  false,
		line + "\npost-up ip -6 address add 2001:db8::20/128 dev eth1":               false,
		line + "\niface eth1 inet6 auto\n":                                           false,
		line + "\niface eth2 inet6 auto\npost-up ip -6 route add default dev eth2\n": true,
	} {
		if got := NoIPv6([]byte("iface eth1 inet dhcp\n"+cfg), "eth1"); got != want {
			t.Errorf("%q: %t", cfg, got)
		}
	}
	if NoIPv6([]byte("iface eth2 inet dhcp\n"+line+"\n"), "eth1") {
		t.Error("it is a line of eth2")
	}
}
