package facts

import (
	"fmt"
	"strconv"
	"strings"

	"ec2net/fault"
)

// Numbers are the settings that decide the number of every ENI. Table, metric, priority
// and mark of an ENI are one number, Base + Index, so that an operator who reads 1001
// anywhere knows that it means eth1.
type Numbers struct {
	// Base is 1000 by default; 10000 gives the numbers of Amazon's own tools.
	Base int
	// MarkMask has the bits of a packet's mark that are ec2net's; kube-proxy, Calico,
	// Tailscale and others use other bits.
	MarkMask Mark
	// Primary gives the primary ENI a table and rules of its own too, while another ENI is
	// up.
	Primary bool
}

// DefaultNumbers are the default settings.
var DefaultNumbers = Numbers{Base: 1000, MarkMask: 0x3fff, Primary: true}

const (
	// Tables 253, 254 and 255 are default, main and local (rtnetlink(7)).
	minBase = 256
	// mainPriority is the priority of the kernel's rule for the main table (ip-rule(8)):
	// main's default route answers before any rule behind it.
	mainPriority = 32766
	// PrimaryPriority is the priority of the primary's rules. They stand in for main's rule
	// and come just before it, so that other programs' rules decide as if no other ENI were
	// there.
	PrimaryPriority = mainPriority - 1
)

// Check returns an error if no ENI could have a number under these settings.
func (n Numbers) Check() error {
	switch {
	case n.Base < minBase || n.Base >= mainPriority:
		return fmt.Errorf("base %d is not within %d and %d: route tables below are the kernel's own, ip rules above come after main's",
			n.Base, minBase, mainPriority-1)
	case !n.fits(n.Base + 1):
		return fmt.Errorf("base %d does not fit under the mark mask %v: the mark of eth1 would be %v", n.Base, n.MarkMask, Mark(n.Base+1))
	}
	return nil
}

func (n Numbers) fits(number int) bool {
	return number > 0 && number < mainPriority && Mark(number)&n.MarkMask == Mark(number)
}

// of returns e with the numbers that follow from its name and place.
func (n Numbers) of(e ENI) (ENI, error) {
	if err := n.Check(); err != nil {
		return e, err
	}
	index, fromName := indexOfName(e.Name)
	if !fromName {
		if e.DeviceNumber > 99 {
			return e, fieldErrorf("device_number", "%d: only 0 to 99 gives %s an index of its own (device number + 100 * network card)",
				e.DeviceNumber, e.Name)
		}
		index = e.DeviceNumber + 100*e.NetworkCard
	}
	number := n.Base + index
	if !n.fits(number) {
		return e, fieldErrorf("index", "%d of %s is too large: %d + %d has to be below %d and a mark under the mask %v",
			index, e.Name, n.Base, index, mainPriority, n.MarkMask)
	}
	e.Index = index
	e.Number, e.MarkMask = number, n.MarkMask
	e.Routed = !e.Primary || n.Primary
	return e, nil
}

// NumberedByName reports whether the name alone decides the number of an ENI.
func NumberedByName(name string) bool {
	_, ok := indexOfName(name)
	return ok
}

// indexOfName reads the N of ethN. It refuses eth01, which would share its index
// with eth1.
func indexOfName(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "eth")
	if !ok || digits == "" || (len(digits) > 1 && digits[0] == '0') {
		return 0, false
	}
	if strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	// Out of range, ParseUint returns the largest number, which is too large for an ENI.
	n, _ := strconv.ParseUint(digits, 10, 31)
	return int(n), true
}

// ClashError names two ENIs that cannot be on one machine, and says why.
type ClashError struct{ text string }

func (e *ClashError) Error() string { return e.text }

// Status is the status of a mistake that a person has to correct.
func (*ClashError) Status() fault.Status { return fault.Usage }

// Distinct fails if these ENIs cannot be on one machine: two with one index would share a
// number; two with one MAC, id or address would be one ENI under two names.
func Distinct(enis []ENI) error {
	owners := make(map[any]string)
	for _, e := range enis {
		own := []any{e.Index, e.MAC, e.ID}
		for _, a := range e.IPv4 {
			own = append(own, a)
		}
		for i, thing := range own {
			other, taken := owners[thing]
			owners[thing] = e.Name
			switch {
			case !taken:
			case i == 0:
				return &ClashError{fmt.Sprintf("%s and %s both have the index %d, so they would share table %d", other, e.Name, e.Index, e.Number)}
			default:
				return &ClashError{fmt.Sprintf("%s and %s both have %v", other, e.Name, thing)}
			}
		}
	}
	return nil
}
