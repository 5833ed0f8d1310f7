package stack

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"ec2net/disk"
)

// LinkState is systemd-networkd's state of a link, from the file that
// sd_network_link_get_setup_state(3) reads. The zero value: networkd does not run, or has
// not seen the link yet.
type LinkState struct {
	Admin string // its setup state
	File  string // the .network file that it uses; empty: none
}

// Managed reports whether networkd configures the link, has done so, or tries to. It does
// not if no file matches, or if the file has Unmanaged=yes.
func (s LinkState) Managed() bool {
	return s.Admin != "unmanaged" && (s.File != "" || s.Admin == "configuring" || s.Admin == "configured")
}

// Undecided reports whether networkd still waits for udev, or looks for the file.
func (s LinkState) Undecided() bool {
	return s.File == "" && (s.Admin == "pending" || s.Admin == "initialized")
}

// ReadLinkState reads the state of a link, by its index; zero if there is none.
func ReadLinkState(tree *disk.Tree, index int) (LinkState, error) {
	text, err := tree.Read(fmt.Sprintf("/run/systemd/netif/links/%d", index))
	if err != nil {
		return LinkState{}, err
	}
	file, err := inEtc(tree, value(text, "NETWORK_FILE"))
	return LinkState{value(text, "ADMIN_STATE"), file}, err
}

// inEtc returns the path of a .network file, in /etc if it is there: networkd has followed a link
// from its folder to another.
func inEtc(tree *disk.Tree, file string) (string, error) {
	const etc = "/etc/systemd/network"
	dir, name := path.Split(file)
	if dir == "" || dir == etc+"/" || strings.HasPrefix(dir, "/run/") {
		return file, nil
	}
	if same, err := tree.Same(dir, etc); err != nil || !same {
		return file, err
	}
	return path.Join(etc, name), nil
}

// undecided bounds how long systemd-networkd takes to decide about a new device.
const undecided = 2 * time.Second

// AwaitLinkState reads the state of a link, and again while it is one to wait for: until
// ctx ends, or for two seconds.
func AwaitLinkState(ctx context.Context, tree *disk.Tree, index int, wait func(LinkState) bool) (LinkState, error) {
	ctx, cancel := context.WithTimeout(ctx, undecided)
	defer cancel()
	for {
		s, err := ReadLinkState(tree, index)
		if err != nil || !wait(s) || ctx.Err() != nil {
			return s, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
