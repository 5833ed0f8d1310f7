package ifupdown

import (
	"bytes"
	"context"
	"fmt"
	"path"

	"ec2net/fault"
	"ec2net/lines"
	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/ifupdown/interfaces"
	"ec2net/stack/networkd/unit"
)

// NotSourcedError says that ifupdown does not read a cfg file.
type NotSourcedError struct{ Path string }

func (e *NotSourcedError) Error() string {
	return fmt.Sprintf("%s does not read %s", interfaces.Main, e.Path)
}

// Status is that of what only a person can mend.
func (*NotSourcedError) Status() fault.Status { return fault.Usage }

// Hint is the line to add.
func (e *NotSourcedError) Hint() string {
	return fmt.Sprintf("add to %s the line: source %s/*.cfg", interfaces.Main, path.Dir(e.Path))
}

// Prepare is Reads. If somebody has run ifup, Prepare also keeps a copy of the stanza, as Up
// does, before ec2net may change it.
func (s *Stack) Prepare(name string) error {
	if err := s.Reads(name); err != nil {
		return err
	}
	kept, err := s.upBy(name)
	if err != nil || kept != nil {
		return err
	}
	if counted, err := s.countedUp(name); err != nil || !counted {
		return err
	}
	return s.keepCopy(name)
}

// Reads fails with a NotSourcedError if ifupdown does not read the cfg file of an
// interface, and with another error if it cannot tell. The file need not exist yet.
// A source-directory takes no file with a dot in its name, so none of ec2net's.
func (s *Stack) Reads(name string) error {
	r, err := s.read()
	if err != nil {
		return err
	}
	for _, p := range r.patterns {
		if leads, err := s.leads(p, name); err != nil || leads {
			return err
		}
	}
	if r.unclear != nil {
		return r.unclear
	}
	return &NotSourcedError{interfaces.Path(name)}
}

// helperFolder has the stanzas of cloud-ifupdown-helper, one file an interface.
const helperFolder = "/run/network/interfaces.d"

// byCloudInit is in what cloud-init writes. Where ifupdown is installed, it writes a stanza for
// each ENI that it finds, also if netplan configures them.
const byCloudInit = "This file is generated from information provided by the datasource"

// Owner finds who else configures an interface: another stack ([stack.Elsewhere]), or the
// owner of a stanza that is not ec2net's, cloud-ifupdown-helper or an administrator. If ec2net
// has configured an interface of that name before, ours is true and the cfg file is ec2net's;
// else only if the file says so.
func (s *Stack) Owner(ctx context.Context, link plan.Link, ours bool) (stack.Owner, error) {
	if o, err := stack.Elsewhere(ctx, s.Tree, link, unit.Path(link.Name)); err != nil || !o.Nobody() {
		return o, err
	}
	return s.StanzaOwner(link.Name, ours)
}

// StanzaOwner finds the owner of a stanza that is not ec2net's.
func (s *Stack) StanzaOwner(name string, ours bool) (stack.Owner, error) {
	r, err := s.read()
	if err != nil {
		return stack.Owner{}, err
	}
	for _, f := range r.files {
		if master := interfaces.Master(f.text, name); master != "" {
			return stack.Owner{
				Who:  fmt.Sprintf("it is a port of %s, by %s", master, f.path),
				Hint: fmt.Sprintf("take it out of the stanza of %s, and ec2net configures it", master),
			}, nil
		}
		if !interfaces.Has(f.text, name) {
			continue
		}
		if ours || lines.Generated(f.text) {
			if own, err := s.Tree.Same(f.path, interfaces.Path(name)); err != nil {
				return stack.Owner{}, err
			} else if own {
				continue
			}
		}
		if path.Dir(f.path) == helperFolder {
			return stack.Owner{
				Who: "cloud-ifupdown-helper has a stanza for it in " + f.path,
				Hint: fmt.Sprintf("ifdown %[1]s && rm %[2]s && ec2ifup %[1]s: the helper writes no stanza while ec2net's is there, not at the next boot either",
					name, f.path),
			}, nil
		}
		if bytes.Contains(f.text, []byte(byCloudInit)) {
			return stack.Owner{
				Who:  "cloud-init has written a stanza for it in " + f.path,
				Hint: "remove the stanza, and ec2net writes one: with /etc/cloud/cloud.cfg.d/95-ec2net.cfg cloud-init writes the primary's alone",
			}, nil
		}
		return stack.Owner{Who: "there is a stanza for it in " + f.path, Hint: "remove the stanza, and ec2net writes one"}, nil
	}
	if r.unclear != nil {
		return stack.Owner{}, r.unclear
	}
	return stack.Owner{}, nil
}
