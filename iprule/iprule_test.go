package iprule

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

func TestParse(t *testing.T) {
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
		"rule add pref 1000 lookup 1001":                                                           "! pref 1000, but the priority of eth1 is 1001",
		"rule add pref 1001 lookup main":                                                           "! lookup: \"main\" is not a valid number",
		"rule add pref 1001 lookup 254":                                                            "! lookup 254, but the table of eth1 is 1001",
		"rule add pref 1001":                                                                       "! lookup 0, but the table",
		"rule add pref 01001 lookup 1001":                                                          "! pref: \"01001\" is not a valid number",
		"rule add pref 1001 from 10.0.1.20/24 lookup 1001":                                         "! is not an address, a block or all",
		"rule add pref 1001 from eth0 lookup 1001":                                                 "! is not an address, a block or all",
		"rule add pref 1001 lookup 1001 protocol 4":                                                "! 4, but ec2net's number is 236",
		"rule add pref 1001 lookup 1001 goto 5":                                                    "! \"goto\" is not a keyword",
		"rule add not pref 1001 lookup 1001":                                                       "! \"not\" is not a keyword",
		"rule add pref 1001 pref 1001 lookup 1001":                                                 "! pref appears twice",
		"rule add pref 1001 lookup":                                                                "! nothing follows lookup",
		"rule del pref 1001 lookup 1001":                                                           "! not a line of \"rule add\"",
		"link set eth1 down":                                                                       "! not a line of \"rule add\"",
		"rule add pref 1001 iif eth1;id lookup 1001":                                               "! iif: ",
		"rule add pref 1001 fwmark 0x4001/0x3fff lookup 1001":                                      "! has bits outside the mask",
		"rule add pref 1001 fwmark 1/0 lookup 1001":                                                "! has bits outside the mask",
		"rule add pref 1001 lookup 1001 suppress_prefixlength 33":                                  "! is not a valid number",
		"rule add pref 1001 lookup 1001\nrule add pref 1001 from all lookup 1001 protocol 236":     "! line 2 of the output, \"rule add pref 1001 from all lookup 1001 protocol 236\": the rule appears twice",
		"rule add pref 1001 lookup 1001\\\nrule add pref 1001 from all lookup 1001 protocol 236\n": "! lookup",
	} {
		rules, err := Parse([]byte(line), eth1(t))
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

// The text of rules that Parse accepts parses to the same rules.
func FuzzParse(f *testing.F) {
	f.Add("rule add pref 1001 from 10.0.1.20 lookup 1001 protocol 236\nrule add pref 1001 fwmark 0x3e9/0x3fff iif a oif b to 10.0.0.0/8 lookup 1001 suppress_prefixlength 3")
	f.Fuzz(func(t *testing.T, script string) {
		e := eth1(t)
		rules, err := Parse([]byte(script), e)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, r := range rules {
			again.WriteString("rule add " + r.String() + "\n")
		}
		second, err := Parse([]byte(again.String()), e)
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
