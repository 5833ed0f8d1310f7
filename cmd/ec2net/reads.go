package main

import (
	"errors"

	"ec2net/disk"
	"ec2net/fault"
	"ec2net/stack/ifupdown"
)

// namesOnEC2 are two typical names of interfaces.
var namesOnEC2 = []string{"eth1", "ens6"}

// reads fails unless ifupdown reads the cfg file of at least one of namesOnEC2: with
// status 1 if it does not, with another one if that is unknown. The package's postinst
// and "make install" ask; it is no command for people, so not in the table.
func reads(args []string) error {
	if len(args) > 0 {
		return usageError("reads takes no argument", "ec2net help")
	}
	tree, err := disk.OpenMachine()
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	s := &ifupdown.Stack{Tree: tree}
	for _, name := range namesOnEC2 {
		var not *ifupdown.NotSourcedError
		if err = s.Reads(name); !errors.As(err, &not) {
			return err
		}
	}
	return fault.As(fault.Differs, err)
}
