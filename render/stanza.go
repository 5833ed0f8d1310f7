package render

import (
	"ec2net/facts"
	"ec2net/stack/ifupdown/interfaces"
)

// checkStanza checks a rendered cfg file by the rules of interfaces(5).
func checkStanza(content []byte, e facts.ENI) error { return interfaces.Check(content, e.Name) }
