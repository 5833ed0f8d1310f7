package endtoend

// What EC2 does in the random hour: ENIs, their addresses, IMDS and DHCP.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ec2net/lab"
	"ec2net/lab/imds"
)

func (h *hour) plug(name string, e *lab.ENI) {
	how := h.rng.IntN(6)
	ms := 500 + h.rng.IntN(6000)
	h.note("attach %s as %s, IMDS %d for %d ms", e.Addrs()[0], name, how, ms)
	switch how {
	case 0:
		e.Hide(true)
		h.later(ms, func() { e.Hide(false) })
	case 1:
		e.Describe(lab.Provisional)
		h.later(ms, func() { e.Describe(nil) })
	case 2:
		e.Describe(func(d *imds.ENI) { d.IPv4 = []string{"10.9.9.9"} })
		h.later(ms, func() { e.Describe(nil) })
	}
	h.at[name] = e
	delete(h.hands, name)
	delete(h.clientless, name)
	e.Attach(h.t, name)
}

func (h *hour) takeSpare() *lab.ENI {
	n := h.rng.IntN(1 << 20)
	if len(h.spare) == 0 {
		return nil
	}
	n %= len(h.spare)
	e := h.spare[n]
	h.spare = slices.Delete(h.spare, n, n+1)
	return e
}

func (h *hour) attach() {
	name := h.name()
	for range hourNames {
		if h.at[name] == nil {
			break
		}
		name = hourNames[(slices.Index(hourNames, name)+1)%len(hourNames)]
	}
	if h.at[name] != nil {
		return
	}
	if e := h.takeSpare(); e != nil {
		h.plug(name, e)
	}
}

func (h *hour) unplug(name string) *lab.ENI {
	e := h.at[name]
	h.note("detach %s", name)
	delete(h.at, name)
	delete(h.hands, name)
	e.Detach(h.t)
	return e
}

func (h *hour) detach() {
	if name := h.attached(); name != "" {
		h.spare = append(h.spare, h.unplug(name))
	}
}

// flap attaches and detaches, or detaches and attaches, again and again.
func (h *hour) flap() {
	name := h.name()
	times := 1 + h.rng.IntN(3)
	for range times {
		if h.at[name] == nil {
			if e := h.takeSpare(); e != nil {
				h.plug(name, e)
				h.pause()
				h.spare = append(h.spare, h.unplug(name))
			}
			continue
		}
		e := h.unplug(name)
		h.pause()
		if h.rng.IntN(2) == 0 {
			h.changeAddrs(e)
		}
		h.plug(name, e)
	}
}

// replace gives the name of an ENI to another one at once, or swaps the names of two.
func (h *hour) replace() {
	name, other := h.attached(), h.attached()
	if name == "" {
		return
	}
	if other != name {
		a, b := h.unplug(name), h.unplug(other)
		h.plug(name, b)
		h.plug(other, a)
		return
	}
	if e := h.takeSpare(); e != nil {
		h.spare = append(h.spare, h.unplug(name))
		h.plug(name, e)
	}
}

// changeAddrs changes the secondary addresses of an ENI, as EC2 does.
func (h *hour) changeAddrs(e *lab.ENI) {
	if more := e.Addrs()[1:]; len(more) > 0 && h.rng.IntN(2) == 0 {
		a := more[h.rng.IntN(len(more))]
		h.note("EC2 takes %s from %s", a, e.Addrs()[0])
		e.Unassign(h.t, a)
		// EC2 may give it to another ENI at once.
		if to := h.ofSubnet(a); h.rng.IntN(2) == 0 && to != nil && to != e {
			h.note("EC2 gives %s to %s", a, to.Addrs()[0])
			to.Assign(h.t, a)
		}
		return
	}
	prefix := e.Addrs()[0][:strings.LastIndex(e.Addrs()[0], ".")]
	a := fmt.Sprintf("%s.%d", prefix, 50+h.rng.IntN(8))
	for _, other := range h.enis {
		if slices.Contains(other.Addrs(), a) {
			return
		}
	}
	h.note("EC2 gives %s to %s", a, e.Addrs()[0])
	e.Assign(h.t, a)
}

// ofSubnet returns an ENI in the subnet of an address.
func (h *hour) ofSubnet(addr string) *lab.ENI {
	all := slices.DeleteFunc(slices.Clone(h.enis), func(e *lab.ENI) bool { return prefixOf(e.Addrs()[0]) != prefixOf(addr) })
	return all[h.rng.IntN(len(all))]
}

func (h *hour) readdress() {
	h.changeAddrs(h.enis[h.rng.IntN(len(h.enis))])
}

func (h *hour) imdsIll() {
	ms := 500 + h.rng.IntN(8000)
	switch n := h.rng.IntN(len(illnesses) + 3); {
	case n < len(illnesses):
		h.note("IMDS: %+v for %d ms", illnesses[n], ms)
		h.v.IMDS.Fault(illnesses[n])
	case n == len(illnesses):
		h.note("IMDS takes 700 ms a request for %d ms", ms)
		h.v.IMDS.Fault(imds.Fault{Delay: 700 * time.Millisecond})
	default:
		h.note("IMDS unreachable until all is well")
		h.v.Metadata(h.t, []lab.Service{lab.Silent, lab.Refused}[n-len(illnesses)-1])
		return
	}
	h.later(ms, h.v.IMDS.Heal)
}

func (h *hour) dhcpGone() {
	ms := 500 + h.rng.IntN(20000)
	h.note("the DHCP server is gone for %d ms", ms)
	h.v.DHCP(h.t, lab.Silent)
	h.later(ms, func() { h.v.DHCP(h.t, lab.Up) })
}
