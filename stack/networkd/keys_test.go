package networkd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ec2net/facts"
	"ec2net/render"
	"ec2net/stack/networkd/unit"
)

// images are the versions of systemd in what people boot, and where.
var images = []struct {
	version int
	on      string
}{
	{245, "Ubuntu 20.04"},
	{247, "Debian 11"},
	{249, "Ubuntu 22.04"},
	{252, "Debian 12"},
	{255, "Ubuntu 24.04"},
	{257, "Debian 13"},
	{259, "Ubuntu 26.04"},
}

// key is a key of a section of systemd.network(5).
type key struct{ section, name string }

// sinceWhen reads testdata/keys.txt: the version of systemd since when each key is known.
func sinceWhen(t *testing.T) map[key]int {
	t.Helper()
	text, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	since := make(map[key]int)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var k key
		var version int
		if n, err := fmt.Sscanf(line, "%s %s %d\n", &k.section, &k.name, &version); n != 3 || err != nil || since[k] != 0 {
			t.Fatalf("testdata/keys.txt: %q: %v", line, err)
		}
		since[k] = version
	}
	return since
}

// unknown returns the keys in a file that a version of systemd would warn about and ignore.
func unknown(t *testing.T, since map[key]int, text string, version int) []string {
	t.Helper()
	all, err := unit.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, a := range all {
		if v, known := since[key{a.Section, a.Key}]; !known || v > version {
			found = append(found, fmt.Sprintf("[%s] %s", a.Section, a.Key))
		}
	}
	return found
}

// Every version of systemd in an image knows every key of the template.
func TestKeys(t *testing.T) {
	since := sinceWhen(t)
	templates, err := render.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	enis, err := facts.Examples(facts.DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../render/testdata/facts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no facts: %v", err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		more, err := facts.Decode(f, facts.DefaultNumbers)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		enis = append(enis, more...)
	}
	rendered := 0
	for _, e := range enis {
		all, err := templates.Render(t.Context(), render.Networkd, e, "network")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			rendered++
			for _, i := range images {
				if found := unknown(t, since, string(f.Content), i.version); len(found) > 0 {
					t.Errorf("%s, %s: systemd %d of %s does not know %q", e.Name, e.ID, i.version, i.on, found)
				}
			}
		}
	}
	if rendered < 10 {
		t.Errorf("%d files", rendered)
	}
}

// A key that a version does not know is found, and so is a section that is not in the table.
func TestUnknownKey(t *testing.T) {
	since := sinceWhen(t)
	for text, until := range map[string]int{ // the first version that knows it; 0: none does
		"[Match]\nMACAddress=02:00:00:00:01:20\n": 245,
		"[Link]\nGroup=1000\n":                    247,
		"[IPv6AcceptRA]\nRouteMetric=1001\n":      249,
		"[IPv6AcceptRA]\nUseGateway=no\n":         252,
		"[Network]\nIPv4ReversePathFilter=no\n":   255,
		"[Network]\nIPv4Forwarding=no\n":          257,
		"[DHCPv4]\nBOOTP=no\n":                    259,
		"[Network]\nDHCP=ipv4\nBaz=1\n":           0,
		"[Network]\ndhcp=ipv4\n":                  0,
		"[Network]\nRouteMetric=1001\n":           0,
		"[Network]\nIPForward=yes\n":              0,
		"[DHCP]\nUseDNS=no\n":                     0,
		"[Baz]\nDHCP=ipv4\n":                      0,
	} {
		for _, i := range images {
			knows := until != 0 && i.version >= until
			if found := unknown(t, since, text, i.version); (len(found) == 0) != knows || slices.Contains(found, "[Network] DHCP") {
				t.Errorf("%q, systemd %d: unknown are %q", text, i.version, found)
			}
		}
	}
}
