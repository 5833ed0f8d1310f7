package unit

import (
	"fmt"
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

// What systemd.syntax(7) says of blanks, comments, and lines that go on.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"# a\n; b\n\n[Match]\n":               "",
		"[Match]\nName=eth1\n":                "2 Match Name=eth1\n",
		" [Match] \r\n\tName = eth1 x \r\n":   "2 Match Name=eth1 x\n",
		"[A]\nB=c \\\n  # d=e\n  f\n[G]\nH=i": "2 A B=c  f\n6 G H=i\n",
		"[A]\nB=\nB=c=d":                      "2 A B=\n3 A B=c=d\n",
		"[A]\nB=c\\":                          "2 A B=c\\\n",
		"[A]\nB=c\\ \nD=e":                    "2 A B=c\\\n3 A D=e\n",
		"[A]\nB=c\\\\\nD=e":                   "2 A B=c\\\\\n3 A D=e\n",
		"[A]\nB=c\\\r\nD=e":                   "2 A B=c D=e\n",
		"\ufeff[A]\nB=c":                      "2 A B=c\n",
		"[A]\n# \xe9\nB=c":                    "3 A B=c\n",
		"[A]\nB=\xe9\nC=d":                    "line 2 of the output, \"B=\\xe9\": not UTF-8",
		"[A]\nB=c\nD\n":                       `line 3 of the output, "D": neither`,
		"[A]\n=c\n":                           `line 2 of the output, "=c": neither`,
		"B=c\n":                               `line 1 of the output, "B=c": outside a section`,
		"\n[A\nB=c\n":                         `line 2 of the output, "[A": not a section`,
		"[]\nB=c\n":                           `line 1 of the output, "[]": not a section`,
	} {
		all, err := Parse([]byte(text))
		got := ""
		for _, a := range all {
			got += fmt.Sprintf("%d %s %s=%s\n", a.Line, a.Section, a.Key, a.Value)
		}
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want) || want == "") {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// The file of an ENI matches that ENI's device, and no other.
func TestCheck(t *testing.T) {
	const own = "02:00:00:00:01:20"
	for text, want := range map[string]string{
		"[Match]\nMACAddress=" + own + "\nName=eth1\n":                         "",
		"[Match]\nMACAddress=" + own + "\n":                                    "has no line Name=eth1",
		"[Match]\nMACAddress=" + own + "\nName=eth2\n":                         "does not match eth1",
		"[Match]\nMACAddress=" + own + "\nName=eth*\n":                         "a VLAN on eth1",
		"[Match]\nMACAddress=" + own + "\nName=!lo\n":                          "a VLAN on eth1",
		"[Match]\nPermanentMACAddress=02-00-00-00-01-20\nName=eth*\n":          "",
		"[Match]\nName=eth1\nMACAddress=" + own + "\nMACAddress=" + own + "\n": "",
		"[Match]\nMACAddress=02:00:00:00:00:99\n":                              "the file is for eth1",
		"[Match]\nMACAddress=" + own + " 02:00:00:00:00:99\n":                  "the file is for eth1",
		"[Match]\nMACAddress=eth1\n":                                           "the file is for eth1",
		"[Match]\nMACAddress=" + own + "\nMACAddress=\n":                       "has no line MACAddress",
		"[Match]\nName=eth1\n[Network]\nDHCP=ipv4\n":                           "has no line MACAddress",
		"[Network]\nMACAddress=" + own + "\n":                                  "has no line MACAddress",
		"[Match]\nMACAddress=" + own + "\n[Network]\nDHCP\n":                   "line 4 of the output",
		"MACAddress=" + own + "\n":                                             "outside a section",
	} {
		err := Check([]byte(text), eth1(t))
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Whatever the text, each assignment is one line's, in the order of lines.
func TestMatches(t *testing.T) {
	mac := facts.MAC{2, 0, 0, 0, 1, 0x20}
	for text, want := range map[string]bool{
		"[Match]\nName=eth1\n":                                                           true,
		"[Match]\nName=ens5 eth*\nDriver=ena\n":                                          true,
		"[Match]\nPermanentMACAddress=02:00:00:00:01:20\nName=eth1\n":                    true,
		"[Match]\nMACAddress=02:00:00:00:01:20\n":                                        true,
		"[Match]\nMACAddress=02:00:00:00:01:21\nName=eth1\n":                             false,
		"[Match]\nMACAddress=02:00:00:00:01:20\nName=eth2\n":                             false,
		"[Match]\nMACAddress=02:00:00:00:01:21\nMACAddress=02:00:00:00:01:20\n":          true,
		"[Match]\nMACAddress=02:00:00:00:01:20\nMACAddress=\nName=eth2\n":                false,
		"[Match]\nDriver=ena\n":                                                          false,
		"[Match]\nMACAddress=02:00:00:00:01:20\nPermanentMACAddress=02:00:00:00:01:21\n": false,
		"[Match]\nName=eth[!0]\n":                                                        true,
		"[Match]\nName=!eth0 lo\n":                                                       true,
		"[Match]\nName=!eth0 eth1\n":                                                     false,
		"[Match]\nName=eth*\nName=!eth1\n":                                               false,
		"[Match]\nName=eth1\nhello\n":                                                    true,
		"[Match]\nName=eth1\n[Network\n":                                                 false,
		"[Network]\nName=eth1\n":                                                         false,
		"":                                                                               false,
	} {
		if got := Matches([]byte(text), "eth1", mac); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func TestNames(t *testing.T) {
	mac := facts.MAC{2, 0, 0, 0, 1, 0x20}
	for text, want := range map[string]bool{
		"[Match]\nName=ens5 eth1\n":                          true,
		"[Match]\nMACAddress=02-00-00-00-01-20\n":            true,
		"[Match]\nName=eth*\n":                               false,
		"[Match]\nName=!eth1\n":                              false,
		"[Match]\nName=eth1\nMACAddress=02:00:00:00:01:21\n": false,
		"[Match]\nName=eth1\nType=ether\n":                   true,
		"[Match]\nName=eth1\nType=vlan\n":                    false,
		"[Match]\nName=eth1\nDriver=e1000\n":                 false,
		"[Match]\nName=eth1\nHost=!other\n":                  false,
		"[Match]\nName=eth1\n[Network]\nDHCP=yes\n":          true,
	} {
		if got := Names([]byte(text), "eth1", mac); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("[Match]\nMACAddress=02:00:00:00:01:20\n# c\n[Network]\nDHCP=ipv4 \\\n x\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Parse([]byte(text))
		if err != nil {
			return
		}
		last := 0
		for _, a := range all {
			if a.Line <= last || a.Section == "" || a.Key == "" || strings.ContainsAny(a.Key+a.Section, "\n=") && !strings.Contains(a.Section, "=") {
				t.Fatalf("%+v of %q", a, text)
			}
			last = a.Line
		}
		_ = Check([]byte(text), eth1(t))
	})
}
