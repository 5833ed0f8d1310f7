package kernel

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// addrs lists the addresses of all interfaces.
func (k *Kernel) addrs(family int, links []plan.Link) ([]plan.Addr, error) {
	var addrs []plan.Addr
	err := k.again("addresses", func() error {
		addrs = nil
		return k.dumpAddrs(family, 0, func(a plan.Addr) { addrs = append(addrs, a) })
	})
	return addrs, err
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
