//go:build !race

package hooks

// race says whether the race detector is on, which makes everything ten times slower.
const race = false
