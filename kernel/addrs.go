package kernel

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// addrs lists the addresses of all interfaces.
func (k *Kernel) addrs(family int) ([]plan.Addr, error) {
	all, _, err := list(k, "addresses", func(each func(plan.Addr)) error {
		return k.route.do(request(unix.RTM_GETADDR, unix.NLM_F_DUMP, addrHeader(family, 0, 0)), func(data []byte) {
			if a, ok := addr(data); ok {
				each(a)
			}
		})
	})
	return all, err
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
		case unix.IFA_ADDRESS: // of a point-to-point link: the other end's
			peer, _ = netip.AddrFromSlice(value)
		}
	}
	if !own.IsValid() {
		own = peer
	}
	prefix := netip.PrefixFrom(own, int(data[1]))
	return plan.Addr{Link: number(data[4:8]), Prefix: prefix}, prefix.IsValid()
}
