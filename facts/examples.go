package facts

import (
	"embed"
	"fmt"
)

// examples are ENIs to try templates on: one with two addresses, and one whose
// name has no number, in a larger subnet, with delegated prefixes and IPv6.
//
//go:embed examples/*.json
var examples embed.FS

// Examples are the example ENIs, under the numbers of the settings.
func Examples(n Numbers) ([]ENI, error) {
	var enis []ENI
	for _, name := range []string{"eth1", "ens6"} {
		f, err := examples.Open("examples/" + name + ".json")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		e, err := Decode(f, n)
		if err != nil {
			return nil, fmt.Errorf("example %s: %w", name, err)
		}
		enis = append(enis, e...)
	}
	return enis, nil
}

// Renamed returns e under another interface name, with the numbers of that name.
func Renamed(e ENI, name string, n Numbers) (ENI, error) {
	e.Name = name
	err := e.finish(n)
	return e, err
}

// Bare returns what is known of an ENI without facts: the numbers that follow from
// its name. It fails for names other than ethN, whose numbers need facts.
func Bare(name string, mac MAC, n Numbers) (ENI, error) {
	if !NumberedByName(name) {
		return ENI{}, fmt.Errorf("the numbers of %s are unknown without facts", name)
	}
	return n.of(ENI{Name: name, MAC: mac})
}
