// Package stack knows who else configures an interface. The packages below it each
// bring interfaces up by one of the system's own stacks.
package stack

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"ec2net/disk"
	"ec2net/iprule"
	"ec2net/plan"
)

// Owner says who else configures an interface: two masters of one interface are
// worse than either. The zero value is nobody.
type Owner struct {
	Who  string // what there is of the owner's: a clause, for a person
	Hint string // how to give the interface to ec2net
}

// Nobody reports whether no one else configures the interface.
func (o Owner) Nobody() bool { return o == Owner{} }

// Elsewhere looks for another program that manages a link: systemd-networkd, for
// netplan too, and NetworkManager, by what they say under /run. It waits, for two
// seconds at most, for a networkd that has not decided yet.
func Elsewhere(ctx context.Context, tree *disk.Tree, link plan.Link) (Owner, error) {
	if o, err := networkd(ctx, tree, link); err != nil || !o.Nobody() {
		return o, err
	}
	return networkManager(tree, link)
}

// undecided is how long systemd-networkd may take to see a device.
const undecided = 2 * time.Second

// networkd reads what systemd-networkd says of a link: the file that
// sd_network_link_get_setup_state(3) reads.
func networkd(ctx context.Context, tree *disk.Tree, link plan.Link) (Owner, error) {
	file := fmt.Sprintf("/run/systemd/netif/links/%d", link.Index)
	ctx, cancel := context.WithTimeout(ctx, undecided)
	defer cancel()
	for {
		text, err := tree.Read(file)
		if err != nil || text == nil {
			return Owner{}, err
		}
		state, by := value(text, "ADMIN_STATE"), value(text, "NETWORK_FILE")
		switch {
		case (state == "pending" || state == "initialized") && by == "" && ctx.Err() == nil:
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		case by == "" && state != "configuring" && state != "configured":
			return Owner{}, nil
		case strings.Contains(path.Base(by), "netplan"):
			return Owner{"netplan configures it, by systemd-networkd", "once it is out of /etc/netplan, ec2net configures it"}, nil
		}
		return Owner{"systemd-networkd configures it, by " + by, "with Unmanaged=yes in its .network file networkd leaves it alone"}, nil
	}
}

// networkManager reads NetworkManager's state of a device.
func networkManager(tree *disk.Tree, link plan.Link) (Owner, error) {
	text, err := tree.Read(fmt.Sprintf("/run/NetworkManager/devices/%d", link.Index))
	if err != nil || value(text, "managed") != "true" {
		return Owner{}, err
	}
	return Owner{"NetworkManager manages it", "with unmanaged-devices= in NetworkManager.conf(5) it leaves the interface alone"}, nil
}

// value is that of a line NAME=value.
func value(text []byte, name string) string {
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return v
		}
	}
	return ""
}

// rtnetlink(7) names three tables, which the kernel and everybody use.
const (
	tableDefault = 253
	tableMain    = 254
	tableLocal   = 255
)

// VPCCNI is the rule of AWS's VPC CNI plugin, which gives secondary ENIs to pods.
var VPCCNI = iprule.Rule{Priority: 1024, Mark: 0x80, MarkMask: 0x80, Table: tableMain}

// ByRules looks for who routes by policy already: the VPC CNI plugin, and a tool
// that has sent an address of the link to a table of its own. own reports whether
// the link may have a table by the numbers of ec2net: older tools have the same
// ones, and ec2net takes over from them.
func ByRules(state plan.State, link plan.Link, own func(table int) bool) Owner {
	for _, r := range state.Rules {
		if r.Priority == VPCCNI.Priority && r.Mark == VPCCNI.Mark && r.MarkMask == VPCCNI.MarkMask && r.Table == VPCCNI.Table {
			return Owner{"the VPC CNI plugin of this Kubernetes node gives ENIs to pods",
				`with EC2NET_UNMANAGED="*" in /etc/default/ec2net, ec2net keeps from all of them without a word`}
		}
		everybodys := r.Table == tableMain || r.Table == tableLocal || r.Table == tableDefault
		if everybodys || r.Protocol == iprule.Protocol || own(r.Table) || !fromOne(state, link, r.From) {
			continue
		}
		return Owner{fmt.Sprintf("another tool has sent its address to a route table, %q", r.Rule.String()),
			"once that tool is gone, or its rule, ec2net configures the interface"}
	}
	return Owner{}
}

// fromOne reports whether a rule is for what comes from one address, which the link
// has.
func fromOne(state plan.State, link plan.Link, from netip.Prefix) bool {
	return from.IsValid() && from.IsSingleIP() && state.Has(link.Index, from.Addr())
}
