package main

import "path"

// lastFacts is where ec2net keeps what IMDS said last of an ENI.
func lastFacts(name string) string { return path.Join("/var/lib/ec2net", name+".json") }
