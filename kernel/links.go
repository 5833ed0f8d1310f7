package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
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
	return k.oneLink(request(unix.RTM_GETLINK, 0, linkHeader(index)))
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
	l.NoIPv6 = true
	kind, filter := "", 0
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
			kind = text(attribute(value, unix.IFLA_INFO_KIND))
		case unix.IFLA_AF_SPEC:
			inet := attribute(value, unix.AF_INET)
			filter, l.Forwards = inetValue(inet, filterNumber), inetValue(inet, forwardingNumber) != 0
			l.NoIPv6 = withoutIPv6(attribute(value, unix.AF_INET6))
		}
	}
	l.Device = kind == "" || kind == "veth" && l.Master == 0 && k.IsENI(l)
	l.Strict = l.Device && !l.Loopback && k.isStrict(filter)
	return l, true
}

// attribute returns the value of an attribute among others; nil if it is not there.
func attribute(among []byte, kind uint16) []byte {
	for attr, value := range attributes(among) {
		if attr == kind {
			return value
		}
	}
	return nil
}

// Values of net.ipv4.conf.NAME.rp_filter, and the numbers of it and of forwarding in
// linux/ip.h: IPV4_DEVCONF_RP_FILTER, IPV4_DEVCONF_FORWARDING.
const (
	strictFilter     = 1
	looseFilter      = 2
	filterNumber     = 8
	forwardingNumber = 1
)

// inetConf is IFLA_INET_CONF of linux/if_link.h.
const inetConf = 1

// inetValue returns a value of net.ipv4.conf.NAME by its number: in a message of the
// kernel, IFLA_INET_CONF is the array of all.
func inetValue(inet []byte, which int) int {
	conf := attribute(inet, inetConf)
	if len(conf) < 4*which {
		return 0
	}
	return number(conf[4*(which-1):][:4])
}

// isStrict reports whether the filter of an interface is strict: the kernel takes the
// larger value of the interface's own and that of all.
func (k *Kernel) isStrict(own int) bool {
	return own <= strictFilter && max(own, k.filterOfAll()) == strictFilter
}

// filterOfAll returns net.ipv4.conf.all.rp_filter, which no message about an interface
// has; 0 if it is unknown.
func (k *Kernel) filterOfAll() int {
	var value [4]byte
	if k.allFilter == nil {
		return 0
	}
	n, _ := k.allFilter.ReadAt(value[:], 0)
	all, _ := strconv.Atoi(strings.TrimSpace(string(value[:n])))
	return all
}

// inet6Conf is IFLA_INET6_CONF of linux/if_link.h, and disableNumber the number of
// disable_ipv6 in linux/ipv6.h: DEVCONF_DISABLE_IPV6.
const (
	inet6Conf     = 2
	disableNumber = 26
)

// withoutIPv6 reports whether IPv6 is off on an interface, by AF_INET6 of IFLA_AF_SPEC: there
// IFLA_INET6_CONF is the array of all values of net.ipv6.conf.NAME.
func withoutIPv6(inet6 []byte) bool {
	conf := attribute(inet6, inet6Conf)
	return len(conf) < 4*(disableNumber+1) || number(conf[4*disableNumber:][:4]) != 0
}

// disableIPv6 switches IPv6 off on an interface, by its file: netlink has no request for it.
func (k *Kernel) disableIPv6(c plan.DisableIPv6) error {
	if err := k.before(c.String()); err != nil {
		return err
	}
	if k.inet6 == nil {
		return errors.New("there is no /proc/sys/net/ipv6")
	}
	err := k.inet6.WriteFile(c.Link.Name+"/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return unix.ENODEV
	}
	return err
}

// looseRequest sets rp_filter: inet_set_link_af of net/ipv4/devinet.c.
func looseRequest(l plan.Link) *nl.NetlinkRequest {
	req := request(unix.RTM_SETLINK, unix.NLM_F_ACK, linkHeader(l.Index))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, nil)
	conf := spec.AddRtAttr(unix.AF_INET|unix.NLA_F_NESTED, nil).AddRtAttr(inetConf|unix.NLA_F_NESTED, nil)
	conf.AddRtAttr(filterNumber, uint32s(looseFilter))
	req.AddData(spec)
	return req
}

// linkHeader is struct ifinfomsg.
func linkHeader(index int) []byte {
	header := make([]byte, unix.SizeofIfInfomsg)
	copy(header[4:], uint32s(index))
	return header
}

// udevCounts reports whether an interface has the property of ENIs in udev's database,
// which a container's veth does not have.
func udevCounts(l plan.Link) bool { return counts("/run/udev/data", l) }

func counts(database string, l plan.Link) bool {
	properties, err := os.ReadFile(fmt.Sprintf("%s/n%d", database, l.Index))
	return err == nil && slices.Contains(strings.Split(string(properties), "\n"), "E:EC2NET_ENI=1")
}
