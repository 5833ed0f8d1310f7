package render_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/lab"
	"ec2net/render"
)

// In these tests Debian's own programs judge the rendered files.

// machine has the files of some ENIs, and an interfaces(5) that sources them.
func machine(t *testing.T, enis []facts.ENI) map[string]string {
	t.Helper()
	files := map[string]string{
		"/etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*.cfg\n",
	}
	for _, e := range enis {
		for _, f := range mustRender(t, builtIn(t), e) {
			files[f.Path] = string(f.Content)
		}
	}
	return files
}

// run runs a script in a copy of the Debian tree, and fails if it fails.
func run(t *testing.T, files map[string]string, script string, args ...any) string {
	t.Helper()
	script = fmt.Sprintf(script, args...)
	r := lab.Debian(t, "bookworm").Run(t, lab.Cmd{Args: []string{"sh", "-euc", script}, Files: files})
	if r.Status != 0 {
		t.Fatalf("status %d of\n%s\nstdout: %s\nstderr: %s", r.Status, script, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// eachENI runs a test for every ENI of testdata/facts that has files.
func eachENI(t *testing.T, test func(t *testing.T, e facts.ENI)) {
	for name, enis := range testCases(t) {
		for _, e := range enis {
			if render.Nothing(e) != "" || e.Primary { // the primary has no stanza
				continue
			}
			t.Run(name+"-"+e.Name, func(t *testing.T) {
				t.Parallel()
				test(t, e)
			})
		}
	}
}

// ifquery reads the stanza as the template means it.
func TestIfquery(t *testing.T) {
	eachENI(t, func(t *testing.T, e facts.ENI) {
		files := machine(t, []facts.ENI{e})
		out := run(t, files, "ifquery --list --allow=ec2net; echo; ifquery %s", e.Name)
		list, options, _ := strings.Cut(out, "\n\n")
		if strings.TrimSpace(list) != e.Name {
			t.Errorf("allow-ec2net has %q", list)
		}
		if !strings.Contains(options, fmt.Sprintf("metric: %d\n", e.Metric())) {
			t.Errorf("no metric %d in\n%s", e.Metric(), options)
		}
		for _, want := range []string{
			fmt.Sprintf("up: ip route replace %s dev %s table %d\n", e.Subnet, e.Name, e.Table()),
			fmt.Sprintf("up: ip route replace default via %s dev %s table %d\n", e.Gateway, e.Name, e.Table()),
		} {
			if !strings.Contains(options, want) {
				t.Errorf("no %q in\n%s", want, options)
			}
		}
		cfg := files["/etc/network/interfaces.d/"+e.Name+".cfg"]
		for word, shown := range map[string]string{"post-up": "up", "pre-down": "down", "post-down": "post-down"} {
			if in, out := strings.Count(cfg, "\n    "+word+" "), strings.Count("\n"+options, "\n"+shown+": "); in != out || in == 0 {
				t.Errorf("%d lines of %s are written, %d read", in, word, out)
			}
		}
	})
}

// stanzaLines is shell code that prints the commands of a stanza as ifupdown reads them:
// lines up NAME, or lines down NAME. ifupdown calls post-up "up", and pre-down "down".
const stanzaLines = `lines() { ifquery "$2" | sed -n "s/^$1: //p"; }
`

// dash and shellcheck accept every command of a stanza as POSIX shell.
func TestShell(t *testing.T) {
	eachENI(t, func(t *testing.T, e facts.ENI) {
		run(t, machine(t, []facts.ENI{e}), stanzaLines+`
for word in up down post-down; do
	lines $word %[1]s >/tmp/script
	test -s /tmp/script
	dash -n /tmp/script
	# SC2034: the rest of a line is read into a variable that nobody uses.
	# SC2015: "a || b || true" is meant.
	shellcheck --shell=sh --exclude=SC2034,SC2015 /tmp/script
done`, e.Name)
	})
}

// Both back ends of iptables accept the fragments. (--test of the nft back end checks
// only the syntax, so the test applies the fragments too.)
func TestIptablesRestore(t *testing.T) {
	eachENI(t, func(t *testing.T, e facts.ENI) {
		run(t, machine(t, []facts.ENI{e}), `
for restore in iptables-nft-restore iptables-legacy-restore; do
	for f in iptables iptables-down iptables; do
		$restore --test --noflush /var/lib/ec2net/%[1]s.$f
		$restore --noflush /var/lib/ec2net/%[1]s.$f
	done
done`, e.Name)
	})
}

// They also accept the fragment for the answers of containers, and a second time.
func TestDockerRestore(t *testing.T) {
	f, err := builtIn(t).Docker(t.Context(), testCases(t)["same-subnet"], facts.DefaultNumbers.Base)
	if err != nil {
		t.Fatal(err)
	}
	out := run(t, map[string]string{f.Path: string(f.Content)}, `
for backend in nft legacy; do
	iptables-$backend-restore --noflush %[1]s
	iptables-$backend-save -t mangle | grep ec2net >/tmp/once
	iptables-$backend-restore --noflush %[1]s
	iptables-$backend-save -t mangle | grep ec2net >/tmp/twice
	cmp /tmp/once /tmp/twice
	grep -c restore-mark /tmp/twice
done`, f.Path)
	if out != "2\n2\n" {
		t.Errorf("rules:\n%s\n%s", out, f.Content)
	}
}

// ip -batch accepts the script, and then the kernel has the rules that ec2net reads from
// the script.
func TestIPBatch(t *testing.T) {
	eachENI(t, func(t *testing.T, e facts.ENI) {
		files := machine(t, []facts.ENI{e})
		script := files["/var/lib/ec2net/"+e.Name+".rules"]
		out := run(t, files, "ip -batch /var/lib/ec2net/%s.rules; ip -j -N rule show pref %d", e.Name, e.Priority())
		var kernel []struct {
			Priority                     int
			Src, Table, Protocol, Fwmark string
			SrcLen                       int
			Fwmask                       string
		}
		if err := json.Unmarshal([]byte(out), &kernel); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		var got []string
		for _, r := range kernel {
			line := fmt.Sprintf("pref %d from %s", r.Priority, r.Src)
			if r.SrcLen != 0 && r.Src != "all" {
				line += fmt.Sprintf("/%d", r.SrcLen)
			}
			if r.Fwmark != "" {
				line += " fwmark " + r.Fwmark + "/" + r.Fwmask
			}
			got = append(got, line+fmt.Sprintf(" lookup %s protocol %s", r.Table, r.Protocol))
		}
		rules, err := iprule.Parse([]byte(script), e)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, r := range rules {
			want = append(want, r.String())
		}
		if len(want) != len(e.IPv4)+len(e.IPv4Prefixes)+1 || !slices.Equal(got, want) {
			t.Errorf("the kernel has\n%s\nec2net reads\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// The commands for going up have the same effect when run twice. Those for going down,
// run twice, leave nothing. docker0 has no container, so its route is "linkdown". There
// is no ec2net, and so there are no marks.
func TestUpTwiceDownTwice(t *testing.T) {
	cases := testCases(t)
	for _, backend := range []string{"nft", "legacy"} {
		for _, name := range []string{"one", "same-subnet", "ens6"} {
			t.Run(backend+"-"+name, func(t *testing.T) {
				t.Parallel()
				enis := cases[name]
				var prepare, up, down, tables strings.Builder
				for _, e := range enis {
					fmt.Fprintf(&prepare, "ip link add %[1]s type veth peer name p-%[1]s; ip addr add %[2]s/%[3]d dev %[1]s; ip link set %[1]s up; ip link set p-%[1]s up\n",
						e.Name, e.IPv4[0], e.Subnet.Bits())
					fmt.Fprintf(&up, "lines up %s | sh -eu\n", e.Name)
					fmt.Fprintf(&down, "lines down %[1]s | sh -eu; lines post-down %[1]s | sh -eu\n", e.Name)
					fmt.Fprintf(&tables, "ip route show table %d 2>/dev/null || true\n", e.Table())
				}
				out := run(t, machine(t, enis), stanzaLines+`
mkdir /tmp/bin
for tool in iptables iptables-restore iptables-save; do
	ln -s "$(command -v $tool | sed "s/iptables/iptables-%[1]s/")" /tmp/bin/$tool
done
PATH=/tmp/bin:$PATH
state() { iptables-save -t mangle | grep -v '^#' | sed 's/ \[.*//'; %[5]s }
%[2]s
ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
iptables -t mangle -A PREROUTING -j MARK --set-xmark 0x8000/0x8000
state >/tmp/0
%[3]s
state >/tmp/1
%[3]s
state >/tmp/2
%[4]s
state >/tmp/3
%[4]s
state >/tmp/4
for n in 0 1 2 3 4; do cat /tmp/$n; echo ---; done
`, backend, prepare.String(), up.String(), down.String(), tables.String())
				states := strings.Split(out, "---\n")
				if states[1] != states[2] {
					t.Errorf("up once:\n%s\nup twice:\n%s", states[1], states[2])
				}
				if states[3] != states[0] || states[4] != states[0] {
					t.Errorf("before:\n%s\nafter:\n%s\ndown twice:\n%s", states[0], states[3], states[4])
				}
				for _, e := range enis {
					for _, want := range []string{
						fmt.Sprintf("default via %s dev %s", e.Gateway, e.Name),
						fmt.Sprintf("%s dev %s", e.Subnet, e.Name),
						"172.17.0.0/16 dev docker0",
					} {
						if strings.Count(states[1], want) != max(1, strings.Count(want, "docker0")*len(enis)) {
							t.Errorf("not once: %q in\n%s", want, states[1])
						}
					}
				}
			})
		}
	}
}

// systemd-networkd of Debian 12 (252) and 13 (257) reads the files without a word, and
// says so where a line is wrong.
func TestNetworkdReads(t *testing.T) {
	const script = `mkdir -p /run/systemd/netif; chown systemd-network:systemd-network /run/systemd/netif
SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console /lib/systemd/systemd-networkd >/tmp/log 2>&1 &
until grep -q 'Enumeration completed' /tmp/log; do kill -0 $! || { cat /tmp/log; exit 1; }; sleep 0.05; done
kill $!
grep '^/etc/systemd/network/' /tmp/log | grep -v 'Successfully loaded' || true`
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			tree := lab.Debian(t, release)
			said := func(files map[string]string) string {
				r := tree.Run(t, lab.Cmd{Args: []string{"sh", "-euc", script}, Files: files})
				if r.Status != 0 {
					t.Fatalf("status %d: %s%s", r.Status, r.Stdout, r.Stderr)
				}
				return r.Stdout
			}
			files := make(map[string]string)
			for _, enis := range testCases(t) {
				for _, e := range enis {
					rendered, err := builtIn(t).Render(t.Context(), "", e, "network")
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range rendered {
						files[strings.Replace(f.Path, "05-", fmt.Sprintf("%02d-", len(files)), 1)] = string(f.Content)
					}
				}
			}
			if out := said(files); out != "" || len(files) < 5 {
				t.Errorf("of %d files:\n%s", len(files), out)
			}
			for path, text := range files {
				files[path] = text + "[Link]\nBaz=1\n"
			}
			if out := said(files); strings.Count(out, "Unknown key 'Baz'") != len(files) {
				t.Errorf("of %d wrong files:\n%s", len(files), out)
			}
		})
	}
}
