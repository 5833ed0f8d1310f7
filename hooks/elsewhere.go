package hooks

import (
	"fmt"
	"path"
	"strings"

	"ec2net/disk"
	"ec2net/fault"
)

// namespacePath names the network namespace that the other files in /run/ec2net are about.
var namespacePath = path.Join(runDir, "netns")

// ElsewhereError says that ec2net runs in another network namespace than the machine's.
type ElsewhereError struct{ Own, Machine string }

func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("this is another network namespace, %s, than the machine's, %s: nothing done", e.Own, e.Machine)
}

// Status says that another try would end the same.
func (*ElsewhereError) Status() fault.Status { return fault.NoRetry }

// Hint says what to do if it is not so.
func (e *ElsewhereError) Hint() string {
	return fmt.Sprintf("if it is the machine's, remove %s", namespacePath)
}

// Elsewhere returns an error in another network namespace than the machine's. A DHCP client
// in a container may share the machine's files, and so run its hook: the names, addresses
// and indexes there are of other devices. own and first are the namespaces of this process
// and of process 1, as /proc/PID/ns/net names them; first is empty if nobody may know, or
// nothing is to be written.
//
// The first ec2net since boot that is in the namespace of process 1 notes it, since a
// container may have a process 1 of its own. Before that any namespace will do, as in a
// sandbox that shares only the processes.
func Elsewhere(tree *disk.Tree, own, first string) error {
	text, err := tree.Read(namespacePath)
	if err != nil {
		return err
	}
	machine := strings.TrimSpace(string(text))
	switch {
	case machine == "" && own == first && own != "":
		_, _ = tree.Write(namespacePath, []byte(own+"\n")) // or the next one does: the disk may be full
		return nil
	case machine == "" || own == "" || own == machine:
		return nil
	}
	return &ElsewhereError{own, machine}
}
