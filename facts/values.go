package facts

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// MAC is a hardware address of six octets, and comparable. Its text is lower case with
// colons, as the kernel and IMDS write it.
type MAC [6]byte

// ParseMAC reads a hardware address in any of the spellings of net.ParseMAC.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%s is not a MAC address", quoted(s))
	}
	return MAC(hw), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes a MAC for JSON.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMAC reads.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMAC(string(text))
	return err
}

// Mark is a fwmark, or the mask of one, in the spelling of ip rule and
// iptables: 0x3e9.
type Mark uint32

// ParseMark reads a mark in decimal, or in hex with the prefix 0x.
func ParseMark(s string) (Mark, error) {
	// ParseUint with base 0 would accept underscores and octal numbers, which ip(8) and
	// iptables(8) read differently or not at all.
	digits, isHex := strings.CutPrefix(s, "0x")
	base := 10
	if isHex {
		base = 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || (!isHex && len(s) > 1 && s[0] == '0') {
		return 0, fmt.Errorf("%s is not a mark such as 0x3fff", quoted(s))
	}
	return Mark(n), nil
}

func (m Mark) String() string { return fmt.Sprintf("%#x", uint32(m)) }

// MarshalText writes a mark for JSON.
func (m Mark) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMark reads.
func (m *Mark) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMark(string(text))
	return err
}

// maxName is the length of the longest name of an interface: IFNAMSIZ of linux/if.h
// without the final NUL.
const maxName = 15

// notENIs are names with another meaning: lo is the loopback; all and default are folders
// of /proc/sys/net/ipv4/conf; ethN and docker are in the names of templates; kernel is
// in the name of the lock for the kernel's rules.
var notENIs = []string{"lo", "all", "default", "ethN", "docker", "kernel"}

// CheckName fails if ec2net cannot configure an interface of this name. The name
// becomes part of file names, shell commands and iptables' chains, so it may have only
// characters without a meaning there; the kernel allows more. To ifupdown a dot means a
// VLAN.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("an interface's name cannot be empty")
	case len(name) > maxName:
		return fmt.Errorf("%s is longer than the %d characters of an interface's name", quoted(name), maxName)
	case name[0] == '-' || !safe(name):
		return fmt.Errorf("%s is not an ENI's name: only letters, digits, '_' and '-' may be in it", quoted(name))
	case slices.Contains(notENIs, name):
		return fmt.Errorf("%s is not an ENI's name", quoted(name))
	}
	return nil
}

func safe(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return false
		}
		return r != '_' && r != '-'
	})
}

// quoted makes a value from outside fit into one line of a message: it escapes newlines
// and control characters, and cuts a long value.
func quoted(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
	}
	return strconv.Quote(s)
}
