// Package templates has the default templates, one folder for each network stack.
// Package render reads and executes them.
package templates

import "embed"

// Ifupdown has the templates for ifupdown's interfaces.d, iptables and ip rules.
//
//go:embed ifupdown/*.tmpl
var Ifupdown embed.FS
