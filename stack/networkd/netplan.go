package networkd

import (
	"context"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"ec2net/disk"
	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/networkd/unit"

	"go.yaml.in/yaml/v3"
)

// runFolder has the .network files of generators, such as netplan's.
const runFolder = "/run/systemd/network"

// netplanFolders has netplan's folders. A file takes the place of one with its name in a
// folder before: netplan-generate(8).
var netplanFolders = []string{"/lib/netplan", "/etc/netplan", "/run/netplan"}

// cloudInitYAML is what cloud-init writes for netplan.
const cloudInitYAML = "/etc/netplan/50-cloud-init.yaml"

// netplanID returns the ID of the definition in netplan's YAML that a .network file comes
// from: the interface's name, or any other label.
func netplanID(file string) (id string, ok bool) {
	name, generated := strings.CutPrefix(file, runFolder+"/10-netplan-")
	id, ok = strings.CutSuffix(name, ".network")
	return id, ok && generated && id != ""
}

// over says, after "has read FILE", that this takes an interface over from cloud-init: Owner
// lets no other file of netplan's be in use before.
func over(before string) string {
	if _, ok := netplanID(before); ok {
		return ", in the place of cloud-init's " + before
	}
	return ""
}

// ownerOfNetplan finds the owner of a .network file that netplan has made: cloud-init, if
// nothing but its YAML says anything of the link; else an administrator.
func ownerOfNetplan(tree *disk.Tree, file, id string, link plan.Link) (o stack.Owner, cloudInits bool, err error) {
	by, err := mentioning(tree, id, link.Name, link.MAC.String())
	if err != nil {
		return o, false, err
	}
	more, err := dropIns(tree, path.Base(file))
	if err != nil {
		return o, false, err
	}
	if slices.Contains(by, cloudInitYAML) {
		told, err := networkSettings(tree)
		if err != nil {
			return o, false, err
		}
		more = append(more, told...)
	}
	text, err := tree.Read(cloudInitYAML)
	if err != nil {
		return o, false, err
	}
	if len(by) == 0 {
		by = []string{file}
	}
	by = append(by, more...)
	if slices.Equal(by, []string{cloudInitYAML}) && foundByCloudInit(text, id, link.MAC.String()) {
		return stack.Owner{
			Who:  "cloud-init configures it, by " + cloudInitYAML,
			Hint: "set EC2NET_TAKE_OVER=yes, and ec2net configures it",
		}, true, nil
	}
	return stack.Owner{
		Who:  "netplan configures it, by " + strings.Join(by, " and "),
		Hint: "remove it from there, then \"netplan apply\", and ec2net configures it",
	}, false, nil
}

// forNetworkManager finds what netplan has written of a link for NetworkManager, which may not
// run yet: at boot netplan comes first.
func forNetworkManager(tree *disk.Tree, link plan.Link) (stack.Owner, error) {
	files, err := withExt(tree, "/run/NetworkManager/system-connections", ".nmconnection")
	if err != nil {
		return stack.Owner{}, err
	}
	for _, file := range files {
		text, err := tree.Read(file)
		if err != nil {
			return stack.Owner{}, err
		}
		if strings.HasPrefix(path.Base(file), "netplan-") && (mentions(string(text), link.Name) || mentions(string(text), link.MAC.String())) {
			return stack.Owner{
				Who:  "netplan gives it to NetworkManager, by " + file,
				Hint: "remove it from netplan's YAML, then \"netplan apply\", and ec2net configures it",
			}, nil
		}
	}
	return stack.Owner{}, nil
}

// dropAddresses takes the addresses away that a file of netplan's gives a link: that of ec2net's keeps
// them, and networkd 252 does not tell whose they are. They have the subnet's length, and so
// a route to it that comes before the primary's. Without promote_secondaries the leased
// address may go with them; networkd asks for it anew when it reads ec2net's file, so
// dropAddresses comes before.
func (s *Stack) dropAddresses(ctx context.Context, link plan.Link, file string) error {
	if _, ok := netplanID(file); !ok {
		return nil
	}
	text, err := s.Tree.Read(file)
	if err != nil {
		return err
	}
	all, _ := unit.Parse(text)
	for _, a := range all {
		p, err := netip.ParsePrefix(a.Value)
		if err != nil || a.Key != "Address" || !p.Addr().Is4() {
			continue
		}
		if err := s.run(ctx, "ip", "addr", "flush", "dev", link.Name, "to", p.Addr().String()+"/32", "permanent"); err != nil {
			return err
		}
	}
	return nil
}

// Tables returns the route tables of the rules that networkd has made for a link by a file of
// netplan's. networkd deletes the rules when ec2net's file takes the place of that file.
func (s *Stack) Tables(link plan.Link) ([]int, error) {
	state, err := stack.ReadLinkState(s.Tree, link.Index)
	if err != nil {
		return nil, err
	}
	if _, ok := netplanID(state.File); !ok {
		return nil, nil
	}
	text, err := s.Tree.Read(state.File)
	if err != nil {
		return nil, err
	}
	var tables []int
	all, _ := unit.Parse(text) // networkd skips what it cannot read, too
	for _, a := range all {
		if table, err := strconv.Atoi(a.Value); err == nil && a.Section == "RoutingPolicyRule" && a.Key == "Table" {
			tables = append(tables, table)
		}
	}
	return tables, nil
}

// mentioning returns the files that netplan reads and that have one of the words in them,
// be it in a comment. What they mean is not asked: YAML has many ways to write the same,
// and an interface can be part of a definition with another ID. A word too many leaves the
// interface to an administrator, which a person can mend; one too few would take it away.
func mentioning(tree *disk.Tree, words ...string) ([]string, error) {
	files := make(map[string]string) // by their names
	for _, dir := range netplanFolders {
		found, err := withExt(tree, dir, ".yaml")
		if err != nil {
			return nil, err
		}
		for _, file := range found {
			files[path.Base(file)] = file
		}
	}
	var found []string
	for _, file := range slices.Sorted(maps.Values(files)) {
		text, err := readUnlessMasked(tree, file)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(words, func(word string) bool { return mentions(string(text), word) }) {
			found = append(found, file)
		}
	}
	return found, nil
}

// mentions reports whether a text has a word, which is not empty, in capitals or not, with no letter, digit or
// underscore beside it.
func mentions(text, word string) bool {
	text, word = strings.ToLower(text), strings.ToLower(word)
	for at := 0; ; at++ {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(word)
		if (at == 0 || !inWord(text[at-1])) && (end == len(text) || !inWord(text[end])) {
			return true
		}
	}
}

func inWord(c byte) bool { return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

// foundByCloudInit reports whether a YAML has a definition as cloud-init makes one for an
// ENI that it has found: for that MAC, with a name to set. Its header tells less: there is
// none where cloud-init has netplan write the YAML, as in Debian 13.
func foundByCloudInit(text []byte, id, mac string) bool {
	var netplan struct {
		Network struct {
			Ethernets map[string]struct {
				Match struct {
					MACAddress string `yaml:"macaddress"`
				}
				SetName string `yaml:"set-name"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &netplan); err != nil {
		return false // an administrator's, then
	}
	own := netplan.Network.Ethernets[id]
	return strings.EqualFold(own.Match.MACAddress, mac) && own.SetName != ""
}

// unitFolders has the folders with .network files and, in FILE.d, with what is added to
// them: systemd.network(5).
var unitFolders = []string{"/etc/systemd/network", runFolder, "/usr/local/lib/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network"}

// dropIns returns the files by which an administrator has changed what a .network file of
// that name says, which is the way for what netplan cannot say.
func dropIns(tree *disk.Tree, name string) ([]string, error) {
	var found []string
	for _, dir := range unitFolders {
		more, err := withExt(tree, path.Join(dir, name+".d"), ".conf")
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// setsNetwork reports whether settings of cloud-init's have the key by which an administrator
// gives it a network, or tells it to leave the network alone: from then on what is in its
// YAML is the administrator's, as the header there says. Settings may be templates, which
// cloud-init alone can read: there the word is enough. A key may be there twice.
func setsNetwork(text []byte) bool {
	var file yaml.Node
	if err := yaml.Unmarshal(text, &file); err != nil {
		return mentions(string(text), "network")
	}
	if len(file.Content) == 0 || file.Content[0].Kind != yaml.MappingNode {
		return false
	}
	for pair := range slices.Chunk(file.Content[0].Content, 2) {
		if key := pair[0]; key.Value == "network" || key.Tag == "!!merge" && mentions(string(text), "network") {
			return true
		}
	}
	return false
}

// networkSettings returns the files of cloud-init's settings with that key, and the one
// that switches it off.
func networkSettings(tree *disk.Tree) ([]string, error) {
	const settings, off = "/etc/cloud/cloud.cfg", "/etc/cloud/cloud-init.disabled"
	files, err := withExt(tree, settings+".d", ".cfg")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range append(files, settings, off) {
		text, err := readUnlessMasked(tree, file)
		if err != nil {
			return nil, err
		}
		if setsNetwork(text) || file == off && text != nil {
			found = append(found, file)
		}
	}
	return found, nil
}

// readUnlessMasked reads a file; one that is masked is empty.
func readUnlessMasked(tree *disk.Tree, file string) ([]byte, error) {
	if masked, err := tree.Masked(file); err != nil || masked {
		return []byte{}, err
	}
	return tree.Read(file)
}

// withExt returns the files in a folder whose names end so; none if there is no folder.
func withExt(tree *disk.Tree, dir, ext string) ([]string, error) {
	names, err := tree.List(dir)
	var paths []string
	for _, name := range names {
		if path.Ext(name) == ext && name[0] != '.' {
			paths = append(paths, path.Join(dir, name))
		}
	}
	return paths, err
}
