package networkd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"ec2net/disk"
	"ec2net/fault"
	"ec2net/lines"
	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/networkd/unit"
)

// UndecidedError says that systemd-networkd has not decided yet by which file to configure
// an interface. ec2net's file might come before an administrator's.
type UndecidedError struct{ Name string }

func (e *UndecidedError) Error() string {
	return "systemd-networkd has not decided yet who configures " + e.Name
}

// Status is that of what may be better a minute later.
func (*UndecidedError) Status() fault.Status { return fault.System }

// Hint says where to look.
func (e *UndecidedError) Hint() string {
	return fmt.Sprintf("see \"systemctl status systemd-networkd\" and \"networkctl status %s\"", e.Name)
}

// Owner finds who else configures a link, by the .network file that systemd-networkd has
// chosen for it. It waits up to two seconds for a networkd that has not chosen yet, then
// fails with an UndecidedError; if networkd does not run, Prepare says so. If ec2net has
// configured an interface of that name before, ours is true and the file under ec2net's
// name is ec2net's; else only if the file says so.
//
// cloud-init configures every ENI that it finds, unasked. ec2net takes the link over from
// it, unless s.LeaveCloudInit; ec2net's file comes before netplan's by its name, so that
// takes no more than the file. Owner does not know which ENI is the primary.
func (s *Stack) Owner(ctx context.Context, link plan.Link, ours bool) (stack.Owner, error) {
	if runs, err := Runs(s.Tree); err != nil || !runs {
		return stack.Owner{}, err
	}
	state, err := stack.AwaitLinkState(ctx, s.Tree, link.Index, Undecided)
	switch {
	case err != nil:
		return stack.Owner{}, err
	case Undecided(state):
		return stack.Owner{}, &UndecidedError{link.Name}
	case state.Managed():
		if o, err := s.ownerOf(state.File, link, ours); err != nil || !o.Nobody() {
			return o, err
		}
	default:
		if o, err := s.unmanagedBy(link); err != nil || !o.Nobody() {
			return o, err
		}
		if o, err := forNetworkManager(s.Tree, link); err != nil || !o.Nobody() {
			return o, err
		}
	}
	if text, err := s.Tree.Read(unit.Path(link.Name)); err != nil || text != nil && !ours && !lines.Generated(text) {
		return stack.Owner{
			Who:  unit.Path(link.Name) + " is not ec2net's, although systemd-networkd does not use it",
			Hint: "remove it, and ec2net configures the interface",
		}, err
	}
	return stack.NetworkManager(s.Tree, link)
}

// unmanagedBy finds the file which tells networkd to leave a link alone: one that comes before
// ec2net's, that, or a drop-in of that. networkd's state of such a link has no file.
func (s *Stack) unmanagedBy(link plan.Link) (stack.Owner, error) {
	own := unit.Path(link.Name)
	files, err := dropIns(s.Tree, path.Base(own))
	files = append(files, own)
	for _, dir := range unitFolders {
		more, failed := withExt(s.Tree, dir, ".network")
		err = errors.Join(err, failed)
		files = append(files, slices.DeleteFunc(more, func(file string) bool { return !comesFirst(file, link) })...)
	}
	for _, file := range files {
		text, failed := readUnlessMasked(s.Tree, file)
		err = errors.Join(err, failed)
		hint := "remove Unmanaged=yes there"
		if comesFirst(file, link) {
			hint = "take the interface out of its [Match]"
		}
		if unit.Unmanaged(text) && (!comesFirst(file, link) || unit.Matches(text, link.Name, link.MAC)) {
			return stack.Owner{
				Who:  "systemd-networkd is told to leave it alone, by " + file,
				Hint: hint + ", then \"networkctl reload\", and ec2net configures it",
			}, err
		}
	}
	return stack.Owner{}, err
}

// comesFirst reports whether networkd uses a .network file before ec2net's, if both match.
func comesFirst(file string, link plan.Link) bool {
	return path.Ext(file) == ".network" && path.Base(file) < path.Base(unit.Path(link.Name))
}

// Undecided reports whether networkd may yet choose a file: unlike on another stack, a link
// that it has not seen is one that it will see.
func Undecided(state stack.LinkState) bool { return state == stack.LinkState{} || state.Undecided() }

// ownerOf finds the owner of the .network file that networkd has chosen for a link.
func (s *Stack) ownerOf(file string, link plan.Link, ours bool) (stack.Owner, error) {
	if file == unit.Path(link.Name) {
		text, err := s.Tree.Read(file)
		if err != nil {
			return stack.Owner{}, err
		}
		if text == nil || ours || lines.Generated(text) {
			return s.hiddenOwner(link)
		}
	}
	if former, err := s.formerFile(file, link); err != nil {
		return stack.Owner{}, err
	} else if former {
		return s.hiddenOwner(link)
	}
	if id, ok := netplanID(file); ok {
		o, cloudInits, err := ownerOfNetplan(s.Tree, file, id, link)
		if cloudInits && !s.LeaveCloudInit {
			return stack.Owner{}, err
		}
		return o, err
	}
	if is, err := ofNetUtils(s.Tree, file); err != nil {
		return stack.Owner{}, err
	} else if is {
		return stack.Owner{
			Who:  "amazon-ec2-net-utils configures it, by " + file,
			Hint: "remove that package and what it has left in " + runFolder + ", then \"networkctl reload\", and ec2net configures it",
		}, nil
	}
	hint := "take the interface out of its [Match], then \"networkctl reload\", and ec2net configures it"
	if !comesFirst(file, link) {
		hint = "put Unmanaged=yes into that file, or " + hint
	}
	return stack.Owner{Who: "systemd-networkd configures it, by " + file, Hint: hint}, nil
}

// hiddenOwner finds an administrator's file for a link behind ec2net's, which was written later,
// or what netplan has written for NetworkManager. cloud-init's does not count, since ec2net has
// taken the link over from it; nor does a .network file that is for other links too, that may be
// for none, or that leaves the link alone.
func (s *Stack) hiddenOwner(link plan.Link) (stack.Owner, error) {
	if o, err := forNetworkManager(s.Tree, link); err != nil || !o.Nobody() {
		return o, err
	}
	file, text, err := s.behind(link)
	if err != nil || file == "" {
		return stack.Owner{}, err
	}
	if id, netplans := netplanID(file); netplans {
		if o, cloudInits, err := ownerOfNetplan(s.Tree, file, id, link); err != nil || !cloudInits {
			return o, err
		}
	} else if unit.Names(text, link.Name, link.MAC) && !unit.Unmanaged(text) {
		return s.ownerOf(file, link, false)
	}
	return stack.Owner{}, nil
}

// behind returns the .network file that networkd would use for a link without ec2net's: of those
// behind it that match, the first by its name. The file of a name hides those in later folders.
func (s *Stack) behind(link plan.Link) (file string, text []byte, err error) {
	byName := make(map[string]string)
	for _, dir := range unitFolders {
		files, err := withExt(s.Tree, dir, ".network")
		if err != nil {
			return "", nil, err
		}
		for _, file := range files {
			if name := path.Base(file); byName[name] == "" && !comesFirst(file, link) && !strings.HasPrefix(name, unit.Prefix) {
				byName[name] = file
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		text, err := s.whole(byName[name])
		if err != nil || unit.Matches(text, link.Name, link.MAC) {
			return byName[name], text, err
		}
	}
	return "", nil, nil
}

// whole returns a .network file with its drop-ins; without them if it is empty, which hides it.
func (s *Stack) whole(file string) ([]byte, error) {
	text, err := readUnlessMasked(s.Tree, file)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	more, err := dropIns(s.Tree, path.Base(file))
	for _, dropIn := range more {
		added, failed := readUnlessMasked(s.Tree, dropIn)
		text, err = slices.Concat(text, []byte("\n"), added), errors.Join(err, failed)
	}
	return text, err
}

// formerFile reports whether a file is ec2net's for a link under its former name, or was. networkd
// uses it still where the former name is an alternative name now, which Name= also matches; older
// versions do so until they read their files again.
func (s *Stack) formerFile(file string, link plan.Link) (bool, error) {
	name, ok := unit.NameOf(file)
	if !ok || name == link.Name {
		return false, nil
	}
	text, err := s.Tree.Read(file)
	return text == nil || lines.Generated(text) && !lines.Unmanaged(text) && unit.Matches(text, name, link.MAC), err
}

// StepAside removes ec2net's file for a link that somebody else configures by a file behind it,
// so that networkd uses theirs.
func (s *Stack) StepAside(ctx context.Context, link plan.Link) error {
	text, err := s.Tree.Read(unit.Path(link.Name))
	if err != nil || !lines.Generated(text) || lines.Unmanaged(text) {
		return err
	}
	if behind, err := s.hiddenOwner(link); err != nil || behind.Nobody() {
		return err
	}
	s.Tell(link.Name, "removing "+unit.Path(link.Name)+": somebody else configures it")
	if err := errors.Join(s.Tree.Remove(unit.Path(link.Name)), s.Tree.Remove(copyPath(link.Name))); err != nil {
		return err
	}
	return s.run(ctx, "networkctl", "reload")
}

// ofNetUtils reports whether a file is amazon-ec2-net-utils'. It links a file of the ENI's
// name, 70-eth1.network or in Debian 07-eth1.network, to the one in its package, and puts
// what is different for the ENI beside it.
func ofNetUtils(tree *disk.Tree, file string) (bool, error) {
	if path.Base(file) == "80-ec2.network" {
		return true, nil
	}
	text, err := tree.Read(file + ".d/eni.conf")
	return text != nil, err
}
