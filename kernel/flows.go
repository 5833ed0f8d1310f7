package kernel

import (
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/plan"
)

const markMask = 21 // CTA_MARK_MASK of linux/netfilter/nfnetlink_conntrack.h

// dropFlows makes conntrack forget the connections with a mark: one request, for
// which the kernel goes through its table.
func dropFlows(c plan.DropFlows) error {
	s, err := openSocket(unix.NETLINK_NETFILTER, answerLimit)
	if err != nil {
		return err
	}
	defer s.close()
	const command = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_DELETE
	header := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	req := request(command, unix.NLM_F_ACK, header)
	add(req, nl.CTA_MARK, binary.BigEndian.AppendUint32(nil, uint32(c.Mark)))
	add(req, markMask, binary.BigEndian.AppendUint32(nil, uint32(c.Mask)))
	return s.do(req, nil)
}
