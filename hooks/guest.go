package hooks

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/render"
)

// checkGuest looks for whoever else configures an interface that ec2net has not
// brought up: two masters of one interface are worse than either.
func (h *Host) checkGuest(ctx context.Context, l *look) error {
	for _, find := range []func(context.Context, *look) (owner, hint string, err error){
		h.networkd, h.networkManager, h.otherStanza, h.otherRules,
	} {
		owner, hint, err := find(ctx, l)
		if err != nil {
			return err
		}
		if owner != "" {
			return &UnmanagedError{l.name, owner, hint}
		}
	}
	return nil
}

// undecided is how long systemd-networkd may take to see a device.
const undecided = 2 * time.Second

// networkd reads what systemd-networkd says of a link: the file that
// sd_network_link_get_setup_state(3) reads. netplan has it configured by
// networkd too.
func (h *Host) networkd(ctx context.Context, l *look) (owner, hint string, err error) {
	file := fmt.Sprintf("/run/systemd/netif/links/%d", l.link.Index)
	ctx, cancel := context.WithTimeout(ctx, undecided)
	defer cancel()
	for {
		text, err := h.Tree.Read(file)
		if err != nil || text == nil {
			return "", "", err
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
			return "", "", nil
		case strings.Contains(path.Base(by), "netplan"):
			return "netplan has systemd-networkd configure it", "take it out of /etc/netplan to have ec2net do so", nil
		}
		return "systemd-networkd configures it, by " + by, "Unmanaged=yes in its .network file has networkd leave it", nil
	}
}

// networkManager reads NetworkManager's state of a device.
func (h *Host) networkManager(_ context.Context, l *look) (owner, hint string, err error) {
	text, err := h.Tree.Read(fmt.Sprintf("/run/NetworkManager/devices/%d", l.link.Index))
	if err != nil || value(text, "managed") != "true" {
		return "", "", err
	}
	return "NetworkManager manages it", "unmanaged-devices= in NetworkManager.conf(5) has it leave it", nil
}

// otherStanza finds a stanza for the interface that is not ec2net's:
// cloud-ifupdown-helper's, or an administrator's.
func (h *Host) otherStanza(_ context.Context, l *look) (owner, hint string, err error) {
	own, err := cfgPath(l.name)
	if err != nil {
		return "", "", err
	}
	files, err := h.interfacesFiles()
	if err != nil {
		return "", "", err
	}
	for _, f := range files {
		if !render.HasStanza(f.text, l.name) {
			continue
		}
		if f.path == own {
			if k, _ := l.Of(l.name); k.Ours {
				return "", "", nil
			}
		}
		if path.Dir(f.path) == "/run/network/interfaces.d" {
			return "cloud-ifupdown-helper has a stanza for it in " + f.path,
				"without /etc/udev/rules.d/75-cloud-ifupdown.rules there is none after the next boot", nil
		}
		return "there is a stanza for it in " + f.path, "take the stanza out to have ec2net write one", nil
	}
	return "", "", nil
}

// vpcCNI is the rule of AWS's VPC CNI plugin, which gives secondary ENIs to pods.
var vpcCNI = iprule.Rule{Priority: 1024, Mark: 0x80, MarkMask: 0x80, Table: unix.RT_TABLE_MAIN}

// otherRules finds who routes by policy already: the VPC CNI plugin, and tools
// that have sent an address of the interface to a table of their own.
func (h *Host) otherRules(_ context.Context, l *look) (owner, hint string, err error) {
	for _, k := range l.State.Rules {
		if k.Priority == vpcCNI.Priority && k.Mark == vpcCNI.Mark && k.MarkMask == vpcCNI.MarkMask && k.Table == vpcCNI.Table {
			return "the VPC CNI plugin of this Kubernetes node gives ENIs to pods", `EC2NET_UNMANAGED="*" in /etc/default/ec2net keeps ec2net from all of them, without this line`, nil
		}
		has := func(a plan.Addr) bool {
			return a.Link == l.link.Index && k.From == netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen())
		}
		if !kernels(k.Table) && k.Protocol != iprule.Protocol && !h.ownTable(l.name, k.Table) && slices.ContainsFunc(l.State.Addrs, has) {
			return fmt.Sprintf("another tool has sent its address to a route table, %q", k.Rule.String()), "remove that tool, or its rule, to have ec2net do so", nil
		}
	}
	return "", "", nil
}

func kernels(table int) bool {
	return table == unix.RT_TABLE_MAIN || table == unix.RT_TABLE_LOCAL || table == unix.RT_TABLE_DEFAULT
}

// ownTable says whether a table may be the interface's by the numbers of ec2net:
// older tools have the same ones, and ec2net takes over from them.
func (h *Host) ownTable(name string, table int) bool {
	if e, err := facts.Bare(name, facts.MAC{}, h.Numbers); err == nil {
		return table == e.Number
	}
	const indexes = 100 * 100 // device numbers, network cards
	return table >= h.Numbers.Base && table < h.Numbers.Base+indexes
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
