package mangle

import (
	"cmp"
	"slices"
	"strings"

	"ec2net/render"
)

// Prefix begins the names of ec2net's chains; the name of an ENI follows.
const Prefix = "ec2net-"

// Chain is a chain of ec2net's, as it should be.
type Chain struct {
	Name string
	// Iface is the interface whose packets go through the chain; empty: all.
	Iface string
	// Path is the file of the chain's fragment for iptables-restore(8), Text the fragment.
	Path, Text string
}

// Of returns what the chain is about, for the log: an interface, or "marks".
func (c Chain) Of() string { return cmp.Or(c.Iface, "marks") }

// ifaceOf returns the interface that a chain is about; empty if it is about all.
func ifaceOf(chain string) string {
	if chain == render.DockerChain {
		return ""
	}
	return strings.TrimPrefix(chain, Prefix)
}

// jump is the rule that jumps into the chain, as iptables-save(8) prints it.
func (c Chain) jump() string {
	if c.Iface == "" {
		return "PREROUTING -j " + c.Name
	}
	return "PREROUTING -i " + c.Iface + " -j " + c.Name
}

// Declares reports whether the fragment makes the chain. An administrator's may be empty.
func (c Chain) Declares() bool { return slices.Contains(c.declared(), c.Name) }

// declared are the chains of the mangle table that the fragment makes.
func (c Chain) declared() (names []string) {
	table := ""
	for line := range strings.Lines(c.Text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		if f := strings.Fields(line); table == "mangle" && len(f) > 1 && strings.HasPrefix(line, ":") && f[1] == "-" {
			names = append(names, f[0][1:])
		}
	}
	return names
}

func named(name string) func(Chain) bool { return func(c Chain) bool { return c.Name == name } }
