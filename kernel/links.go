package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/plan"
)

// skipStatistics is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h: without the counters,
// the message of an interface has half the size.
const skipStatistics = 1 << 3

// Links lists the interfaces.
func (k *Kernel) Links() ([]plan.Link, error) {
	links, together, err := list(k, "links", k.dumpLinks)
	if together {
		return k.linksSingly(links)
	}
	return links, err
}

// linksSingly asks for each interface alone: among those that several tries saw, some are
// gone, and others have another name.
func (k *Kernel) linksSingly(seen []plan.Link) ([]plan.Link, error) {
	var indexes []int
	for _, l := range seen {
		indexes = append(indexes, l.Index)
	}
	slices.Sort(indexes)
	indexes = slices.Compact(indexes)
	for range tries {
		var links []plan.Link
		names := make(map[string]bool)
		for _, index := range indexes {
			l, err := k.indexed(index)
			if errors.Is(err, unix.ENODEV) {
				continue
			} else if err != nil {
				return nil, err
			}
			links = append(links, l)
			names[l.Name] = true
		}
		// If two have one name, the first has been renamed meanwhile.
		if len(names) == len(links) {
			return links, nil
		}
	}
	return nil, ErrInterrupted
}

// indexed asks for one interface.
func (k *Kernel) indexed(index int) (plan.Link, error) {
	if err := k.before("links"); err != nil {
		return plan.Link{}, err
	}
	header := make([]byte, unix.SizeofIfInfomsg)
	copy(header[4:], uint32s(index))
	return k.oneLink(request(unix.RTM_GETLINK, 0, header))
}

// named asks for one interface by any of its names.
func (k *Kernel) named(name string) (plan.Link, error) {
	attr := unix.IFLA_IFNAME
	if len(name) >= unix.IFNAMSIZ {
		attr = unix.IFLA_ALT_IFNAME
	}
	req := request(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg))
	add(req, attr, nl.ZeroTerminated(name))
	return k.oneLink(req)
}

// oneLink returns ENODEV if there is no such interface.
func (k *Kernel) oneLink(req *nl.NetlinkRequest) (found plan.Link, err error) {
	addNumber(req, unix.IFLA_EXT_MASK, skipStatistics)
	err = k.route.do(req, func(data []byte) { found, _ = k.link(data) })
	return found, err
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

// udevCounts reports whether an interface has the property of ENIs in udev's database,
// which a container's veth does not have.
func udevCounts(l plan.Link) bool { return counts("/run/udev/data", l) }

func counts(database string, l plan.Link) bool {
	properties, err := os.ReadFile(fmt.Sprintf("%s/n%d", database, l.Index))
	return err == nil && slices.Contains(strings.Split(string(properties), "\n"), "E:EC2NET_ENI=1")
}
