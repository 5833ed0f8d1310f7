// Package hooks is what meets the running system: the interfaces that the
// kernel has, and what happens when one of them changes.
package hooks

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/fault"
)

// Link is an interface as the kernel has it.
type Link struct {
	Name  string
	Index int
	MAC   facts.MAC // zero without one of six octets
	Group int
	Up    bool
	// Device is true for a card's own interface, and for a veth that udev's rules
	// count as an ENI; false for bridges, tunnels and what else the kernel makes.
	Device bool
	// Loopback is true for lo.
	Loopback bool
}

func linkNamed(links []Link, name string) (Link, bool) {
	for _, l := range links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

func indexed(links []Link, index int) (Link, bool) {
	for _, l := range links {
		if l.Index == index {
			return l, true
		}
	}
	return Link{}, false
}

// GoneError says that there is no interface of this name. Trying again does
// not help before somebody attaches one.
type GoneError struct{ Name string }

func (e *GoneError) Error() string { return fmt.Sprintf("there is no interface %s here", e.Name) }

// Status is that of what another try does not change.
func (*GoneError) Status() fault.Status { return fault.NoRetry }

// Hint says what the reader can do about it.
func (e *GoneError) Hint() string {
	return "ip link shows the interfaces; ec2net render --facts FILE renders one that is not on this machine"
}

// OtherNameError says that a name is not the interface's own.
type OtherNameError struct{ Name, Real string }

func (e *OtherNameError) Error() string {
	return fmt.Sprintf("%s is another name of the interface %s", e.Name, e.Real)
}

// Status is that of a wrong name.
func (*OtherNameError) Status() fault.Status { return fault.Usage }

// Hint says which name to use.
func (e *OtherNameError) Hint() string { return "use the name " + e.Real }

// MAC asks the kernel for the hardware address of an interface: one
// RTM_GETLINK request by name (rtnetlink(7)), in the network namespace of the
// caller, whatever is mounted on /sys.
func MAC(name string) (facts.MAC, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) {
			return facts.MAC{}, &GoneError{Name: name}
		}
		return facts.MAC{}, fmt.Errorf("cannot look up the interface %s: %w", name, err)
	}
	if real := link.Attrs().Name; real != name {
		// The kernel finds an interface by its alternative names too; iptables
		// and /proc/sys know the one name only.
		return facts.MAC{}, &OtherNameError{Name: name, Real: real}
	}
	hw := link.Attrs().HardwareAddr
	if len(hw) != len(facts.MAC{}) {
		return facts.MAC{}, fmt.Errorf("%s has no MAC address of six octets, so it is no ENI", name)
	}
	return facts.MAC(hw), nil
}
