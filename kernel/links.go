package kernel

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/plan"
)

// skipStatistics is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h: an interface's
// message has half the size without its counters.
const skipStatistics = 1 << 3

// Links lists the interfaces.
func (k *Kernel) Links() ([]plan.Link, error) {
	var links []plan.Link
	err := k.again("links", func() error {
		links = nil
		return k.dumpLinks(func(l plan.Link) { links = append(links, l) })
	})
	return links, err
}

func (k *Kernel) dumpLinks(each func(plan.Link)) error {
	req := request(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))
	addNumber(req, unix.IFLA_EXT_MASK, skipStatistics)
	return k.route.do(req, func(data []byte) {
		if l, ok := k.link(data); ok {
			each(l)
		}
	})
}

// link reads a message of RTM_NEWLINK: struct ifinfomsg and IFLA_ attributes.
func (k *Kernel) link(data []byte) (plan.Link, bool) {
	if len(data) < unix.SizeofIfInfomsg {
		return plan.Link{}, false
	}
	flags := binary.NativeEndian.Uint32(data[8:])
	l := plan.Link{Index: number(data[4:8]), Up: flags&unix.IFF_UP != 0, Loopback: flags&unix.IFF_LOOPBACK != 0}
	kind := ""
	for attr, value := range attributes(data[unix.SizeofIfInfomsg:]) {
		switch attr {
		case unix.IFLA_IFNAME:
			l.Name = text(value)
		case unix.IFLA_ADDRESS:
			if len(value) == len(l.MAC) {
				l.MAC = facts.MAC(value)
			}
		case unix.IFLA_GROUP:
			l.Group = number(value)
		case unix.IFLA_MASTER:
			l.Master = number(value)
		case unix.IFLA_LINKINFO:
			for attr, value := range attributes(value) {
				if attr == unix.IFLA_INFO_KIND {
					kind = text(value)
				}
			}
		}
	}
	l.Device = kind == "" || kind == "veth" && l.Master == 0 && k.IsENI(l)
	return l, true
}

// udevCounts reports whether udev's database has the property of ENIs for an
// interface. A container's veth has not.
func udevCounts(l plan.Link) bool {
	properties, err := os.ReadFile(fmt.Sprintf("/run/udev/data/n%d", l.Index))
	return err == nil && slices.Contains(strings.Split(string(properties), "\n"), "E:EC2NET_ENI=1")
}
