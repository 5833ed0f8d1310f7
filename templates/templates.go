// Package templates is the default templates, one folder for each network
// stack. Nothing but the files: what is done with them is render's.
package templates

import "embed"

// Ifupdown has the templates of the documented stack: ifupdown's
// interfaces.d, iptables and ip rules.
//
//go:embed ifupdown/*.tmpl
var Ifupdown embed.FS
