package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/fault"
)

// GoneError says that no interface has this name. Trying again does not help until
// somebody attaches one.
type GoneError struct{ Name string }

func (e *GoneError) Error() string { return fmt.Sprintf("there is no interface %s here", e.Name) }

// Status tells the caller not to try again.
func (*GoneError) Status() fault.Status { return fault.NoRetry }

// Hint says what the reader can do about it.
func (e *GoneError) Hint() string {
	return "ip link shows the interfaces; ec2net render --facts FILE renders one that is not on this machine"
}

// OtherNameError says that a name is an alternative name of an interface.
type OtherNameError struct{ Name, Real string }

func (e *OtherNameError) Error() string {
	return fmt.Sprintf("%s is another name of the interface %s", e.Name, e.Real)
}

// Status is the status of wrong usage.
func (*OtherNameError) Status() fault.Status { return fault.Usage }

// Hint says which name to use.
func (e *OtherNameError) Hint() string { return "use the name " + e.Real }

// MAC asks the kernel for the hardware address of an interface: one
// RTM_GETLINK request by name (rtnetlink(7)), in the network namespace of the
// caller, whatever is mounted on /sys.
func MAC(name string) (facts.MAC, error) {
	k, err := Open()
	if err != nil {
		return facts.MAC{}, fmt.Errorf("cannot look up the interface %s: %w", name, err)
	}
	defer k.Close()
	l, err := k.named(name)
	if errors.Is(err, unix.ENODEV) {
		return facts.MAC{}, &GoneError{Name: name}
	} else if err != nil {
		return facts.MAC{}, fmt.Errorf("cannot look up the interface %s: %w", name, err)
	}
	if l.Name != name {
		// The kernel also finds an interface by its alternative names, but iptables
		// and /proc/sys do not know those.
		return facts.MAC{}, &OtherNameError{Name: name, Real: l.Name}
	}
	if l.MAC == (facts.MAC{}) {
		return facts.MAC{}, fmt.Errorf("%s has no MAC address of six octets, so it is no ENI", name)
	}
	return l.MAC, nil
}
