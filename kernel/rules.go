package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
)

// Values of linux/fib_rules.h.
const (
	sizeofRuleHeader = 12 // struct fib_rule_hdr
	actionTable      = 1  // FR_ACT_TO_TBL
	// lasting are the flags of the rule itself (FIB_RULE_PERMANENT, FIB_RULE_INVERT,
	// FIB_RULE_FIND_SADDR); the others say whether the devices and rules that it names
	// exist now.
	lasting = 0x1 | 0x2 | 0x10000
)

// rules lists the rules in the kernel's order. Of rules the kernel does not say that the
// list changed while it was read. Since it counts rules from one piece of the list to the
// next, it skips one when an earlier one goes. So rules accepts a list in several pieces
// only if it hears of no change meanwhile.
func (k *Kernel) rules(family int) ([]plan.Rule, error) {
	var events *os.File
	defer func() {
		if events != nil {
			events.Close()
		}
	}()
	all, _, err := list(k, "rules", func(each func(plan.Rule)) error {
		pieces, err := k.dumpRules(family, each)
		if err != nil || pieces <= 1 {
			return err
		}
		if events == nil {
			if events, err = listen(1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(ruleGroup6-1)); err != nil {
				return err
			}
			return ErrInterrupted // perhaps: nobody was listening yet
		}
		return silent(events)
	})
	slices.SortStableFunc(all, func(a, b plan.Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	return all, err
}

const ruleGroup6 = 19 // RTNLGRP_IPV6_RULE of linux/rtnetlink.h

// silent returns ErrInterrupted if there was an event.
func silent(events *os.File) error {
	conn, err := events.SyscallConn()
	if err != nil {
		return err
	}
	var heard error
	err = conn.Read(func(fd uintptr) bool {
		buf := make([]byte, 4<<10)
		for {
			_, _, err := unix.Recvfrom(int(fd), buf, 0)
			switch {
			case err == nil, errors.Is(err, unix.ENOBUFS): // more than there was room for
				heard = ErrInterrupted
			case errors.Is(err, unix.EAGAIN):
				return true
			case !errors.Is(err, unix.EINTR):
				heard = os.NewSyscallError("recvfrom", err)
				return true
			}
		}
	})
	return cmp.Or(err, heard)
}

func (k *Kernel) dumpRules(family int, each func(plan.Rule)) (pieces int, err error) {
	header := make([]byte, sizeofRuleHeader)
	header[0] = byte(family)
	return k.route.ask(request(unix.RTM_GETRULE, unix.NLM_F_DUMP, header), func(data []byte) {
		if r, ok := rule(data); ok {
			each(r)
		}
	})
}

// rule reads a message of RTM_NEWRULE: struct fib_rule_hdr and FRA_ attributes. What
// iprule.Rule has no field for goes into Extra as it is: bytes of the header, then the
// attributes.
func rule(data []byte) (plan.Rule, bool) {
	if len(data) < sizeofRuleHeader {
		return plan.Rule{}, false
	}
	family, dstLen, srcLen := data[0], int(data[1]), int(data[2])
	r := iprule.Rule{IPv6: family == unix.AF_INET6, Table: int(data[4]), SuppressPrefixLength: -1, SuppressGroup: -1}
	var from, to netip.Addr
	extra := extraHeader(data)
	for attr, value := range attributes(data[sizeofRuleHeader:]) {
		switch attr {
		case unix.FRA_SRC:
			from, _ = netip.AddrFromSlice(value)
		case unix.FRA_DST:
			to, _ = netip.AddrFromSlice(value)
		case unix.FRA_PRIORITY:
			r.Priority = number(value)
		case unix.FRA_TABLE:
			r.Table = number(value)
		case unix.FRA_FWMARK:
			r.Mark = facts.Mark(number(value))
		case unix.FRA_FWMASK:
			r.MarkMask = facts.Mark(number(value))
		case unix.FRA_IIFNAME:
			r.IIF = text(value)
		case unix.FRA_OIFNAME:
			r.OIF = text(value)
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressPrefixLength = int(int32(number(value))) // -1: none
		case unix.FRA_SUPPRESS_IFGROUP:
			r.SuppressGroup = int(int32(number(value)))
		case unix.FRA_PROTOCOL:
			r.Protocol = number(value)
		case unix.FRA_PAD:
		default:
			extra = append(extra, nl.NewRtAttr(int(attr), value).Serialize()...)
		}
	}
	if srcLen > 0 {
		r.From = netip.PrefixFrom(from, srcLen)
	}
	if dstLen > 0 {
		r.To = netip.PrefixFrom(to, dstLen)
	}
	if from.IsValid() || to.IsValid() {
		r.IPv6 = false // the address says so already
	}
	found := plan.Rule{Rule: r}
	if string(extra) != string(plainHeader) {
		found.Extra = string(extra)
	}
	return found, true
}

// plainHeader is the extraHeader of a rule that just looks up a table.
var plainHeader = extraHeader([]byte{7: actionTable, 11: 0})

// extraHeader returns the parts of a rule's header that iprule.Rule has no field for: the
// type of service, the action and the flags.
func extraHeader(header []byte) []byte {
	flags := binary.NativeEndian.Uint32(header[8:]) & lasting
	return binary.NativeEndian.AppendUint32([]byte{header[3], header[7]}, flags)
}

const sizeofExtraHeader = 6

func extraOf(r plan.Rule) []byte {
	if len(r.Extra) < sizeofExtraHeader {
		return plainHeader
	}
	return []byte(r.Extra)
}

func familyOfRule(r plan.Rule) int {
	if r.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// addRule adds a rule unless it exists. The kernel answers EEXIST too often: to a rule
// without a source or destination if one with them exists, and to a rule that is not
// inverted if an inverted one exists (rule_exists of net/core/fib_rules.c).
func (k *Kernel) addRule(c plan.AddRule) error {
	r := plan.Rule{Rule: c.Rule}
	if err := k.before(c.String()); err != nil {
		return err
	}
	err := k.route.do(ruleRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r), nil)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	rules, err := k.rules(familyOfRule(r))
	if err != nil || slices.Contains(rules, r) {
		return err
	}
	return k.change(c, ruleRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE, r))
}

// ruleRequest makes a request to add or delete a rule. It names all attributes of the
// rule: RTM_DELRULE deletes the first rule that has those in the request.
func ruleRequest(command, flags int, r plan.Rule) *nl.NetlinkRequest {
	extra := extraOf(r)
	header := make([]byte, sizeofRuleHeader)
	header[0], header[3], header[7] = byte(familyOfRule(r)), extra[0], extra[1]
	copy(header[8:], extra[2:sizeofExtraHeader])
	req := request(command, flags|unix.NLM_F_ACK, header)
	if r.To.IsValid() {
		header[1] = byte(r.To.Bits())
		add(req, unix.FRA_DST, r.To.Addr().AsSlice())
	}
	if r.From.IsValid() {
		header[2] = byte(r.From.Bits())
		add(req, unix.FRA_SRC, r.From.Addr().AsSlice())
	}
	addNumber(req, unix.FRA_PRIORITY, r.Priority)
	if r.Table != 0 {
		addNumber(req, unix.FRA_TABLE, r.Table)
	}
	if r.Mark != 0 || r.MarkMask != 0 {
		addNumber(req, unix.FRA_FWMARK, int(r.Mark))
		addNumber(req, unix.FRA_FWMASK, int(r.MarkMask))
	}
	if r.IIF != "" {
		add(req, unix.FRA_IIFNAME, nl.ZeroTerminated(r.IIF))
	}
	if r.OIF != "" {
		add(req, unix.FRA_OIFNAME, nl.ZeroTerminated(r.OIF))
	}
	if r.SuppressPrefixLength >= 0 {
		addNumber(req, unix.FRA_SUPPRESS_PREFIXLEN, r.SuppressPrefixLength)
	}
	if r.SuppressGroup >= 0 {
		addNumber(req, unix.FRA_SUPPRESS_IFGROUP, r.SuppressGroup)
	}
	if r.Protocol != 0 {
		add(req, unix.FRA_PROTOCOL, []byte{byte(r.Protocol)})
	}
	req.AddRawData(extra[sizeofExtraHeader:])
	return req
}

func add(req *nl.NetlinkRequest, attr int, value []byte) { req.AddData(nl.NewRtAttr(attr, value)) }

func addNumber(req *nl.NetlinkRequest, attr, n int) { add(req, attr, uint32s(n)) }
