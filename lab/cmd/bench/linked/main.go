// Command linked is linked with the libraries of ec2net, and does not use them.
package main

import (
	"fmt"

	_ "github.com/Masterminds/sprig/v3"
	_ "github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	_ "github.com/spf13/pflag"
	_ "github.com/vishvananda/netlink"
)

func main() { fmt.Println("nothing") }
