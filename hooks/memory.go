package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/plan"
	"ec2net/render"
	"ec2net/stack"
)

const (
	stateDir = "/var/lib/ec2net"
	runDir   = "/run/ec2net"
)

// OwnFolders are the folders in which only ec2net writes.
var OwnFolders = []string{stateDir, runDir}

// memory is what ec2net remembers on disk. Of an ENI: the remembered facts, for good; its
// note and its lease, until the next boot. Of the machine: which addresses have moved,
// for good; whether docker is up, until the next boot.
type memory struct {
	tree        *disk.Tree
	numbers     facts.Numbers
	unmanaged   Patterns
	noAddresses bool
}

func (h *Host) memory() memory {
	return memory{tree: h.Tree, numbers: h.Numbers, unmanaged: h.Unmanaged, noAddresses: h.NoAddresses}
}

// cache has what was read from texts, by all that it follows from: an event looks several
// times and watch at each change, and parsing takes longer than reading.
type cache[From comparable, What any] struct {
	mu sync.Mutex
	of map[From]What
}

// maxCached bounds the cache of a process that runs for months.
const maxCached = 256

func (c *cache[From, What]) get(from From, parse func() (What, error)) (What, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if what, done := c.of[from]; done {
		return what, nil
	}
	what, err := parse()
	if err != nil {
		return what, err
	}
	if c.of == nil || len(c.of) >= maxCached {
		c.of = make(map[From]What)
	}
	c.of[from] = what
	return what, nil
}

type factsText struct {
	text    string
	numbers facts.Numbers
}

type stanzaText struct{ text, iface, path string }

var (
	cachedFacts   cache[factsText, facts.Kept]
	cachedStanzas cache[stanzaText, stack.Stanza]
)

// parse parses the facts of one ENI.
func parse(text []byte, n facts.Numbers) (facts.Kept, error) {
	k, err := cachedFacts.get(factsText{string(text), n}, func() (facts.Kept, error) {
		return facts.DecodeKept(bytes.NewReader(text), n)
	})
	k.ENI = k.ENI.Clone()
	return k, err
}

// parseStanza is Parse of a network stack.
func parseStanza(by Stack, text []byte, iface string) stack.Stanza {
	s, _ := cachedStanzas.get(stanzaText{string(text), iface, by.Path(iface)}, func() (stack.Stanza, error) {
		return by.Parse(text, iface), nil
	})
	s.Routes = slices.Clone(s.Routes)
	return s
}

func factsPath(name string) string { return stateDir + "/" + name + ".json" }
func notePath(name string) string  { return runDir + "/" + name + ".up" }
func leasePath(name string) string { return runDir + "/" + name + ".lease" }
func downPath(name string) string  { return runDir + "/" + name + ".down" }

var (
	movedPath = path.Join(stateDir, "moved")
	// podsPath has a line that says who gives the ENIs of this machine to pods.
	podsPath = path.Join(stateDir, "pods")
	// dockerMark is the file that "docker up" writes and "docker down" removes.
	dockerMark = path.Join(runDir, "docker.up")
)

// recalled is what ec2net remembers of the machine, each file read once.
type recalled struct {
	plan.Machine
	// unread says why the note, the lease or the stanza of an interface could not be
	// read. Without the stanza ec2net does not know the owner.
	unread map[string]error
	// damaged says why the remembered facts of an interface are unusable.
	damaged map[string]error
	// movedUnread says why the list of moved addresses could not be read.
	movedUnread error
	// stanzas are what the files say by which interfaces come up, of those that have one; by
	// are the stacks of these files.
	stanzas map[string]stack.Stanza
	by      map[string]render.Stack
	// scripts are the interfaces that have an ip-rule script.
	scripts   map[string]bool
	unmanaged Patterns
	// pods says that the ENIs are for the pods of a Kubernetes node; podsKept that ec2net
	// remembers it. podsUnread says why it could not tell.
	pods       stack.Owner
	podsKept   bool
	podsUnread error
}

// recall reads everything that ec2net remembers, of name too. What stanzas say is still
// missing: [recalled.readStanza].
func (s memory) recall(name string) (recalled, error) {
	r := recalled{Machine: plan.Machine{Numbers: s.numbers, NoAddresses: s.noAddresses}, unread: map[string]error{}, damaged: map[string]error{}, scripts: map[string]bool{}, stanzas: map[string]stack.Stanza{}, by: map[string]render.Stack{},
		unmanaged: s.unmanaged}
	kept, err := s.tree.List(stateDir)
	if err != nil {
		return r, err
	}
	sinceBoot, err := s.tree.List(runDir)
	if err != nil {
		return r, err
	}
	there := append(kept, sinceBoot...)
	for _, known := range slices.Compact(slices.Sorted(slices.Values(interfacesOf(there, name)))) {
		r.recallOne(s, known, there)
	}
	if slices.Contains(kept, path.Base(movedPath)) {
		r.Moved, r.movedUnread = s.moved()
	}
	r.recallPods(s, slices.Contains(kept, path.Base(podsPath)))
	if slices.Contains(sinceBoot, path.Base(dockerMark)) {
		r.Docker = plan.DockerUp
	}
	return r, nil
}

// recallPods finds out whether the ENIs are for pods: by the configuration of Kubernetes
// on disk, or because ec2net has found it before, and nobody has removed its file since.
func (r *recalled) recallPods(s memory, kept bool) {
	r.pods, r.podsUnread = stack.PodsByConfig(s.tree)
	if !kept {
		return
	}
	text, err := s.tree.Read(podsPath)
	r.podsUnread = errors.Join(r.podsUnread, err)
	if r.podsKept = err == nil && text != nil; r.podsKept && r.pods.Nobody() {
		r.pods = stack.Owner{Who: strings.TrimSpace(string(text))}
	}
}

// recallOne adds what ec2net remembers of an interface. there are the files that exist.
func (r *recalled) recallOne(s memory, name string, there []string) {
	k := plan.Known{Name: name}
	var noteUnread, downUnread, leaseUnread error
	if slices.Contains(there, path.Base(factsPath(name))) {
		last, err := s.facts(name)
		if err != nil {
			r.damaged[name] = err
		}
		k.Facts = last.ENI
	}
	if slices.Contains(there, path.Base(notePath(name))) {
		k.Note, noteUnread = s.note(notePath(name))
	}
	if slices.Contains(there, path.Base(downPath(name))) {
		k.Down, downUnread = s.note(downPath(name))
	}
	if slices.Contains(there, path.Base(leasePath(name))) {
		k.Lease, leaseUnread = s.lease(name)
	}
	r.scripts[name] = slices.Contains(there, name+".rules")
	// The cfg file of an administrator's template may not say that ec2net generated it.
	k.Ours = r.scripts[name] || k.Facts.Name != "" || k.Note != (plan.Note{})
	if err := errors.Join(noteUnread, downUnread, leaseUnread); err != nil {
		r.unread[name] = err
	}
	r.Known = append(r.Known, k)
}

// interfacesOf returns the interfaces that have a file, and one more.
func interfacesOf(files []string, more string) []string {
	var found []string
	if facts.CheckName(more) == nil {
		found = append(found, more)
	}
	for _, file := range files {
		name, kind, _ := strings.Cut(file, ".")
		if slices.Contains([]string{"json", "up", "down", "lease"}, kind) && facts.CheckName(name) == nil {
			found = append(found, name)
		}
	}
	return found
}

// readStanza adds what the stanza of an interface says, and whose the interface is, as far as
// that and its name tell.
func (r *recalled) readStanza(h *Host, kind render.Stack, k *plan.Known) {
	if h.Unmanaged.match(k.Name, facts.MAC{}, "") != "" {
		k.Left = "EC2NET_UNMANAGED names it"
	} else if of, text, err := h.fileOf(kind, k.Name); err != nil {
		own := h.stack(kind).Path(k.Name)
		if masked, failed := h.Tree.Masked(own); failed == nil && masked {
			k.Left, k.Try = own+" is a link to /dev/null", "remove it, and ec2net configures the interface"
		} else {
			r.unread[k.Name] = errors.Join(r.unread[k.Name], err)
		}
	} else if text != nil {
		by := h.stack(of)
		says := parseStanza(by, text, k.Name)
		r.stanzas[k.Name], r.by[k.Name] = says, of
		if says.Unmanaged {
			k.Left = by.Path(k.Name) + " says EC2SYNC=no"
		}
		k.Ours = k.Ours || says.Generated
		if k.Stanza = k.Ours; k.Stanza {
			k.Routes, k.Loose, k.NoIPv6 = says.Routes, says.Loose, says.NoIPv6
		}
	}
	if err := r.unread[k.Name]; err != nil {
		k.Left = err.Error()
	}
}

// facts returns the remembered facts of an interface, without a name if there are none.
// They may be of another ENI that had the name.
func (s memory) facts(name string) (facts.Kept, error) {
	var none facts.Kept
	data, err := s.tree.Read(factsPath(name))
	if err != nil || data == nil {
		return none, err
	}
	k, err := parse(data, s.numbers)
	if err == nil && k.Name != name {
		err = fmt.Errorf("not the facts of %s", name)
	}
	if err != nil {
		return none, fmt.Errorf("%s: %w", factsPath(name), err)
	}
	return k, nil
}

// keep writes good facts, and reports whether the file has changed.
func (s memory) keep(e facts.ENI) (bool, error) {
	last, _ := s.facts(e.Name) // an unreadable file is overwritten
	var text bytes.Buffer
	if err := last.With(e).Encode(&text); err != nil {
		return false, err
	}
	return s.tree.Write(factsPath(e.Name), text.Bytes())
}

// script returns the ip-rule script of an interface; nil if there is none.
func (s memory) script(name string) ([]byte, error) {
	file, err := render.Path("rules", name)
	if err != nil {
		return nil, err
	}
	return s.tree.Read(file)
}

// device reads "MAC INDEX WORD", the form of the note and the lease.
func device(text []byte) (mac facts.MAC, index int, word string, err error) {
	words := strings.Fields(string(text))
	if len(words) < 3 {
		return mac, 0, "", errors.New("fewer than three words")
	}
	if mac, err = facts.ParseMAC(words[0]); err != nil {
		return mac, 0, "", err
	}
	index, err = strconv.Atoi(words[1])
	return mac, index, words[2], err
}

// note reads a file such as /run/ec2net/eth1.up: "MAC INDEX NUMBER". Any other text
// counts as no note.
func (s memory) note(file string) (plan.Note, error) {
	data, err := s.tree.Read(file)
	if err != nil {
		return plan.Note{}, err
	}
	mac, index, word, err := device(data)
	if err != nil {
		return plan.Note{}, nil
	}
	number, err := strconv.Atoi(word)
	if err != nil {
		return plan.Note{}, nil
	}
	return plan.Note{MAC: mac, Index: index, Number: number}, nil
}

func (s memory) setNote(l plan.Link, number int) error {
	_, err := s.tree.Write(notePath(l.Name), fmt.Appendf(nil, "%s %d %d\n", l.MAC, l.Index, number))
	return err
}

func (s memory) clearNote(name string) error {
	return errors.Join(s.tree.Remove(notePath(name)), s.tree.Remove(leasePath(name)), s.tree.Remove(downPath(name)))
}

// setDown remembers that a person took a device down, so that watch leaves it down.
func (s memory) setDown(l plan.Link) error {
	_, err := s.tree.Write(downPath(l.Name), fmt.Appendf(nil, "%s %d 0\n", l.MAC, l.Index))
	return err
}

// The words in place of the address, if the lease has ended, or its client gave no
// address.
const (
	ended     = "ended"
	noAddress = "unknown"
)

// lease reads /run/ec2net/eth1.lease: "MAC INDEX ADDRESS". Any other text counts as no
// lease.
func (s memory) lease(name string) (plan.Lease, error) {
	data, err := s.tree.Read(leasePath(name))
	if err != nil {
		return plan.Lease{}, err
	}
	mac, index, addr, err := device(data)
	if err != nil {
		return plan.Lease{}, nil
	}
	l := plan.Lease{MAC: mac, Index: index}
	switch addr {
	case ended:
		l.Ended = true
	case noAddress:
	default:
		if l.Addr, err = netip.ParseAddr(addr); err != nil {
			return plan.Lease{}, nil
		}
	}
	return l, nil
}

func (s memory) setLease(name string, l plan.Lease) error {
	addr := l.Addr.String()
	switch {
	case l.Ended:
		addr = ended
	case !l.Addr.IsValid():
		addr = noAddress
	}
	text := fmt.Appendf(nil, "%s %d %s\n", l.MAC, l.Index, addr)
	_, err := s.tree.Write(leasePath(name), text)
	if err == nil || s.tree.Overwrite(leasePath(name), text) == nil { // the disk may be full
		return nil
	}
	if !l.Ended {
		// No lease is better than the one before, which may have ended.
		err = errors.Join(err, s.tree.Remove(leasePath(name)))
	}
	return err
}

// moved reads /var/lib/ec2net/moved: lines "ADDRESS FROM TO", with the ENIs' MACs.
func (s memory) moved() ([]plan.Moved, error) {
	data, err := s.tree.Read(movedPath)
	if err != nil {
		return nil, err
	}
	var moved []plan.Moved
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue
		}
		addr, err1 := netip.ParseAddr(words[0])
		from, err2 := facts.ParseMAC(words[1])
		to, err3 := facts.ParseMAC(words[2])
		if errors.Join(err1, err2, err3) == nil {
			moved = append(moved, plan.Moved{Addr: addr, From: from, To: to})
		}
	}
	return moved, nil
}

func (s memory) setMoved(moved []plan.Moved) error {
	if len(moved) == 0 {
		return s.tree.Remove(movedPath)
	}
	var text bytes.Buffer
	for _, m := range moved {
		fmt.Fprintf(&text, "%s %s %s\n", m.Addr, m.From, m.To)
	}
	_, err := s.tree.Write(movedPath, text.Bytes())
	return err
}
