package render_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"ec2net/facts"
	"ec2net/render"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testCases returns the facts in the files of testdata/facts, each of one or more ENIs.
func testCases(t testing.TB) map[string][]facts.ENI {
	t.Helper()
	paths, err := filepath.Glob("testdata/facts/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no facts: %v", err)
	}
	cases := make(map[string][]facts.ENI)
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		enis, err := facts.Decode(f, facts.DefaultNumbers)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		cases[strings.TrimSuffix(filepath.Base(path), ".json")] = enis
	}
	return cases
}

func builtIn(t testing.TB) *render.Templates {
	t.Helper()
	templates, err := render.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	return templates
}

func mustRender(t testing.TB, templates *render.Templates, e facts.ENI) []render.File {
	t.Helper()
	files, err := templates.Render(context.Background(), render.Ifupdown, e)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func printed(files []render.File) []byte {
	var out bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&out, "# ==> %s <==\n%s\n", f.Path, f.Content)
	}
	return out.Bytes()
}

func TestGolden(t *testing.T) {
	for name, enis := range testCases(t) {
		t.Run(name, func(t *testing.T) {
			var got []byte
			for _, e := range enis {
				files, err := builtIn(t).Render(t.Context(), "", e, render.Kinds()...)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, printed(files)...)
				if why := render.Nothing(e); why != "" {
					got = fmt.Appendf(got, "# nothing: %s\n", why)
				}
			}
			golden := "testdata/golden/" + name + ".golden"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := diff.Diff(golden, want, "rendered", got); d != nil {
				t.Errorf("%s", d)
			}
		})
	}
}

// The same facts always give the same bytes, in any environment and time zone.
func TestSameBytes(t *testing.T) {
	cases := testCases(t)
	once := make(map[string][]byte)
	for name, enis := range cases {
		for _, e := range enis {
			once[name+e.Name] = printed(mustRender(t, builtIn(t), e))
		}
	}
	t.Setenv("TZ", "Pacific/Kiritimati")
	t.Setenv("LANG", "tr_TR.UTF-8")
	t.Setenv("HOME", "/nowhere")
	t.Chdir(t.TempDir())
	for range 20 {
		templates := builtIn(t)
		for name, enis := range cases {
			for _, e := range enis {
				if got := printed(mustRender(t, templates, e)); !bytes.Equal(got, once[name+e.Name]) {
					t.Fatalf("%s differs:\n%s", name, got)
				}
			}
		}
	}
}

// special returns the characters that may have a meaning to a shell, ifupdown or iptables:
// all but those of names, addresses and numbers.
func special(content []byte) string {
	return strings.Map(func(r rune) rune {
		if ('a' <= r && r <= 'z') || ('A' <= r && r <= 'Z') || ('0' <= r && r <= '9') || strings.ContainsRune("._-:/", r) {
			return -1
		}
		return r
	}, string(content))
}

// FuzzFacts renders any facts that Decode accepts. All special characters of a rendered
// file come from the template: they are the same, in the same order, as for a harmless ENI
// with as many addresses.
func FuzzFacts(f *testing.F) {
	paths, err := filepath.Glob("testdata/facts/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"name":"eth1;id","mac":"02:00:00:00:00:01","id":"eni-$(id)","device_number":1,"ipv4":["10.0.0.5; reboot"],"subnet":"10.0.0.0/24"}`))
	templates := builtIn(f)
	harmless := testCases(f)["one"][0]
	f.Fuzz(func(t *testing.T, data []byte) {
		enis, err := facts.Decode(bytes.NewReader(data), facts.DefaultNumbers)
		if err != nil {
			return
		}
		for _, e := range enis {
			files := mustRender(t, templates, e)
			if render.Nothing(e) != "" {
				if len(files) != 0 {
					t.Fatalf("rendered %d files of nothing", len(files))
				}
				continue
			}
			like := harmless
			for like.IPv4 = nil; len(like.IPv4) < len(e.IPv4); {
				like.IPv4 = append(like.IPv4, harmless.Gateway)
				// The rules of an ENI have to differ from one another.
				harmless.Gateway = harmless.Gateway.Next()
			}
			like.IPv4Prefixes = e.IPv4Prefixes
			wants := mustRender(t, templates, like)
			for i, file := range files { // the primary has no stanza, which is the first
				want := wants[len(wants)-len(files)+i]
				if got := special(file.Content); got != special(want.Content) {
					t.Errorf("%s of %+v has characters that are not the template's:\n%s", want.Kind, e, file.Content)
				}
			}
		}
	})
}
