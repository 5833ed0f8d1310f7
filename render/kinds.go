package render

import (
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/stack/ifupdown/interfaces"
)

// kind is one of the files of an ENI. Only the table below says which files there are and
// where they go (ARCHITECTURE.md explains it).
type kind struct {
	name   string                        // in --only, and in the template's name
	host   string                        // file name prefix, if the host has one such file; empty if each interface has its own
	stanza bool                          // brings the interface up: not for the primary
	dir    string                        // on the machine
	check  func([]byte, facts.ENI) error // checks the rendered text; nil for no check
}

const stateDir = "/var/lib/ec2net"

var kinds = []kind{
	{name: "cfg", stanza: true, dir: interfaces.Folder, check: checkStanza},
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
func (k kind) path(iface string) string     { return k.dir + "/" + k.file(iface) }
func (k kind) template(iface string) string { return k.file(iface) + suffix }

// Kinds returns the names that --only takes, in the order of rendering.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
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
