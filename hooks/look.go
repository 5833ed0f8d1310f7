package hooks

import (
	"errors"
	"fmt"
	"net/netip"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
)

// news is what an event knows, in addition to what a look finds.
type news struct {
	// name is the event's interface; empty if the event is about all.
	name string
	// why names the event in the log.
	why string
	// device is the device that the event began with: converge does nothing if another
	// one has the name now, or if this one was taken down meanwhile. Nil: whichever
	// device has the name.
	device *plan.Link
	// lease is what the DHCP client says, if it says anything. up says that somebody
	// wants the interface up: then an ended lease no longer counts.
	lease *leaseNews
	up    bool
	// answer is the answer of IMDS about the interface, if there is one. before, if there
	// is none, is the remembered facts of the device under another name.
	answer *answer
	before *facts.ENI
	// coming says that the interface is about to be brought up, going that it is
	// being taken down.
	coming, going bool
	// check, unless nil, returns an error if converge is to stop after the first look.
	check func(*look) error
	// docker says whether docker is up or down, if the event knows.
	docker plan.Docker
	// notice is a line for the log, before the first change of the interface.
	notice string
	// contests are the changes that another program undoes, if they are counted.
	contests *contests
	// rendered has the ip rules that the event has rendered, by interface.
	rendered map[string]*ruleScript
}

// answer is an answer of IMDS.
type answer struct {
	facts.ENI
	// then is what was remembered when the question began. If a newer answer has changed
	// that, this one does not count.
	then []plan.Known
}

type leaseNews struct {
	addr  netip.Addr
	ended bool
}

// look is the machine at one moment, with the news of an event. After every wait it is
// outdated.
type look struct {
	recalled
	name     string
	link     plan.Link // the device with that name; its Index is 0 if there is none
	rendered map[string]*ruleScript
	kind     render.Stack // what brings the ENIs up
	// noted is the lease that was remembered before the event's news.
	noted plan.Lease
	// overtaken says that the event's answer is older than what is remembered.
	overtaken bool
	// refused says that the kernel refused a change, and nothing else went wrong.
	refused bool
}

// ruleScript is the ip rules of an ENI, by the templates.
type ruleScript struct {
	facts  facts.ENI
	file   []render.File
	rules  []iprule.Rule
	broken error
	// lost says that the template is broken, and no earlier script is usable.
	lost bool
}

// look gathers what the kernel has and what ec2net remembers.
func (h *Host) look(n news) (*look, error) {
	r, err := h.memory().recall(n.name)
	if err != nil {
		return nil, err
	}
	l := &look{recalled: r, name: n.name, rendered: n.rendered}
	l.overtaken = n.answer != nil && l.Overtaken(n.answer.ENI, n.answer.then)
	if l.rendered == nil {
		l.rendered = make(map[string]*ruleScript)
	}
	state, err := h.Kernel.Look(func(links []plan.Link) plan.Scope {
		l.State.Links = links
		l.kind = h.stackBy(links, l.primaryBy(n))
		for i := range l.Known {
			l.readStanza(h, l.kind, &l.Known[i])
		}
		l.hear(n)
		l.meetPrimary(h)
		scope := l.Scope(links)
		if linkLocal(h.IMDS) {
			scope.To = h.IMDS
		}
		return scope
	})
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	l.State = state
	l.hearStack(h)
	l.lookForPods()
	return l, nil
}

// primaryBy returns the primary's MAC, by the answer of IMDS too; zero if it is unknown.
func (l *look) primaryBy(n news) facts.MAC {
	if n.answer != nil {
		return n.answer.PrimaryMAC
	}
	return l.Primary()
}

// hear adds the news of an event to the look.
func (l *look) hear(n news) {
	l.link, _ = l.State.LinkNamed(n.name)
	k, _ := l.Of(n.name)
	l.noted = k.Lease
	if n.lease != nil {
		k.Lease = plan.Lease{MAC: l.link.MAC, Index: l.link.Index, Addr: n.lease.addr, Ended: n.lease.ended}
	}
	if n.up && k.Lease.Ended {
		k.Lease = plan.Lease{}
	}
	if k.Going = n.going; n.going {
		k.Ours = true
	}
	if k.Coming = n.coming; n.coming {
		k.Ours = true
	}
	if n.name != "" {
		l.Set(k)
	}
	if n.before != nil {
		k.Facts = *n.before
		l.Set(k)
	}
	if n.answer != nil {
		l.Learn(n.answer.ENI)
		if k, _ := l.Of(n.name); !k.Ours {
			k.Ours = true
			l.Set(k)
		}
	}
	if n.docker != plan.DockerAsIs {
		l.Docker = n.docker
	}
	l.leave()
}

// meetPrimary adds the primary to what is known, if only the facts of other ENIs name it. An
// administrator, or a program without a hook, configures it then.
func (l *look) meetPrimary(h *Host) {
	link, here := l.PrimaryLink()
	if _, known := l.Of(link.Name); !here || known {
		return
	}
	l.recallOne(h.memory(), link.Name, nil)
	k := l.Known[len(l.Known)-1]
	l.readStanza(h, l.kind, &k)
	l.Known = l.Known[:len(l.Known)-1]
	k.Ours = true
	l.Set(k)
}

// with returns a copy of the look with more news, without looking again.
func (l *look) with(n news) *look {
	more := *l
	more.Known = append([]plan.Known(nil), l.Known...)
	more.Moved = append([]plan.Moved(nil), l.Moved...)
	more.hear(n)
	return &more
}

var (
	errReplaced  = errors.New("another device has the name now")
	errTakenDown = errors.New("it was taken down meanwhile")
	errOvertaken = errors.New("a newer answer of IMDS was faster")
)

// stillThere returns an error if, during a wait for IMDS or a lock, the event's device has
// gone, lost its name to another or was taken down, or its answer was overtaken.
func (l *look) stillThere(n news) error {
	if n.device == nil {
		return nil
	}
	switch {
	case l.link.Index == 0:
		return &kernel.GoneError{Name: n.name}
	case !l.link.Is(*n.device):
		return errReplaced
	case n.device.Up && !l.link.Up:
		return errTakenDown
	case l.overtaken:
		return errOvertaken
	}
	return nil
}
