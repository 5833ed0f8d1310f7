package lab

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
)

// startResolver answers at the address of DNS that the DHCP server tells each subnet, on
// UDP: no name exists. Without an answer cloud-init would wait for names. It ends with
// the VPC.
func (v *VPC) startResolver() error {
	return v.router.net.do(func() error {
		for _, s := range v.subnets {
			if err := addAddress("lo", s.dns().String()+"/32"); err != nil {
				return err
			}
			conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.dns(), 53)))
			if err != nil {
				return fmt.Errorf("cannot answer on DNS: %w", err)
			}
			v.resolvers = append(v.resolvers, conn)
			go serveNames(conn)
		}
		return nil
	})
}

func serveNames(conn *net.UDPConn) {
	query := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(query)
		if err != nil {
			return
		}
		if answer := noSuchName(query[:n]); answer != nil {
			_, _ = conn.WriteToUDPAddrPort(answer, from)
		}
	}
}

// noSuchName answers a query with NXDOMAIN, or not at all: RFC 1035, "4. Messages".
func noSuchName(query []byte) []byte {
	const header, typeAndClass = 12, 4
	if len(query) < header || query[2]&0x80 != 0 { // it is an answer itself
		return nil
	}
	name := bytes.IndexByte(query[header:], 0) // the root, at the name's end: no label has a 0
	end := header + name + 1 + typeAndClass
	if name < 0 || end > len(query) {
		return nil
	}
	answer := bytes.Clone(query[:end])
	answer[2] |= 0x80 // an answer
	answer[3] = 0x83  // recursion is available; no such name
	// One question, and neither answers nor more, such as the query's EDNS.
	copy(answer[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0})
	return answer
}
