package endtoend

import (
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// ofIMDS makes a row in which IMDS fails: a known ENI uses its remembered facts, and
// render says so; a new one waits in vain.
func ofIMDS(name, says string, inflict func(*testing.T, *faulty)) fault {
	return fault{name: name, says: says, inflict: inflict, want: [columns]int{addNew: 3}, recalled: true}
}

// answering makes IMDS answer wrong to every request that a path selects.
func answering(faults ...imds.Fault) func(*testing.T, *faulty) {
	return func(t *testing.T, m *faulty) {
		for _, f := range faults {
			m.vpc.IMDS.Fault(f)
		}
	}
}

func body(text string) *string { return &text }

// shell makes a fault by a script in the instance.
func shell(script string) func(*testing.T, *faulty) {
	return func(t *testing.T, m *faulty) { m.Sh(t, script) }
}

// template breaks a template, as an administrator may.
func template(text string) func(*testing.T, *faulty) {
	return func(t *testing.T, m *faulty) { m.WriteFile(t, "/etc/ec2net/templates/blocks.tmpl", text) }
}

const noTemplate = "rm /etc/ec2net/templates/blocks.tmpl"

// ofTemplates makes a row in which a template does not render: ec2net uses the files
// that were rendered last, and every command that should have rendered reports it.
func ofTemplates(name, says, text string) fault {
	return fault{name: name, says: says, inflict: template(text), lift: noTemplate,
		want: [columns]int{addNew: 4, addKnown: 4, bound: 4, renew: 4, renderRoot: 4}, slow: 10 * time.Second}
}

// ofProgram makes a row with another program than Debian's that brings interfaces up. A known
// ENI needs no networkctl.
func (s stack) ofProgram(name, says, script string) fault {
	if s.setup.Image {
		return fault{name: name, says: says, inflict: shell("mv " + s.program + " " + s.program + ".not; " + script),
			lift: "mv " + s.program + ".not " + s.program, want: [columns]int{addNew: 5}}
	}
	return fault{name: name, says: says, inflict: shell("cp --remove-destination /usr/sbin/ifup /usr/sbin/ifdown; mv /usr/sbin/ifup /usr/sbin/ifup.not; " + script),
		lift: "mv /usr/sbin/ifup.not /usr/sbin/ifup", want: [columns]int{addNew: 5, addKnown: 5}}
}

// aside moves a folder onto a file system of its own.
func aside(folder, options string) string {
	return "cp -a " + folder + " /tmp/aside; mount -t tmpfs -o " + options + " none " + folder + "; cp -a /tmp/aside/. " + folder + "; rm -r /tmp/aside; "
}

// back undoes aside, and keeps what was written.
func back(folder string) string {
	return "rm -f " + folder + "/full; cp -a " + folder + " /tmp/back; umount " + folder + "; cp -a /tmp/back/. " + folder + "; rm -r /tmp/back; "
}

const (
	stateFolder = "/var/lib/ec2net"
	runFolder   = "/run/ec2net"
	fill        = "cat /dev/zero >" + stateFolder + "/full 2>/dev/null || :; "
)

func faults(s stack) []fault {
	program := path.Base(s.program)
	hang := s.ofProgram("`"+program+"` hangs", program, `printf '#!/bin/sh\nexec sleep 1000\n' >`+s.program+`; chmod 755 `+s.program)
	hang.slow = 100 * time.Second
	eth2 := strings.ReplaceAll(s.file, "eth1", "eth2")
	runFull := [columns]int{addNew: 5}
	if s.setup.Image {
		runFull[addKnown] = 5 // it is up, and what ec2net remembers of the marks has no room
	}
	rows := []fault{
		hang,
		ofIMDS("IMDS silent", "no answer", func(t *testing.T, m *faulty) { m.vpc.Metadata(t, lab.Silent) }),
		ofIMDS("IMDS refuses connections", "refused", func(t *testing.T, m *faulty) { m.vpc.Metadata(t, lab.Refused) }),
		ofIMDS("IMDS takes 10 s a request", "no answer", answering(imds.Fault{Delay: 10 * time.Second})),
		ofIMDS("401, the token has expired", "401", answering(imds.Fault{Path: "/meta-data/", Status: 401})),
		ofIMDS("403, switched off", "403", answering(imds.Fault{Status: 403})),
		ofIMDS("404 for everything", "404", answering(imds.Fault{Path: "/meta-data/", Status: 404})),
		ofIMDS("404 for a key that is listed", "local-ipv4s", answering(imds.Fault{Path: "local-ipv4s$", Status: 404})),
		ofIMDS("429", "429", answering(imds.Fault{Status: 429})),
		ofIMDS("500", "500", answering(imds.Fault{Status: 500})),
		ofIMDS("truncated answers", "local-ipv4s", answering(imds.Fault{Path: "local-ipv4s$", Truncate: 3})),
		ofIMDS("wrong content", "local-ipv4s", answering(imds.Fault{Path: "local-ipv4s$", Body: body("<html>$(reboot)</html>")})),
		ofIMDS("another ENI's content", "local-ipv4s", answering(imds.Fault{Path: "local-ipv4s$", Body: body("10.9.9.9")})),
		ofIMDS("10 MB of content", "local-ipv4s", answering(imds.Fault{Path: "local-ipv4s$", Body: body(strings.Repeat("10.0.1.30\n", 1<<20))})),
		ofIMDS("redirect to elsewhere", "302", answering(imds.Fault{Redirect: "http://198.51.100.7/latest/meta-data/"})),
		ofIMDS("connection reset in the middle", "local-ipv4s", answering(imds.Fault{Path: "local-ipv4s$", Reset: true})),
		{name: "503 for five seconds or more", says: "503", recalled: true, inflict: answering(imds.Fault{Status: 503}), brief: true},
		{name: "device-number 0 for 20 s", inflict: func(t *testing.T, m *faulty) {
			m.eth2.Describe(lab.Provisional)
			truth := time.AfterFunc(20*time.Second, func() { m.eth2.Describe(nil) })
			t.Cleanup(func() { truth.Stop() })
		}},
		{name: "interface renamed meanwhile", says: "there is no interface eth2 here", want: [columns]int{addNew: 6},
			inflict: func(t *testing.T, m *faulty) { m.eth2.Describe(lab.Provisional) },
			during:  func(t *testing.T, m *faulty) { m.Sh(t, "ip link set eth2 down; ip link set eth2 name other") }, goneNew: true},
		{name: "interface gone meanwhile", says: "there is no interface eth2 here", want: [columns]int{addNew: 6},
			inflict: func(t *testing.T, m *faulty) { m.eth2.Describe(lab.Provisional) },
			during:  func(t *testing.T, m *faulty) { m.eth2.Detach(t) }, goneNew: true},

		{name: "disk full", says: "no space left on device", want: [columns]int{addNew: 5, bound: 5, renew: 5, renderRoot: 0},
			inflict: shell(aside(stateFolder, "size=64k") + fill), lift: back(stateFolder)},
		{name: "the folder of run full", says: "no space left on device", want: runFull, comesUp: s.setup.Image,
			inflict: shell(aside(runFolder, "size=32k") + "cat /dev/zero >" + runFolder + "/full 2>/dev/null || :"), lift: back(runFolder)},
		{name: "read-only", says: "read-only file system", want: [columns]int{addNew: 5, bound: 5, renew: 5},
			inflict: shell(aside(stateFolder, "size=64k") + "mount -o remount,ro " + stateFolder),
			lift:    "mount -o remount,rw " + stateFolder + "; " + back(stateFolder)},
		{name: "over quota", says: "disk quota exceeded", want: [columns]int{addNew: 5, addKnown: 5, bound: 5, renew: 5, renderRoot: 5},
			inflict: shell(":"), wrap: "strace -f -o /dev/null -e trace=fsync -e inject=fsync:error=EDQUOT"},
		{name: "a folder where a file should be", says: path.Base(eth2) + " is not a regular file", want: [columns]int{addNew: 5, scan: 5},
			inflict: shell("mkdir " + eth2), lift: "rmdir " + eth2},
		{name: "a link planted where a file should be", says: "eth2.json",
			inflict: shell("echo '# Generated by ec2net' >/etc/victim; ln -s /etc/victim " + eth2 + "; ln -s /etc/victim " + stateFolder + "/eth2.json"),
			lift:    "test '# Generated by ec2net' = \"$(cat /etc/victim)\""},
		{name: "clocks 11 days ahead (time namespace)", inflict: shell(":"), wrap: "unshare --time --monotonic 1000000 --boottime 1000000"},

		ofTemplates("a template that does not parse", "blocks.tmpl", `{{define "rules"}}{{if}}{{end}}`),
		ofTemplates("a template that does not end", "did not end in time", `{{define "rules"}}{{range 9000000000000000000}}{{end}}{{end}}`),
		ofTemplates("a template that writes without end", "the output is longer than", "{{define \"rules\"}}{{range 9000000000000000000}}# x\n{{end}}{{end}}"),
		ofTemplates("a template that takes all the memory", "have made more than 16 MiB", `{{define "rules"}}{{$x := repeat 1000 "x"}}{{range 100}}{{$x = print $x $x}}{{end}}{{end}}`),

		s.ofProgram("`"+program+"` fails", program, `printf '#!/bin/sh\necho broken >&2; exit 1\n' >`+s.program+`; chmod 755 `+s.program),
		s.ofProgram("`"+program+"` is missing", "there is no "+program, ":"),
	}
	if s.setup.Image {
		// What IMDS answers is judged before the stack plays a part. A row of these takes 40 s.
		rows = slices.DeleteFunc(rows, func(f fault) bool {
			return f.recalled && !slices.Contains([]string{"IMDS silent", "403, switched off", "another ENI's content", "503 for five seconds or more"}, f.name)
		})
	}
	return rows
}
