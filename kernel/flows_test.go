package kernel

import (
	"encoding/binary"
	"maps"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/plan"
)

// addFlows gives conntrack n connections with a mark, all to one port.
func addFlows(t testing.TB, mark facts.Mark, port uint16, n int) {
	t.Helper()
	s, err := openSocket(unix.NETLINK_NETFILTER, answerLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	big16, big32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	tuple := func(kind int, from, to []byte, fromPort, toPort uint16) *nl.RtAttr {
		a := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
		ip := a.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
		ip.AddRtAttr(nl.CTA_IP_V4_SRC, from)
		ip.AddRtAttr(nl.CTA_IP_V4_DST, to)
		proto := a.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
		proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
		proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, big16(nil, fromPort))
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, big16(nil, toPort))
		return a
	}
	var batch []byte
	for i := range n {
		from, to := []byte{10, 7, byte(i >> 16), byte(i >> 8)}, []byte{10, 0, 1, 20}
		fromPort := 1024 + uint16(i&0xff)
		const command = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_NEW
		req := request(command, unix.NLM_F_CREATE, []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0})
		req.AddData(tuple(nl.CTA_TUPLE_ORIG, from, to, fromPort, port))
		req.AddData(tuple(nl.CTA_TUPLE_REPLY, to, from, port, fromPort))
		add(req, nl.CTA_TIMEOUT, big32(nil, 600))
		add(req, nl.CTA_MARK, big32(nil, uint32(mark)))
		batch = append(batch, req.Serialize()...)
		if len(batch) > 16<<10 || i == n-1 {
			if err := s.send(batch); err != nil {
				t.Fatal(err)
			}
			batch = nil
		}
	}
}

// flows counts conntrack's connections by mark.
func flows(t *testing.T) map[uint32]int {
	t.Helper()
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	check(t, err)
	found := map[uint32]int{}
	for _, f := range all {
		found[f.Mark]++
	}
	return found
}

// DropFlows drops the connections with a mark, and no others.
func TestDropFlows(t *testing.T) {
	for name, drop := range map[string]func(*Kernel, plan.DropFlows) error{
		"at once": func(k *Kernel, c plan.DropFlows) error { return k.Apply(c) },
		"singly": func(_ *Kernel, c plan.DropFlows) error {
			s, err := openSocket(unix.NETLINK_NETFILTER, answerLimit)
			if err != nil {
				return err
			}
			defer s.close()
			return dropSingly(s, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := inNetns(t)
			addFlows(t, 0x3e9, 1, 300)
			addFlows(t, 0x83e9, 2, 30) // with a bit that is not ec2net's
			addFlows(t, 0x3ea, 3, 20)
			addFlows(t, 0, 4, 10)
			if got := flows(t); !maps.Equal(got, map[uint32]int{0x3e9: 300, 0x83e9: 30, 0x3ea: 20, 0: 10}) {
				t.Fatalf("%v", got)
			}
			for range 2 {
				check(t, drop(k, plan.DropFlows{Mark: 0x3e9, Mask: 0x3fff}))
				if got := flows(t); !maps.Equal(got, map[uint32]int{0x3ea: 20, 0: 10}) {
					t.Fatalf("%v", got)
				}
			}
		})
	}
}

// DropFlows keeps nothing of a large table in memory.
func TestDropFlowsIsFlat(t *testing.T) {
	k := inNetns(t)
	addFlows(t, 0x3e9, 1, 5000)
	addFlows(t, 0x3ea, 2, 5000)
	allocated(t, 256<<10, func() { check(t, k.Apply(plan.DropFlows{Mark: 0x3e9, Mask: 0x3fff})) })
	if got := flows(t); !maps.Equal(got, map[uint32]int{0x3ea: 5000}) {
		t.Errorf("%v", got)
	}
}

// allocated fails the test if f allocates more than most bytes, including those it frees.
func allocated(t *testing.T, most uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Errorf("allocated %d KiB", n>>10)
	}
}
