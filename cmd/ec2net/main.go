// Command ec2net configures the additional network interfaces (ENIs) of an EC2
// instance, by systemd-networkd or ifupdown.
package main

import "os"

func main() {
	env := os.Environ()
	// Only Run sees the environment: no library, and no program that it starts.
	os.Clearenv()
	os.Exit(Run(os.Args, os.Stdin, os.Stdout, os.Stderr, env))
}
