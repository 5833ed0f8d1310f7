package kernel

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Attributes of RTM_NEWNETCONF, and the index that stands for interfaces to come:
// linux/netconf.h.
const (
	netconfaIfindex    = 1
	netconfaForwarding = 2
	netconfDefault     = -2
)

// Forwards reports whether the machine forwards IPv4 packets that come in by any
// interface. If the kernel does not say, Forwards says yes, which takes nothing away.
func (k *Kernel) Forwards() bool {
	const family = unix.AF_INET
	on := false
	err := k.route.do(request(unix.RTM_GETNETCONF, unix.NLM_F_DUMP, []byte{byte(family), 0, 0, 0}), func(data []byte) {
		index, forwarding := 0, 0
		for kind, value := range attributes(data[min(4, len(data)):]) {
			switch {
			case kind == netconfaIfindex && len(value) == 4:
				index = int(int32(binary.NativeEndian.Uint32(value)))
			case kind == netconfaForwarding:
				forwarding = number(value)
			}
		}
		on = on || index != netconfDefault && forwarding != 0
	})
	return on || err != nil && !errors.Is(err, ErrInterrupted)
}
