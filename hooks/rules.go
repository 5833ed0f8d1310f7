package hooks

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
)

// fromNetlink reads a rule of the kernel's.
func fromNetlink(r netlink.Rule) KernelRule {
	k := KernelRule{raw: r, Rule: iprule.Rule{
		Priority: r.Priority, From: fromIPNet(r.Src), To: fromIPNet(r.Dst),
		Mark: facts.Mark(r.Mark), IIF: r.IifName, OIF: r.OifName, Table: r.Table, Protocol: int(r.Protocol),
		SuppressPrefixLength: r.SuppressPrefixlen, SuppressGroup: r.SuppressIfgroup,
	}}
	if r.Mask != nil {
		k.MarkMask = facts.Mark(*r.Mask)
	}
	k.Odd = r.Invert || r.Tos != 0 || r.TunID != 0 || r.Goto >= 0 || r.Flow > 0 ||
		r.Dport != nil || r.Sport != nil || r.IPProto != 0 || r.UIDRange != nil
	return k
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromIPNet(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	length, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), length)
}

// ruleRequest is a request to add or delete a rule: struct fib_rule_hdr and
// the FRA_ attributes of linux/fib_rules.h. The library has one of its own,
// which leaves the suppressors out of a rule for a table above 255.
func ruleRequest(command, flags int, r iprule.Rule) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(command, flags|unix.NLM_F_ACK)
	msg := nl.NewRtMsg()
	msg.Family, msg.Type = unix.AF_INET, unix.RTN_UNICAST // FR_ACT_TO_TBL is 1 too
	msg.Table, msg.Scope, msg.Protocol = unix.RT_TABLE_UNSPEC, unix.RT_SCOPE_UNIVERSE, 0
	msg.Flags = 0
	req.AddData(msg)
	number := func(attr int, n uint32) { req.AddData(nl.NewRtAttr(attr, nl.Uint32Attr(n))) }
	if r.From.IsValid() {
		msg.Src_len = uint8(r.From.Bits())
		req.AddData(nl.NewRtAttr(nl.FRA_SRC, r.From.Addr().AsSlice()))
	}
	if r.To.IsValid() {
		msg.Dst_len = uint8(r.To.Bits())
		req.AddData(nl.NewRtAttr(nl.FRA_DST, r.To.Addr().AsSlice()))
	}
	number(nl.FRA_PRIORITY, uint32(r.Priority))
	number(nl.FRA_TABLE, uint32(r.Table))
	if r.MarkMask != 0 {
		number(nl.FRA_FWMARK, uint32(r.Mark))
		number(nl.FRA_FWMASK, uint32(r.MarkMask))
	}
	if r.IIF != "" {
		req.AddData(nl.NewRtAttr(nl.FRA_IIFNAME, nl.ZeroTerminated(r.IIF)))
	}
	if r.OIF != "" {
		req.AddData(nl.NewRtAttr(nl.FRA_OIFNAME, nl.ZeroTerminated(r.OIF)))
	}
	if r.SuppressPrefixLength >= 0 {
		number(nl.FRA_SUPPRESS_PREFIXLEN, uint32(r.SuppressPrefixLength))
	}
	if r.SuppressGroup >= 0 {
		number(nl.FRA_SUPPRESS_IFGROUP, uint32(r.SuppressGroup))
	}
	if r.Protocol != 0 {
		req.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, nl.Uint8Attr(uint8(r.Protocol))))
	}
	return req
}
