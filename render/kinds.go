package render

import (
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/stack/ifupdown/interfaces"
	"ec2net/stack/networkd/unit"
)

// A Stack is a network stack that brings interfaces up.
type Stack string

// The stacks: Debian's ifupdown, interfaces(5), and systemd-networkd, systemd.network(5).
const (
	Ifupdown Stack = "ifupdown"
	Networkd Stack = "networkd"
)

// Stacks has all of them.
var Stacks = []Stack{Ifupdown, Networkd}

// kind is one of the files of an ENI. Only the table below says which files there are and
// where they go (ARCHITECTURE.md explains it).
type kind struct {
	name   string                        // in --only, and in the template's name
	host   string                        // file name prefix, if the host has one such file; empty if each interface has its own
	stack  Stack                         // brings the interface up by it: not for the primary; empty for all stacks
	dir    string                        // on the machine
	prefix string                        // of the file name there
	check  func([]byte, facts.ENI) error // checks the rendered text; nil for no check
}

const stateDir = "/var/lib/ec2net"

var kinds = []kind{
	{name: "cfg", stack: Ifupdown, dir: interfaces.Folder, check: checkStanza},
	{name: "network", stack: Networkd, dir: unit.Folder, prefix: unit.Prefix, check: unit.Check},
	{name: "iptables", dir: stateDir, check: checkFragment},
	{name: "iptables-down", dir: stateDir, check: checkFragment},
	{name: "rules", dir: stateDir, check: checkRules},
}

// docker is the file that marks the answers of containers: one for the host.
var docker = kind{name: "iptables", host: "docker", dir: stateDir, check: checkFragment}

func allKinds() []kind { return append(slices.Clone(kinds), docker) }

// every stands for any interface in the name of a template.
const every = "ethN"

// suffix ends the name of every template.
const suffix = ".tmpl"

func (k kind) file(iface string) string {
	if k.host != "" {
		iface = k.host
	}
	return iface + "." + k.name
}
func (k kind) path(iface string) string     { return k.dir + "/" + k.prefix + k.file(iface) }
func (k kind) template(iface string) string { return k.file(iface) + suffix }

// Kinds returns the names that --only takes, in the order of rendering.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// StackFiles returns the paths of the files that bring an interface up, one a stack.
func StackFiles(iface string) (paths []string) {
	for _, k := range kinds {
		if k.stack != "" {
			paths = append(paths, k.path(iface))
		}
	}
	return paths
}

func kindNamed(name string) (kind, bool) {
	for _, k := range kinds {
		if k.name == name {
			return k, true
		}
	}
	return kind{}, false
}

func checkRules(content []byte, e facts.ENI) error {
	_, err := iprule.Parse(content, e)
	return err
}
