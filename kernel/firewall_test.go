package kernel

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// mangling is a message of nftables about a table of a family.
func mangling(kind uint16, family byte, table string) []byte {
	data := []byte{family, 0, 0, 0}
	name := append([]byte(table), 0)
	data = binary.NativeEndian.AppendUint16(data, uint16(4+len(name)))
	data = binary.NativeEndian.AppendUint16(data, nftaTable)
	data = append(data, name...)
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
	m = binary.NativeEndian.AppendUint16(m, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	m = append(m, make([]byte, unix.SizeofNlMsghdr-len(m))...)
	return append(m, data...)
}

// Rules of the table that come and go count. Sets, other tables and other families do not.
func TestMangled(t *testing.T) {
	for _, c := range []struct {
		kind   uint16
		family byte
		table  string
		want   bool
	}{
		{unix.NFT_MSG_DELTABLE, unix.AF_INET, "mangle", true},
		{unix.NFT_MSG_DELCHAIN, unix.AF_INET, "mangle", true},
		{unix.NFT_MSG_DELRULE, unix.AF_INET, "mangle", true},
		{unix.NFT_MSG_NEWRULE, unix.AF_INET, "mangle", true},
		{unix.NFT_MSG_NEWSETELEM, unix.AF_INET, "mangle", false},
		{unix.NFT_MSG_NEWRULE, unix.AF_INET, "filter", false},
		{unix.NFT_MSG_NEWRULE, unix.AF_INET6, "mangle", false},
	} {
		if got := mangled(mangling(c.kind, c.family, c.table)); got != c.want {
			t.Errorf("kind %d, family %d, %s: %t", c.kind, c.family, c.table, got)
		}
	}
}
