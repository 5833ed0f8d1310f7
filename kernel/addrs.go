package kernel

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// addrs lists the addresses of all interfaces; links are those that there are.
func (k *Kernel) addrs(family int, links []plan.Link) ([]plan.Addr, error) {
	all, err := k.addrsOf(family, 0)
	if !errors.Is(err, ErrInterrupted) || !k.route.strict {
		return settled(all, err)
	}
	// The addresses of one interface come in one piece, unless they are hundreds.
	all = nil
	for _, l := range links {
		own, err := settled(k.addrsOf(family, l.Index))
		if err != nil {
			return nil, err
		}
		all = append(all, own...)
	}
	return all, nil
}

// addrsOf lists the addresses of an interface, or of all with the index 0.
func (k *Kernel) addrsOf(family, index int) ([]plan.Addr, error) {
	all, err := list(k, "addresses", func(each func(plan.Addr)) error { return k.dumpAddrs(family, index, each) })
	if index != 0 && errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return all, err
}

// dumpAddrs lists the addresses of an interface, or of all with the index 0.
func (k *Kernel) dumpAddrs(family, index int, each func(plan.Addr)) error {
	header := addrHeader(family, 0, index)
	return k.route.do(request(unix.RTM_GETADDR, unix.NLM_F_DUMP, header), func(data []byte) {
		if a, ok := addr(data); ok && (index == 0 || a.Link == index) {
			each(a)
		}
	})
}

// addrHeader is struct ifaddrmsg.
func addrHeader(family, length, index int) []byte {
	return append([]byte{byte(family), byte(length), 0, 0}, uint32s(index)...)
}

// addr reads a message of RTM_NEWADDR: struct ifaddrmsg and IFA_ attributes.
func addr(data []byte) (plan.Addr, bool) {
	if len(data) < unix.SizeofIfAddrmsg {
		return plan.Addr{}, false
	}
	var own, peer netip.Addr
	for attr, value := range attributes(data[unix.SizeofIfAddrmsg:]) {
		switch attr {
		case unix.IFA_LOCAL:
			own, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS: // the other end's, if there is one
			peer, _ = netip.AddrFromSlice(value)
		}
	}
	if !own.IsValid() {
		own = peer
	}
	prefix := netip.PrefixFrom(own, int(data[1]))
	return plan.Addr{Link: number(data[4:8]), Prefix: prefix}, prefix.IsValid()
}
