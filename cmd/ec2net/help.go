package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"ec2net/fault"
	"ec2net/render"
)

func helpCommand() command {
	return command{
		name:  "help",
		args:  "[COMMAND | TOPIC]",
		short: "describe a command or a topic",
		long:  "Describes a command, or one of the topics; without an argument, lists both.",
		words: topicItems(),
		examples: `ec2net help render
ec2net help settings`,
		prepare: noFlags(runHelp),
	}
}

// topics are the help pages beside those of the commands.
var topics = []struct {
	name, short string
	print       func(io.Writer)
}{
	{"settings", "what can be set, and where", printSettings},
	{"facts-format", "the fields of an ENI in JSON", func(w io.Writer) { fmt.Fprint(w, factsFormat) }},
	{"status-format", "the fields of status --json", func(w io.Writer) { fmt.Fprint(w, statusFormat) }},
	{"templates", "how to change what is rendered", printTemplatesHelp},
	{"statuses", "the exit statuses", printStatuses},
}

func topicItems() []item {
	var items []item
	for _, t := range topics {
		items = append(items, item{t.name, t.short})
	}
	return items
}

func runHelp(inv *invocation) error {
	var out strings.Builder
	switch len(inv.args) {
	case 0:
		printOverview(&out)
	case 1:
		name, found := inv.args[0], false
		if command := namedCommand(name); command != nil {
			name = command[0]
		}
		if c, ok := commandNamed(name); ok {
			commandHelp(&out, c)
			found = true
		}
		for _, t := range topics {
			if t.name == name {
				if found {
					out.WriteString("\n")
				}
				t.print(&out)
				found = true
			}
		}
		if !found {
			return usageError(fmt.Sprintf("%q is neither a command nor a topic", name), "ec2net help")
		}
	default:
		return usageError("help takes one command or topic", "ec2net help")
	}
	_, err := io.WriteString(inv.stdout, out.String())
	return system(err)
}

func printOverview(w io.Writer) {
	fmt.Fprint(w, `ec2net configures the additional network interfaces (ENIs) of an EC2 instance.

Usage: ec2net COMMAND [FLAGS] [ARGUMENTS]
       ec2net --version

Commands:
`)
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(t, "  %s\t%s\n", c.name, c.short)
	}
	t.Flush()
	fmt.Fprint(w, "\nMore to read, with \"ec2net help TOPIC\":\n")
	for _, topic := range topics {
		fmt.Fprintf(t, "  %s\t%s\n", topic.name, topic.short)
	}
	t.Flush()
	fmt.Fprint(w, "\nExample: ec2net render eth1\n\nThe manual pages ec2net(8) and ec2net-templates(5) say more.\n")
}

func (inv *invocation) printCommandHelp(c command) error {
	var out strings.Builder
	commandHelp(&out, c)
	_, err := io.WriteString(inv.stdout, out.String())
	return system(err)
}

func commandHelp(w io.Writer, c command) {
	flags := c.flagItems()
	usage := []string{"ec2net", c.name}
	if len(flags) > 0 {
		usage = append(usage, "[FLAGS]")
	}
	if c.args != "" {
		usage = append(usage, c.args)
	}
	fmt.Fprintf(w, "ec2net %s: %s\n\nUsage: %s\n\n%s", c.name, c.short, strings.Join(usage, " "), wrap(c.description(), 0))
	if len(c.words) > 0 {
		fmt.Fprintf(w, "\n%s", columns(c.words))
	}
	if len(flags) > 0 {
		fmt.Fprintf(w, "\nFlags:\n%s", below(flags))
	}
	fmt.Fprintf(w, "\nExamples:\n  %s\n", strings.ReplaceAll(c.examples, "\n", "\n  "))
}

// description is the text of a command, with its other names.
func (c command) description() string {
	if c.also == nil {
		return c.long
	}
	return c.long + " Also as " + strings.Join(c.also, " and ") + "."
}

// flagItems describes the flags of a command: its own, then those of settings.
func (c command) flagItems() []item {
	var items []item
	flags, _ := c.flagSet()
	flags.VisitAll(func(f *pflag.Flag) { items = append(items, flagItem(f)) })
	return items
}

func flagItem(f *pflag.Flag) item {
	name, text := "--"+f.Name, f.Usage
	if takes, ok := f.Value.(*textFlag); ok {
		name += " " + takes.arg
	}
	if f.DefValue != "" && f.DefValue != "false" {
		text += " (default " + f.DefValue + ")"
	}
	return item{name, text}
}

func printSettings(w io.Writer) {
	fmt.Fprintf(w, `Settings are lines NAME=value in %s. The environment
has the same names and beats the file; a flag beats both.

`, settingsFile)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tFLAG\tDEFAULT")
	var items []item
	for _, row := range settingsTable {
		initial := row.initial
		if initial == "" {
			initial = "(none)"
		}
		fmt.Fprintf(t, "%s\t--%s\t%s\n", row.name, row.flag, initial)
		items = append(items, item{row.name, row.description()})
	}
	t.Flush()
	fmt.Fprintf(w, "\n%s", below(items))
}

// statuses describes the exit statuses; the index is the number.
var statuses = []string{
	fault.Done:     "done, or nothing to do",
	fault.Differs:  "something differs (status, render --diff)",
	fault.Usage:    "wrong usage or settings",
	fault.Facts:    "could not get the facts",
	fault.Template: "a template does not render, or is not trusted",
	fault.System:   "the system refused: a file, netlink, networkd, ifup",
	fault.NoRetry:  "do not try again: the interface is gone, is left alone, or is the primary",
}

func printStatuses(w io.Writer) {
	fmt.Fprint(w, "The exit statuses:\n\n")
	for status, text := range statuses {
		fmt.Fprintf(w, "%d  %s\n", status, text)
	}
}

const factsFormat = `Facts are JSON: an object for each ENI, one after the other. Fields marked *
are required; an empty list may be left out. The fields under the line follow from
the others, and from the settings of the machine that reads them; they may be left
out. Later versions may add fields; they remove none.

name *           string   the interface's name: "eth1"
mac *            string   "02:00:00:00:01:20"
id *             string   the ENI's id: "eni-0123456789abcdef1"
device_number *  number   the place on the network card; 0 of card 0 is the primary's
network_card     number   the network card, 0 on most instances
primary          bool     whether the instance was launched with this ENI
primary_mac      string   the MAC of the primary ENI
ipv4             list     private addresses, the ENI's primary one first
subnet           string   the subnet's IPv4 block: "10.0.1.0/24"; with ipv4
ipv4_prefixes    list     delegated IPv4 blocks
ipv6             list     IPv6 addresses
ipv6_subnets     list     the subnet's IPv6 blocks
ipv6_prefixes    list     delegated IPv6 blocks
vpc_cidrs        list     the VPC's IPv4 blocks
--
index            number   the N of ethN; else device_number + 100 * network_card
gateway          string   the subnet's network + 1
table            number   the route table: base + index
metric           number   of the default route in main: base + index
priority         number   of the ip rules: base + index; 32765 for the primary
mark             string   the fwmark, in hex: base + index
mark_mask        string   the bits that marks may use, in hex
`

func printTemplatesHelp(w io.Writer) {
	fmt.Fprintf(w, `Templates are Go's text/template (https://pkg.go.dev/text/template). For eth1's
file for systemd-networkd ec2net takes the first of these:

  /etc/ec2net/templates/eth1.network.tmpl
  /etc/ec2net/templates/ethN.network.tmpl
  the built-in ethN.network.tmpl ("ec2net templates show --built-in network")

and likewise for the other files: %s. cfg is for ifupdown.

docker.iptables.tmpl, one for the host, has .ENIs, .Group, .Chain, .Path and
.Template in place of the fields below.

Often one more line is enough. %s in the same folder redefines the empty
blocks of the templates, for all ENIs or, with {{if}}, for one:

  {{define "network-sections"}}{{if eq .Name "eth1"}}
  [Route]
  Destination=192.168.0.0/16
  Gateway={{.Gateway}}
  Table={{.Table}}
  {{end}}{{end}}
  {{define "cfg-post-up"}}
      post-up logger "{{.Name}} is up with {{first .IPv4}}" || true
  {{end}}

ifup gives up half-way at a post-up line that fails: end the line in "|| true" if
the ENI can live without it. The blocks: %s.

The fields: .Name .Index .MAC .ID .DeviceNumber .NetworkCard .Primary
  .PrimaryMAC .IPv4 .Subnet .Gateway .IPv4Prefixes .IPv6 .IPv6Subnets .IPv6Prefixes
  .VPCCIDRs .Table .Metric .Priority .Mark .MarkMask: as in "ec2net help
  facts-format"; lists are for {{range}}. Then .Chain, the ENI's own chain in
  iptables; .Protocol, the number on every ip rule of ec2net; .Template, where
  the template comes from; and (.Path "rules"), where a file belongs.

The functions: sprig's (https://masterminds.github.io/sprig/), without those that
  use the clock, randomness, the environment or the network; and
  hex NUMBER             0x3e9 for 1001
  netmask BLOCK          255.255.255.0 for 10.0.1.0/24
  nthAddr BLOCK N        the Nth address of a block, from its end if negative
  prefixHas BLOCK ADDR   whether the address is in the block

A template file and every folder above it have to belong to root and be writable by
root alone. A change takes effect with "ec2ifdown eth1" and "ec2ifup eth1".
"ec2net templates check" tries everything out, "ec2net render eth1 --diff" shows
what would change.
`, strings.Join(render.Kinds(), ", "), render.BlocksFile, strings.Join(render.DefaultBlocks(), ", "))
}
