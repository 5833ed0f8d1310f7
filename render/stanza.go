package render

import (
	"ec2net/facts"
	"ec2net/stack/ifupdown/interfaces"
)

// checkStanza holds a rendered cfg file to interfaces(5).
func checkStanza(content []byte, e facts.ENI) error { return interfaces.Check(content, e.Name) }

// HasStanza reports whether a file of interfaces(5) has a stanza for an interface.
func HasStanza(text []byte, name string) bool { return interfaces.Has(text, name) }

// Generated reports whether a cfg file says that it comes from a built-in template.
func Generated(cfg []byte) bool { return interfaces.Generated(cfg) }

// Unmanaged reports whether a cfg file has the line "# EC2SYNC=no".
func Unmanaged(cfg []byte) bool { return interfaces.Unmanaged(cfg) }
