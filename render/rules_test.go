package render

import (
	"strings"
	"testing"

	"ec2net/facts"
)

func eth1(t testing.TB) facts.ENI {
	t.Helper()
	enis, err := facts.Examples(facts.DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	return enis[0]
}

func TestParseRules(t *testing.T) {
	for line, want := range map[string]string{
		"rule add pref 1001 from 10.0.1.20 lookup 1001":                                            "pref 1001 from 10.0.1.20 lookup 1001 protocol 236",
		"rule add pref 1001 from 10.0.1.20/32 lookup 1001 protocol 236":                            "pref 1001 from 10.0.1.20 lookup 1001 protocol 236",
		"\trule  add lookup 1001 pref 1001 # why":                                                  "pref 1001 from all lookup 1001 protocol 236",
		"rule add pref 1001 from 0.0.0.0/0 to 10.0.0.0/8 lookup 1001":                              "pref 1001 from all to 10.0.0.0/8 lookup 1001 protocol 236",
		"rule add pref 1001 from all fwmark 0x3e9/0x3fff lookup 1001":                              "pref 1001 from all fwmark 0x3e9/0x3fff lookup 1001 protocol 236",
		"rule add pref 1001 fwmark 7 lookup 1001":                                                  "pref 1001 from all fwmark 0x7/0xffffffff lookup 1001 protocol 236",
		"rule add pref 1001 iif eth0 oif eth1.2 lookup 1001 suppress_prefixlength 0":               "pref 1001 from all iif eth0 oif eth1.2 lookup 1001 suppress_prefixlength 0 protocol 236",
		"# rule add pref 1 lookup 1":                                                               "",
		"":                                                                                         "",
		"rule add pref 1001 from 2001:db8::1 lookup 1001":                                          "! IPv6",
		"rule add from all lookup 1001":                                                            "! no pref",
		"rule add pref 1000 lookup 1001":                                                           "! pref 1000 is not the priority of eth1, 1001",
		"rule add pref 1001 lookup main":                                                           "! lookup: \"main\" is not a number",
		"rule add pref 1001 lookup 254":                                                            "! lookup 254 is not the table of eth1, 1001",
		"rule add pref 1001":                                                                       "! lookup 0 is not the table",
		"rule add pref 01001 lookup 1001":                                                          "! pref: \"01001\" is not a number",
		"rule add pref 1001 from 10.0.1.20/24 lookup 1001":                                         "! is not an address, a block or all",
		"rule add pref 1001 from eth0 lookup 1001":                                                 "! is not an address, a block or all",
		"rule add pref 1001 lookup 1001 protocol 4":                                                "! 4 is not ec2net's number, 236",
		"rule add pref 1001 lookup 1001 goto 5":                                                    "! \"goto\" is not a keyword",
		"rule add not pref 1001 lookup 1001":                                                       "! \"not\" is not a keyword",
		"rule add pref 1001 pref 1001 lookup 1001":                                                 "! pref is there twice",
		"rule add pref 1001 lookup":                                                                "! nothing follows lookup",
		"rule del pref 1001 lookup 1001":                                                           "! not a line of \"rule add\"",
		"link set eth1 down":                                                                       "! not a line of \"rule add\"",
		"rule add pref 1001 iif eth1;id lookup 1001":                                               "! iif: ",
		"rule add pref 1001 fwmark 0x4001/0x3fff lookup 1001":                                      "! has bits that the mask",
		"rule add pref 1001 fwmark 1/0 lookup 1001":                                                "! has bits that the mask",
		"rule add pref 1001 lookup 1001 suppress_prefixlength 33":                                  "! is not a number for this",
		"rule add pref 1001 lookup 1001\nrule add pref 1001 from all lookup 1001 protocol 236":     "! line 2 of the output, \"rule add pref 1001 from all lookup 1001 protocol 236\": the same rule is there twice",
		"rule add pref 1001 lookup 1001\\\nrule add pref 1001 from all lookup 1001 protocol 236\n": "! lookup",
	} {
		rules, err := ParseRules([]byte(line), eth1(t))
		switch refused, isError := strings.CutPrefix(want, "! "); {
		case isError:
			if err == nil || !strings.Contains(err.Error(), refused) {
				t.Errorf("%q: %v, %v; want an error with %q", line, rules, err, refused)
			}
		case err != nil:
			t.Errorf("%q: %v", line, err)
		case want == "" && len(rules) > 0, want != "" && (len(rules) != 1 || rules[0].String() != want):
			t.Errorf("%q: %v, want %q", line, rules, want)
		}
	}
}

// What is taken reads back as the same rules.
func FuzzParseRules(f *testing.F) {
	f.Add("rule add pref 1001 from 10.0.1.20 lookup 1001 protocol 236\nrule add pref 1001 fwmark 0x3e9/0x3fff iif a oif b to 10.0.0.0/8 lookup 1001 suppress_prefixlength 3")
	f.Fuzz(func(t *testing.T, script string) {
		e := eth1(t)
		rules, err := ParseRules([]byte(script), e)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, r := range rules {
			again.WriteString("rule add " + r.String() + "\n")
		}
		second, err := ParseRules([]byte(again.String()), e)
		if err != nil || len(second) != len(rules) {
			t.Fatalf("%q: %v", again.String(), err)
		}
		for i := range rules {
			if rules[i] != second[i] {
				t.Errorf("%v became %v", rules[i], second[i])
			}
		}
	})
}

// What is taken has the stanza that ifup will look for, and no line that
// interfaces(5) does not have.
func FuzzStanza(f *testing.F) {
	f.Add("auto eth1\niface eth1 inet dhcp\n  post-up a \\\n b\n")
	f.Add("iface eth1 inet dhcp\n\tmetric 1001\n# iface eth2\nmapping eth*\n script /x\n")
	f.Fuzz(func(t *testing.T, text string) {
		if checkStanza([]byte(text), eth1(t)) != nil {
			return
		}
		if !HasStanza([]byte(text), "eth1") || strings.Contains(text, "\x00") {
			t.Errorf("took %q", text)
		}
		for line := range logicalLines([]byte(text)) {
			if words := blanks(line.text); len(words) < 2 && words[0] != "mapping" {
				t.Errorf("took %q", line.text)
			}
		}
	})
}

// What is taken is, to iptables-restore(8), tables that are committed: what is
// outside of them, which it would not read, is nothing.
func FuzzFragment(f *testing.F) {
	f.Add("*mangle\n:ec2net-eth1 -\n-A ec2net-eth1 -j MARK --set-xmark 0x3e9/0x3fff\nCOMMIT\n")
	f.Add("# comment\n*mangle\nCOMMIT\n*nat\n-F\n")
	f.Fuzz(func(t *testing.T, text string) {
		if checkFragment([]byte(text), eth1(t)) != nil {
			return
		}
		open := 0
		for line := range strings.SplitSeq(text, "\n") {
			switch {
			case strings.HasPrefix(line, "*"):
				open++
			case line == "COMMIT":
				open--
			case strings.Trim(line, " \t") != "" && line[0] != '#' && open != 1:
				t.Errorf("took %q outside of a table", line)
			}
		}
		if open != 0 {
			t.Errorf("took %q", text)
		}
	})
}
