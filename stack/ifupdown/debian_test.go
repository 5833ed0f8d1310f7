package ifupdown

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"ec2net/lab"
	"ec2net/stack/ifupdown/interfaces"
)

// These tests ask Debian's own ifupdown what it reads.

var releases = []string{"bookworm", "trixie"}

// answer is that of ifquery to a case.
type answer string

const (
	yes     answer = "yes"
	no      answer = "no"
	refused answer = "refused" // there is a line in the main file that it cannot read
)

func answerOf(reads bool) answer {
	if reads {
		return yes
	}
	return no
}

// ifquery asks the real ifquery about each case whether it finds the stanza of eth1's
// cfg file, when the system starts it.
func ifquery(t *testing.T, release string, cases []readsCase) []answer {
	t.Helper()
	files := make(map[string]string)
	var links strings.Builder
	for i, c := range cases {
		root := fmt.Sprintf("/cases/%d/network/", i)
		files[root+"interfaces"] = c.interfaces
		files[root+"interfaces.d/eth1.cfg"] = "iface eth1 inet manual\n"
		for file, text := range c.files {
			files[root+file] = text
		}
		for file, target := range c.links {
			fmt.Fprintf(&links, "mkdir -p %[1]s; ln -s %[3]s %[1]s/%[2]s\n", root+file[:strings.LastIndex("/"+file, "/")], file[strings.LastIndex(file, "/")+1:], target)
		}
	}
	r := lab.Debian(t, release).Run(t, lab.Cmd{Files: files, Args: []string{"sh", "-ec", links.String() + `
cd /
rm -rf /etc/network
for n in $(seq 0 ` + fmt.Sprint(len(cases)-1) + `); do
	mv /cases/$n/network /etc/network
	if ifquery eth1 >/tmp/out 2>&1; then echo yes
	elif grep -q '^ifquery: unknown interface eth1$' /tmp/out; then echo no
	elif grep -q "^ifquery: couldn't read interfaces file" /tmp/out; then echo refused
	else cat /tmp/out; fi
	rm -rf /etc/network
done`}})
	answers := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if r.Status != 0 || len(answers) != len(cases) {
		t.Fatalf("status %d, %d answers to %d cases\n%s%s", r.Status, len(answers), len(cases), r.Stdout, r.Stderr)
	}
	all := make([]answer, len(cases))
	for i, a := range answers {
		all[i] = answer(a)
	}
	return all
}

func TestReadsAsDebian(t *testing.T) {
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			for i, a := range ifquery(t, release, readsCases) {
				if c := readsCases[i]; a != answerOf(c.reads) {
					t.Errorf("%s: ifupdown reads the cfg: %s", c.name, a)
				}
			}
		})
	}
}

// pieces go into a random source line.
var pieces = []string{"/", "*", "?", "[0-9]", "[!0-9]", "[[:alpha:]]", "[", "]", ".", "..", "../", "./", " ", "\t", "\\\n", `\`, `\*`,
	"'", `"`, `""`, "#", "$", "~", "`", ";", "{", "(", "x", " x", " /etc/network/interfaces.d/*", "link.d", "more"}

// randomCase is a correct line with random pieces in it.
func randomCase(r *rand.Rand) readsCase {
	right := []string{"source /etc/network/interfaces.d/eth1.cfg", "source interfaces.d/*", "source\t/etc/network/*/*.cfg",
		"source link.d/eth*", "source more /x", "source-directory interfaces.d", "source /x /etc/network/link.d/e*.cfg"}
	line := right[r.IntN(len(right))]
	for range 1 + r.IntN(3)/2 {
		word := strings.IndexAny(line, " \t") + 1 // without it ifupdown reads no line of the file
		at := word + r.IntN(len(line)-word+1)
		to := min(len(line), at+r.IntN(3)/2*r.IntN(4))
		line = line[:at] + pieces[r.IntN(len(pieces))] + line[to:]
	}
	return readsCase{name: line, interfaces: "auto lo\n" + line + "\n",
		files: map[string]string{"more": "source interfaces.d/eth1*\n"}, links: map[string]string{"link.d": "interfaces.d"}}
}

// Whatever a source line is made of, ec2net and ifupdown read the same files.
func TestRandomSourcesAsDebian(t *testing.T) {
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(1, 1))
			var cases []readsCase
			var ours []bool
			read := 0
			for len(cases) < 200 {
				c := randomCase(r)
				m := newMachine(t)
				c.write(t, m, "iface eth1 inet manual\n")
				err := m.Reads("eth1")
				var not *NotSourcedError
				var unclear *UnclearError
				switch {
				case errors.As(err, &unclear):
					continue
				case err != nil && !errors.As(err, &not):
					t.Fatalf("%q: %v", c.name, err)
				case err == nil:
					read++
				}
				cases, ours = append(cases, c), append(ours, err == nil)
			}
			for i, a := range ifquery(t, release, cases) {
				if a != refused && a != answerOf(ours[i]) {
					t.Errorf("%q: ifupdown reads the cfg: %s", cases[i].name, a)
				}
			}
			if read < 20 || read > 180 {
				t.Errorf("%d of %d are read", read, len(cases))
			}
		})
	}
}

// A folder that holds the cfg file has other files too; Has is what ifupdown has.
func TestHasAsDebian(t *testing.T) {
	texts := []string{
		"iface eth1 inet manual\n", "iface \\\n eth1 inet manual", "\\\niface eth1 inet manual\n", "  iface\teth1\tinet\tmanual\r\n",
		"# iface eth1 inet manual\n", "iface eth10 inet manual\n", "iface eth1\\\n0 inet manual\n", "auto eth1\n", "iface lo inet loopback\n up iface eth1\n",
		"# \\\niface eth1 inet manual\n",
	}
	var cases []readsCase
	for _, text := range texts {
		cases = append(cases, readsCase{name: text, interfaces: text})
	}
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			for i, a := range ifquery(t, release, cases) {
				if ours := interfaces.Has([]byte(texts[i]), "eth1"); a != answerOf(ours) {
					t.Errorf("%q: has a stanza: %t, to ifupdown %s", texts[i], ours, a)
				}
			}
		})
	}
}
