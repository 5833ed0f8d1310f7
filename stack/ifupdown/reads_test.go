package ifupdown

import (
	"errors"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ec2net/disk"
	"ec2net/fault"
	"ec2net/plan"
	"ec2net/stack/ifupdown/interfaces"
)

// machine is a tree of files that a test writes, and the folder that it is in.
type machine struct {
	*Stack
	dir string
}

func newMachine(tb testing.TB) *machine {
	tb.Helper()
	dir := tb.TempDir()
	tree, err := disk.OpenTree(dir, false)
	check(tb, err)
	tb.Cleanup(func() { tree.Close() })
	return &machine{&Stack{Tree: tree, Tell: func(string, string) {}}, dir}
}

// eth1 is up.
var eth1 = plan.Link{Name: "eth1", Index: 3, Up: true}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func (m *machine) put(tb testing.TB, file, text string) {
	tb.Helper()
	check(tb, os.MkdirAll(path.Join(m.dir, path.Dir(file)), 0o755))
	check(tb, os.WriteFile(path.Join(m.dir, file), []byte(text), 0o644))
}

// link makes a link in the tree; the target is relative to its folder.
func (m *machine) link(tb testing.TB, file, target string) {
	tb.Helper()
	check(tb, os.MkdirAll(path.Join(m.dir, path.Dir(file)), 0o755))
	check(tb, os.Symlink(target, path.Join(m.dir, file)))
}

const cfg1 = "/etc/network/interfaces.d/eth1.cfg"

// readsCase is a possible /etc/network. Another test asks the real ifupdown about the
// same cases.
type readsCase struct {
	name       string
	interfaces string
	files      map[string]string // below /etc/network
	links      map[string]string
	reads      bool
}

var readsCases = []readsCase{
	{name: "at once", interfaces: "source /etc/network/interfaces.d/*.cfg\n", reads: true},
	{name: "all of the folder", interfaces: "source /etc/network/interfaces.d/*\n", reads: true},
	{name: "the file itself", interfaces: "source /etc/network/interfaces.d/eth1.cfg\n", reads: true},
	{name: "relative", interfaces: "source interfaces.d/*\n", reads: true},
	{name: "indented, after other lines", interfaces: "auto lo\n\t source \t interfaces.d/*.cfg \t\n", reads: true},
	{name: "lines that end as in DOS", interfaces: "auto lo\r\nsource interfaces.d/*\r\n", reads: true},
	{name: "no line end", interfaces: "source interfaces.d/*", reads: true},
	{name: "two on a line", interfaces: "source /etc/network/other /etc/network/interfaces.d/eth?.cfg", reads: true},
	{name: "the second relative: to where ifup is started", interfaces: "source /nowhere interfaces.d/*\n"},
	{name: "the second relative, and right", interfaces: "source /nowhere etc/network/interfaces.d/*\n", reads: true},
	{name: "goes on", interfaces: "source \\\n/etc/network/interfaces.d/*\n", reads: true},
	{name: "goes on in the word", interfaces: "sou\\\nrce /etc/network/inter\\\nfaces.d/*\n", reads: true},
	{name: "goes on with more", interfaces: "source /nowhere \\\n  /etc/network/interfaces.d/*.cfg\n", reads: true},
	{name: "goes on at the file's end", interfaces: "source interfaces.d/*.cfg\\", reads: true},
	{name: "a comment does not go on", interfaces: "# that is all \\\nsource interfaces.d/*\n", reads: true},
	{name: "in a comment", interfaces: "# source interfaces.d/*\n"},
	{name: "with a comment", interfaces: "source /etc/network/interfaces.d/* # ours\n", reads: true},
	{name: "in a stanza", interfaces: "iface lo inet loopback\n  source interfaces.d/*\n", reads: true},
	{name: "quoted", interfaces: "source /etc/'network'/\"interfaces.d\"/*.c\\fg\n", reads: true},
	{name: "quoted, so that it begins with no slash", interfaces: "source \"/etc/network/interfaces.d\"/*\n"},
	{name: "a quoted pattern is none", interfaces: "source /etc/network/interfaces.d/\"*\"\n"},
	{name: "a quote that does not end", interfaces: "source /etc/network/interfaces.d/* it's\n"},
	{name: "braces", interfaces: "source /etc/network/{interfaces.d,more}/*\n"},
	{name: "what a shell would act on", interfaces: "source /etc/network/interfaces.d/* ; x\n"},
	{name: "a command", interfaces: "source /etc/network/interfaces.d/* $(x)\n"},
	{name: "a command, as of old", interfaces: "source /etc/network/interfaces.d/* `x`\n"},
	{name: "a set", interfaces: "source interfaces.d/eth[!2-9][.]*\n", reads: true},
	{name: "a set without it", interfaces: "source interfaces.d/eth[!1].cfg\n"},
	{name: "a class", interfaces: "source interfaces.d/eth[[:digit:]].cfg\n", reads: true},
	{name: "wildcards in folders", interfaces: "source /e*/net?ork/inter*/*\n", reads: true},
	{name: "a wildcard for another folder", interfaces: "source /etc/network/if-*/*\n"},
	{name: "dots", interfaces: "source ./interfaces.d/../interfaces.d//*.cfg\n", reads: true},
	{name: "another name", interfaces: "source interfaces.d/*.conf\n"},
	{name: "by way of what is no folder", interfaces: "source more/ more/. more/../interfaces.d/*\n", files: map[string]string{"more": "source interfaces.d/*\n"}},
	{name: "by way of a folder that is not there", interfaces: "source none/../interfaces.d/*\n"},
	{name: "wildcards, by way of a folder that is not there", interfaces: "source non*/../interfaces.d/*\n"},
	{name: "the folder alone", interfaces: "source interfaces.d\n"},
	{name: "nothing", interfaces: "source\n"},
	{name: "a word that begins like it", interfaces: "source-directory more\n", files: map[string]string{"more/here": "source-dir ../interfaces.d\n"}},
	{name: "a folder, where names with dots do not count", interfaces: "source-directory interfaces.d\n"},
	{name: "by way of another", interfaces: "source more/*\n", reads: true,
		files: map[string]string{"more/here": "source /etc/network/interfaces.d/*.cfg\n"}},
	{name: "by way of another, which is relative to itself", interfaces: "source more/*\n", reads: true,
		files: map[string]string{"more/here": "source ../interfaces.d/*.cfg\n"}},
	{name: "by way of another, from the wrong place", interfaces: "source more/*\n",
		files: map[string]string{"more/here": "source interfaces.d/*.cfg\n"}},
	{name: "by way of a hidden one", interfaces: "source more/*\n",
		files: map[string]string{"more/.here": "source ../interfaces.d/*.cfg\n"}},
	{name: "by way of a folder", interfaces: "source-directory /etc/network/more\n", reads: true,
		files: map[string]string{"more/here": "source ../interfaces.d/*.cfg\n"}},
	{name: "by way of a folder, shorter", interfaces: "source-dir more/\n", reads: true,
		files: map[string]string{"more/here": "source ../interfaces.d/*.cfg\n"}},
	{name: "by way of a folder's pattern", interfaces: "source-directory /nowhere /etc/network/mo*\n", reads: true,
		files: map[string]string{"more/here": "source ../interfaces.d/*.cfg\n"}},
	{name: "by way of a folder's name with a dot", interfaces: "source-directory more\n",
		files: map[string]string{"more/here.cfg": "source ../interfaces.d/*.cfg\n"}},
	{name: "a folder within a folder is none of its files", interfaces: "source-directory more\n",
		files: map[string]string{"more/sub/here": "source ../../interfaces.d/*.cfg\n"}},
	{name: "in a ring", interfaces: "source more/here\n",
		files: map[string]string{"more/here": "source here\nsource ../interfaces\n"}},
	{name: "a link to the folder", interfaces: "source link.d/*\n", links: map[string]string{"link.d": "interfaces.d"}, reads: true},
	{name: "a link to another folder", interfaces: "source link.d/*\n", links: map[string]string{"link.d": "more"},
		files: map[string]string{"more/eth9.cfg": "iface eth9 inet manual\n"}},
	{name: "links that lead nowhere", interfaces: "source more/*\nsource interfaces.d/*\n",
		links: map[string]string{"more/a": "a", "more/b": "none"}, reads: true},
	{name: "a file for a folder", interfaces: "source interfaces/* interfaces/x\nsource-directory interfaces\nsource interfaces.d/*\n", reads: true},
	{name: "a folder among the files", interfaces: "source interfaces.d/*\n",
		files: map[string]string{"interfaces.d/eth9.cfg/x": ""}, reads: true},
	{name: "an empty file", interfaces: ""},
}

// write puts the files of a case in place. The cfg file comes with it if there is
// text for it.
func (c readsCase) write(t *testing.T, m *machine, cfg string) {
	t.Helper()
	m.put(t, interfaces.Main, c.interfaces)
	for file, text := range c.files {
		m.put(t, "/etc/network/"+file, text)
	}
	for file, target := range c.links {
		m.link(t, "/etc/network/"+file, target)
	}
	if cfg != "" {
		m.put(t, cfg1, cfg)
	}
}

func TestReads(t *testing.T) {
	for _, c := range readsCases {
		for when, cfg := range map[string]string{"before there is a cfg": "", "with a cfg": "iface eth1 inet dhcp\n"} {
			m := newMachine(t)
			if len(c.links) > 0 {
				check(t, m.Tree.MakeDir(interfaces.Folder))
			}
			c.write(t, m, cfg)
			err := m.Reads("eth1")
			var not *NotSourcedError
			if (err == nil) != c.reads || (err != nil && !errors.As(err, &not)) {
				t.Errorf("%s, %s: %v", c.name, when, err)
			}
			if err != nil && (fault.Of(err) != fault.Usage || !strings.Contains(fault.Hint(err), "source /etc/network/interfaces.d/*.cfg")) {
				t.Errorf("%s: status %d, hint %q", c.name, fault.Of(err), fault.Hint(err))
			}
		}
	}
}

// Without the main file nothing is read.
func TestReadsNothing(t *testing.T) {
	var not *NotSourcedError
	if err := newMachine(t).Reads("eth1"); !errors.As(err, &not) {
		t.Error(err)
	}
}

// Reads cannot tell if a line depends on the environment of ifup, unless another line
// settles it.
func TestReadsUnclear(t *testing.T) {
	for text, line := range map[string]string{
		"auto lo\nsource $X/*\n":                     `line 2 of /etc/network/interfaces, "source $X/*"`,
		"source /none \"${X}\"":                      "line 1",
		"source /none ~root/*":                       "line 1",
		"source $((1))\nsource interfaces.d/*.conf":  "line 1",
		"source more":                                "line 1 of /etc/network/more",
		"source-directory $X":                        "line 1",
		"source $X\nsource interfaces.d/*.cfg":       "",
		"source interfaces.d/*.cfg\nsource more\n":   "",
		"source more\nsource interfaces.d/eth1*.cfg": "",
	} {
		m := newMachine(t)
		m.put(t, interfaces.Main, text)
		m.put(t, "/etc/network/more", "source $Y/eth1.cfg\n")
		err := m.Reads("eth1")
		var unclear *UnclearError
		if errors.As(err, &unclear) != (line != "") || (err != nil && (!strings.Contains(err.Error(), line) ||
			fault.Of(err) != fault.Usage || fault.Hint(err) == "")) {
			t.Errorf("%q: %v", text, err)
		}
		// Nor can Owner tell whether there is a stanza.
		if o, err := m.StanzaOwner("eth1", false); !errors.As(err, &unclear) || !o.Nobody() {
			t.Errorf("%q: %+v, %v", text, o, err)
		}
	}
}

// A file that cannot be read is an error, neither yes nor no.
func TestReadsFails(t *testing.T) {
	long := strings.Repeat("#", 1<<20) + "#"
	for name, prepare := range map[string]func(m *machine){
		"the main file is a folder":  func(m *machine) { check(t, m.Tree.MakeDir(interfaces.Main)) },
		"the main file is a pipe":    func(m *machine) { m.pipe(t, interfaces.Main) },
		"the main file is too long":  func(m *machine) { m.put(t, interfaces.Main, long) },
		"a sourced file is too long": func(m *machine) { m.put(t, interfaces.Main, "source more\n"); m.put(t, "/etc/network/more", long) },
		"ever new names": func(m *machine) {
			m.put(t, interfaces.Main, "source more/*\n")
			for i := range 2000 {
				m.link(t, "/etc/network/more/"+strings.Repeat("x", i%200+1)+string(rune('a'+i/200)), "../interfaces")
			}
		},
	} {
		m := newMachine(t)
		prepare(m)
		var not *NotSourcedError
		if err := m.Reads("eth1"); err == nil || errors.As(err, &not) || fault.Of(err) != fault.System {
			t.Errorf("%s: reads: %v", name, err)
		}
		if o, err := m.StanzaOwner("eth1", false); err == nil {
			t.Errorf("%s: owner: %+v", name, o)
		}
	}
}

func (m *machine) pipe(t *testing.T, file string) {
	t.Helper()
	check(t, os.MkdirAll(path.Join(m.dir, path.Dir(file)), 0o755))
	check(t, unix.Mkfifo(path.Join(m.dir, file), 0o600))
}

// Whatever is in the files of ifupdown, which may source each other and themselves:
// reading ends, and reads no file twice.
func FuzzInterfaces(f *testing.F) {
	f.Add("source /etc/network/interfaces.d/*\n", "source ../interfaces\nsource-directory interfaces.d\n")
	f.Add("source interfaces.d/*.cfg\\\n", "iface eth1 inet dhcp")
	f.Add("source /etc/network/../network/interfaces.d/[\nsource-directory /", "\tsource\t*/*/*")
	m := newMachine(f)
	f.Fuzz(func(t *testing.T, main, sourced string) {
		m.put(t, interfaces.Main, main)
		m.put(t, cfg1, sourced)
		r, err := m.read()
		if err != nil {
			return
		}
		seen := make(map[string]bool)
		for _, found := range r.files {
			seen[path.Clean(found.path)] = true
		}
		if len(seen) != len(r.files) || len(seen) > 2 {
			t.Errorf("%q", slices.Sorted(maps.Keys(seen)))
		}
		err = m.Reads("eth1")
		var not *NotSourcedError
		if err == nil && !strings.Contains(strings.ReplaceAll(main+sourced, "\\\n", ""), "source") {
			t.Error("says that ifupdown reads eth1.cfg")
		}
		if errors.As(err, &not) && strings.HasPrefix(main, "source interfaces.d/*.cfg\n") {
			t.Error("says that ifupdown does not read eth1.cfg")
		}
		if err == nil && seen[cfg1] == false {
			t.Error("says that ifupdown reads eth1.cfg, and has not found it")
		}
	})
}
