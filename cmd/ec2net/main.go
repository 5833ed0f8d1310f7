// Command ec2net configures the additional network interfaces (ENIs) of an EC2
// instance on Debian and Ubuntu with ifupdown.
package main

import "os"

func main() {
	os.Exit(Run(os.Args, os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
