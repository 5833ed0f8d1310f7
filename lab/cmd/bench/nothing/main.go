// Command nothing prints a line: the cost of any Go program.
package main

import "fmt"

func main() { fmt.Println("nothing") }
