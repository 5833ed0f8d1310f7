// Package stack finds the owner of an interface other than ec2net. Each package below
// it brings interfaces up by one network stack of the system.
package stack

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"ec2net/disk"
	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/plan"
)

// Owner says who else configures an interface: two masters of one interface are
// worse than either. The zero value means nobody.
type Owner struct {
	Who  string // a clause, for a person
	Hint string // how to give the interface to ec2net
}

// Nobody reports whether no one else configures the interface.
func (o Owner) Nobody() bool { return o == Owner{} }

// Stanza is what the file says by which an interface comes up.
type Stanza struct {
	// Unmanaged says that ec2net is to leave the interface alone, Generated that ec2net has
	// written the file.
	Unmanaged, Generated bool
	// Routes are those that the interface gets with it. Loose says that the interface gets a
	// loose reverse path filter, NoIPv6 that it gets no IPv6.
	Routes        []iproute.Route
	Loose, NoIPv6 bool
	// Marks says that packets which come in by the interface get marks.
	Marks bool
}

// Health says what may be the matter with an interface that is up.
type Health struct {
	// Changed says that the file differs from the one by which it came up.
	Changed bool
	// NoClient says that no DHCP client runs for it, and one should.
	NoClient bool
}

// Elsewhere looks under /run for another program that manages a link: systemd-networkd,
// for netplan too, and NetworkManager. It waits up to two seconds for a networkd that
// has not decided yet. It is for a machine whose stack is not networkd: own is the file that
// ec2net has written for networkd if that was the stack before.
func Elsewhere(ctx context.Context, tree *disk.Tree, link plan.Link, own string) (Owner, error) {
	state, err := AwaitLinkState(ctx, tree, link.Index, LinkState.Undecided)
	switch {
	case err != nil:
		return Owner{}, err
	case !state.Managed(), state.File != "" && state.File == own:
		return NetworkManager(tree, link)
	case strings.Contains(path.Base(state.File), "netplan"):
		return Owner{"netplan configures it, by systemd-networkd", "remove it from /etc/netplan, and ec2net configures it"}, nil
	}
	return Owner{"systemd-networkd configures it, by " + state.File, "put Unmanaged=yes into its .network file, and ec2net configures it"}, nil
}

// NetworkManager asks whether NetworkManager manages a link, by its state of the device.
func NetworkManager(tree *disk.Tree, link plan.Link) (Owner, error) {
	text, err := tree.Read(fmt.Sprintf("/run/NetworkManager/devices/%d", link.Index))
	if err != nil || value(text, "managed") != "true" {
		return Owner{}, err
	}
	return Owner{"NetworkManager manages it", "name it in unmanaged-devices= in NetworkManager.conf(5), and ec2net configures it"}, nil
}

// value returns the value of a line NAME=value.
func value(text []byte, name string) string {
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return v
		}
	}
	return ""
}

// The tables that everybody uses: rtnetlink(7).
const (
	tableDefault = 253
	tableMain    = 254
	tableLocal   = 255
)

// ByRules looks for another owner in the ip rules: a tool that sends an address of the
// link to a table of its own. own reports whether a
// table can be the link's by ec2net's numbers: older tools use the same numbers, and
// ec2net takes over from them.
func ByRules(state plan.State, link plan.Link, own func(table int) bool) Owner {
	for _, r := range state.Rules {
		everybodys := r.Table == tableMain || r.Table == tableLocal || r.Table == tableDefault
		if everybodys || r.Protocol == iprule.Protocol || own(r.Table) || !fromOne(state, link, r.From) {
			continue
		}
		return Owner{fmt.Sprintf("another tool sends its address to a route table, %q", r.Rule.String()),
			"remove that tool or its rule, and ec2net configures the interface"}
	}
	return Owner{}
}

// fromOne reports whether a rule is for packets from a single address of the link.
func fromOne(state plan.State, link plan.Link, from netip.Prefix) bool {
	return from.IsValid() && from.IsSingleIP() && state.Has(link.Index, from.Addr())
}
