//go:build race

package hooks

const race = true
