package main

import (
	"errors"

	"ec2net/disk"
	"ec2net/fault"
	"ec2net/stack/ifupdown"
)

// namesOnEC2 are two of the names that interfaces have there.
var namesOnEC2 = []string{"eth1", "ens6"}

// reads says whether ifupdown reads what ec2net writes, at least for one of the names
// that interfaces have on EC2: status 0 if so, 1 if not, another one if that cannot
// be told. The package's postinst and "make install" ask; it is no command for
// people, and so not in the table.
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
