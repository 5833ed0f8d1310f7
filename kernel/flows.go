package kernel

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaID       = 12 // CTA_ID
	ctaZone     = 18 // CTA_ZONE
	ctaMarkMask = 21 // CTA_MARK_MASK
)

// dropFlows makes conntrack forget the connections with a mark, with one request: the
// kernel goes through its table itself.
func dropFlows(c plan.DropFlows) error {
	s, err := openSocket(unix.NETLINK_NETFILTER, answerLimit)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // without netfilter there are no connections
	} else if err != nil {
		return err
	}
	defer s.close()
	if !dropsByMark() {
		return dropSingly(s, c)
	}
	return s.do(flowsRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, c), nil)
}

// dropsByMark reports whether the kernel looks at the mark in a request to delete
// connections. Linux before 4.0 does not, and would delete all connections.
func dropsByMark() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	major, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), ".")
	n, err := strconv.Atoi(major)
	return err == nil && n >= 4
}

// dropSingly lists the connections and deletes those with the mark, one by one.
func dropSingly(s *socket, c plan.DropFlows) error {
	second, err := openSocket(unix.NETLINK_NETFILTER, answerLimit)
	if err != nil {
		return err
	}
	defer second.close()
	var failed error
	err = s.do(flowsRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, c), func(data []byte) {
		mark := uint32(0)
		req := flowRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, data[0])
		for attr, value := range attributes(data[nl.SizeofNfgenmsg:]) {
			switch attr {
			case nl.CTA_MARK:
				mark = binary.BigEndian.Uint32(value)
			case nl.CTA_TUPLE_ORIG:
				add(req, nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, value)
			case ctaID, ctaZone:
				add(req, int(attr), value)
			}
		}
		if mark&uint32(c.Mask) != uint32(c.Mark) {
			return // such a kernel does not filter the list either
		}
		if err := second.do(req, nil); err != nil && !errors.Is(err, unix.ENOENT) {
			failed = err
		}
	})
	return errors.Join(err, failed)
}

// flowsRequest makes a request about the connections with a mark.
func flowsRequest(command, flags int, c plan.DropFlows) *nl.NetlinkRequest {
	req := flowRequest(command, flags, unix.AF_UNSPEC)
	add(req, nl.CTA_MARK, binary.BigEndian.AppendUint32(nil, uint32(c.Mark)))
	add(req, ctaMarkMask, binary.BigEndian.AppendUint32(nil, uint32(c.Mask)))
	return req
}

func flowRequest(command, flags int, family byte) *nl.NetlinkRequest {
	header := []byte{family, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	return request(unix.NFNL_SUBSYS_CTNETLINK<<8|command, flags, header)
}
