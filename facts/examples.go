package facts

import (
	"embed"
	"fmt"
)

// examples has ENIs to try templates on: one with two addresses; and one in a larger
// subnet, with delegated prefixes and IPv6, whose name gives no number.
//
//go:embed examples/*.json
var examples embed.FS

// Examples returns the example ENIs, with the numbers that follow from the settings.
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

// Renamed returns e under another name, with the numbers that follow from it.
func Renamed(e ENI, name string, n Numbers) (ENI, error) {
	e.Name = name
	err := e.finish(n)
	return e, err
}

// Bare returns an ENI of which only name and MAC are known, with the numbers that follow
// from its name. It fails for names other than ethN, whose numbers need facts.
func Bare(name string, mac MAC, n Numbers) (ENI, error) {
	if !NumberedByName(name) {
		return ENI{}, fmt.Errorf("the numbers of %s are unknown without facts", name)
	}
	return n.of(ENI{Name: name, MAC: mac})
}
