package networkd

import (
	"context"
	"path"
	"strings"

	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/networkd/unit"
)

// Owner finds who else configures a link.
func (s *Stack) Owner(ctx context.Context, link plan.Link, _ bool) (stack.Owner, error) {
	state, err := stack.ReadLinkState(s.Tree, link.Index)
	switch {
	case err != nil || state.File == "" || state.File == unit.Path(link.Name):
		return stack.Owner{}, err
	case strings.Contains(path.Base(state.File), "netplan"):
		return stack.Owner{Who: "netplan configures it, by systemd-networkd", Hint: "remove it from /etc/netplan, and ec2net configures it"}, nil
	}
	return stack.Owner{Who: "systemd-networkd configures it, by " + state.File, Hint: "remove that file"}, nil
}
