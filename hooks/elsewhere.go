package hooks

import (
	"fmt"
	"path"
	"strings"

	"ec2net/disk"
	"ec2net/fault"
)

// namespacePath has the name of the network namespace that the other files in /run/ec2net
// are about.
var namespacePath = path.Join(runDir, "netns")

// ElsewhereError says that ec2net runs in another network namespace than the machine's.
type ElsewhereError struct{ Own, Machine string }

func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("this is another network namespace (%s) than the machine's (%s): nothing done", e.Own, e.Machine)
}

// Status says that another try would end the same.
func (*ElsewhereError) Status() fault.Status { return fault.NoRetry }

// Hint says what to do if it is the machine's after all.
func (e *ElsewhereError) Hint() string {
	return fmt.Sprintf("if it is the machine's, remove %s", namespacePath)
}

// Elsewhere returns an [ElsewhereError] if this process is in another network namespace than
// the machine's. A DHCP client in a container may share the machine's files, and so run its
// hook, but the names, addresses and indexes there are those of other devices. own and first
// are the namespaces of this process and of process 1, as /proc/PID/ns/net names them. first
// is empty if this process may not read it, or is to write nothing.
//
// The first ec2net since boot that is in the namespace of process 1 notes that as the
// machine's: later, process 1 may be a container's own. Until then every namespace counts as
// the machine's, also that of a sandbox with the machine's process 1.
func Elsewhere(tree *disk.Tree, own, first string) error {
	text, err := tree.Read(namespacePath)
	if err != nil {
		return err
	}
	machine := strings.TrimSpace(string(text))
	switch {
	case machine == "" && own == first && own != "":
		_, _ = tree.Write(namespacePath, []byte(own+"\n")) // else the next ec2net notes it: the disk may be full
		return nil
	case machine == "" || own == "" || own == machine:
		return nil
	}
	return &ElsewhereError{own, machine}
}
