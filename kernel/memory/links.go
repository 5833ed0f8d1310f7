package memory

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/plan"
)

// AddLink adds an interface, which is down, with an index that was never given before.
func (k *Kernel) AddLink(name string, mac facts.MAC, device bool) plan.Link {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.named(name); there {
		panic("there is an interface " + name)
	}
	defer k.changed()
	return k.addLink(plan.Link{Name: name, MAC: mac, Device: device})
}

func (k *Kernel) addLink(l plan.Link) plan.Link {
	k.last++
	l.Index = k.last
	k.links = append(k.links, l)
	return l
}

// DelLink deletes an interface, with its addresses and routes. Rules that name it stay.
func (k *Kernel) DelLink(name string) {
	k.must(name, func(l *plan.Link) {
		index := l.Index
		for _, a := range k.addrsOf(index) {
			_ = k.delAddr(a.Addr) // it may have gone together with another one
		}
		k.routes = slices.DeleteFunc(k.routes, func(r plan.Route) bool { return r.Link == index })
		k.links = slices.DeleteFunc(k.links, func(l plan.Link) bool { return l.Index == index })
		for i := range k.links {
			if k.links[i].Master == index {
				k.links[i].Master = 0
			}
		}
	})
}

// Rename gives an interface another name.
func (k *Kernel) Rename(name, other string) {
	k.must(name, func(l *plan.Link) { l.Name = other })
}

// SetMaster makes an interface a port of another one, or of none if master is empty.
func (k *Kernel) SetMaster(name, master string) {
	k.must(name, func(l *plan.Link) {
		of, _ := k.named(master)
		l.Master = of.Index
	})
}

// SetStrict makes the reverse path filter of an interface strict.
func (k *Kernel) SetStrict(name string) {
	k.must(name, func(l *plan.Link) { l.Strict = true })
}

// SetIPv6 switches IPv6 on or off on an interface. At first it is on.
func (k *Kernel) SetIPv6(name string, on bool) {
	k.must(name, func(l *plan.Link) { l.NoIPv6 = !on })
}

// SetUp sets an interface up: its addresses bring their routes back.
func (k *Kernel) SetUp(name string) {
	k.must(name, func(l *plan.Link) {
		if l.Up {
			return
		}
		l.Up = true
		if l.Loopback && len(k.addrsOf(l.Index)) == 0 {
			_ = k.addAddr(plan.Addr{Link: l.Index, Prefix: netip.MustParsePrefix("127.0.0.1/8")})
		}
		for _, a := range k.addrsOf(l.Index) {
			k.connect(a)
		}
	})
}

// SetDown sets an interface down: it keeps its addresses and loses its routes in all
// tables.
func (k *Kernel) SetDown(name string) {
	k.must(name, func(l *plan.Link) {
		index := l.Index
		l.Up = false
		k.routes = slices.DeleteFunc(k.routes, func(r plan.Route) bool { return r.Link == index })
	})
}

// must changes an interface, and panics if it does not exist.
func (k *Kernel) must(name string, change func(*plan.Link)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, ok := k.named(name)
	if !ok {
		panic(fmt.Sprintf("there is no interface %s", name))
	}
	_ = k.change(l.Index, change)
	k.changed()
}

func (k *Kernel) change(index int, change func(*plan.Link)) error {
	i := slices.IndexFunc(k.links, func(l plan.Link) bool { return l.Index == index })
	if i < 0 {
		return unix.ENODEV
	}
	change(&k.links[i])
	return nil
}

func (k *Kernel) named(name string) (plan.Link, bool) {
	return plan.State{Links: k.links}.LinkNamed(name)
}

func (k *Kernel) at(index int) (plan.Link, bool) { return plan.State{Links: k.links}.LinkAt(index) }
