//go:build !race

package hooks

// race says that the race detector is on, with which everything takes ten times as
// long.
const race = false
