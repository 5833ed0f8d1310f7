package hooks

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/render"
)

const stateDir = "/var/lib/ec2net"

// OwnFolders are those in which nobody but ec2net writes.
var OwnFolders = []string{stateDir, runDir}

// state is what ec2net remembers on disk: for each ENI the last facts that
// were good, /var/lib/ec2net/eth1.json, in the format of "ec2net facts".
type state struct {
	tree    *disk.Tree
	numbers facts.Numbers
}

func factsPath(name string) string { return path.Join(stateDir, name+".json") }

// facts gives the last good facts of an interface; ok is false if there are
// none. They may be of another ENI that had the name.
func (s state) facts(name string) (e facts.ENI, ok bool, err error) {
	data, err := s.tree.Read(factsPath(name))
	if err != nil || data == nil {
		return e, false, err
	}
	enis, err := facts.Decode(bytes.NewReader(data), s.numbers)
	if err == nil && (len(enis) != 1 || enis[0].Name != name) {
		err = fmt.Errorf("not the facts of %s", name)
	}
	if err != nil {
		return e, false, fmt.Errorf("%s: %w", factsPath(name), err)
	}
	return enis[0], true, nil
}

// keep remembers facts that are good. It reports whether they are new.
func (s state) keep(e facts.ENI) (bool, error) {
	var text bytes.Buffer
	if err := facts.Encode(&text, []facts.ENI{e}); err != nil {
		return false, err
	}
	return s.tree.Write(factsPath(e.Name), text.Bytes())
}

// all gives the facts of every ENI that ec2net remembers. Facts that cannot
// be read are left out: they say nothing about the other ENIs.
func (s state) all() ([]facts.ENI, error) {
	names, err := s.tree.List(stateDir)
	if err != nil {
		return nil, err
	}
	var enis []facts.ENI
	for _, file := range names {
		name, isFacts := strings.CutSuffix(file, ".json")
		if !isFacts || facts.CheckName(name) != nil {
			continue
		}
		if e, ok, err := s.facts(name); ok && err == nil {
			enis = append(enis, e)
		}
	}
	return enis, nil
}

// unmanaged says whether an administrator keeps ec2net from an interface.
func (s state) unmanaged(name string) (bool, error) {
	cfg, err := s.cfg(name)
	return render.Unmanaged(cfg), err
}

// cfg is the interface's stanza as it stands on disk, nil without one.
func (s state) cfg(name string) ([]byte, error) {
	p, err := cfgPath(name)
	if err != nil {
		return nil, err
	}
	return s.tree.Read(p)
}

func cfgPath(name string) (string, error) {
	return render.Path("cfg", name)
}

const runDir = "/run/ec2net"

// broughtUp says as what an interface was brought up since boot: the device,
// whose index the kernel does not give twice, and the number of its table, which
// is that of its rules whatever becomes of settings and facts.
// /run/ec2net/eth1.up has it: "MAC INDEX TABLE".
type broughtUp struct {
	mac   facts.MAC
	index int
	table int
}

func configuredPath(name string) string { return path.Join(runDir, name+".up") }

func (s state) broughtUp(name string) (broughtUp, bool) {
	var (
		up  broughtUp
		mac string
	)
	data, err := s.tree.Read(configuredPath(name))
	if err != nil || data == nil {
		return up, false
	}
	if _, err := fmt.Sscan(string(data), &mac, &up.index, &up.table); err != nil {
		return up, false
	}
	up.mac, err = facts.ParseMAC(mac)
	return up, err == nil
}

// of says whether it was this device.
func (up broughtUp) of(l Link) bool { return up.mac == l.MAC && up.index == l.Index }

// configured says whether it was this device that was brought up.
func (s state) configured(l Link) bool {
	up, ok := s.broughtUp(l.Name)
	return ok && up.of(l)
}

// noted are the notes of all interfaces, by name.
func (s state) noted() (map[string]broughtUp, error) {
	files, err := s.tree.List(runDir)
	notes := make(map[string]broughtUp)
	for _, file := range files {
		name, isNote := strings.CutSuffix(file, ".up")
		if note, ok := s.broughtUp(name); isNote && ok {
			notes[name] = note
		}
	}
	return notes, err
}

func (s state) setConfigured(l Link, table int) error {
	_, err := s.tree.Write(configuredPath(l.Name), fmt.Appendf(nil, "%s %d %d\n", l.MAC, l.Index, table))
	return err
}

func (s state) clearConfigured(name string) error {
	return s.tree.Remove(configuredPath(name))
}
