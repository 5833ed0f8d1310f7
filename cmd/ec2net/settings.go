package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ec2net/facts"
	"ec2net/hooks"
	"ec2net/render"
)

// settings are what an administrator can set: in /etc/default/ec2net, in the
// environment, by flags. The later beats the earlier.
type settings struct {
	numbers   facts.Numbers
	templates string
	unmanaged hooks.Patterns
	addresses bool
	marks     hooks.Marks
	takeOver  bool
	stack     render.Stack // empty: whatever manages the primary
	imds      facts.Endpoint
	refresh   time.Duration // 0: never
	timeout   time.Duration
	// given has the settings that somebody gave.
	given given
}

const settingsFile = "/etc/default/ec2net"

// setting is one row of the table that "ec2net help settings" prints.
type setting struct {
	name, flag string
	arg        string   // what help calls the value
	values     []string // as in textFlag
	initial    string   // the value if nobody gives one
	help       string   // for the flag and the installed settings file
	more       string   // more sentences
	set        func(*settings, string) error
}

// description is the whole text of a setting.
func (row setting) description() string {
	return strings.TrimSpace(sentence(row.help) + " " + row.more)
}

var settingsTable = []setting{
	{"EC2NET_BASE", "base", "NUMBER", nil, strconv.Itoa(facts.DefaultNumbers.Base),
		"an ENI's table, metric, priority and mark are this number + its index; a change needs a reboot",
		"10000 gives the numbers of Amazon's own tools.",
		func(s *settings, v string) error {
			n, err := strconv.ParseUint(v, 10, 31)
			if err != nil || (len(v) > 1 && v[0] == '0') {
				return fmt.Errorf("%.40q is not a number", v)
			}
			s.numbers.Base = int(n)
			return nil
		}},
	{"EC2NET_MARK_MASK", "mark-mask", "MASK", nil, facts.DefaultNumbers.MarkMask.String(),
		"the bits of a packet's mark that ec2net uses",
		`If another program uses some of them, such as AWS's VPC CNI (0x80) or the port
maps of CNI and podman (0x2000, which EC2NET_BASE=10000 has), choose other bits, and a
base that fits into them: 0x107f and EC2NET_BASE=4096 keep out of both.`,
		func(s *settings, v string) (err error) {
			s.numbers.MarkMask, err = facts.ParseMark(v)
			return err
		}},
	{"EC2NET_PRIMARY_TABLE", "primary-table", "yes|no", []string{"yes", "no"}, "yes",
		"whether the primary ENI too has a table, rules and marks of its own, while another one is up",
		`With them eth0 itself answers a host in eth1's subnet that asks for eth0's address, as
it did before eth1 was attached. ec2net-watch.service keeps the table current.`,
		func(s *settings, v string) (err error) {
			s.numbers.Primary, err = yes(v)
			return err
		}},
	{"EC2NET_ADDRESSES", "addresses", "yes|no", []string{"yes", "no"}, "yes",
		"whether ec2net gives the ENIs their secondary addresses, and takes them away",
		`With no it makes only rules and routes: a cluster manager, for instance, moves the
addresses. Those that are there stay.`,
		func(s *settings, v string) (err error) {
			s.addresses, err = yes(v)
			return err
		}},
	{"EC2NET_MARKS", "marks", "auto|yes|no", []string{"auto", "yes", "no"}, "auto",
		"whether packets that come in for this machine get marks, for the answers of containers and guests; auto: while the machine forwards packets (net.ipv4.ip_forward)",
		`Without marks the kernel tracks no connections for ec2net.`,
		func(s *settings, v string) (err error) {
			s.marks, err = hooks.ParseMarks(v)
			return err
		}},
	{"EC2NET_STACK", "stack", "auto|ifupdown|networkd", []string{"auto", "ifupdown", "networkd"}, "auto",
		"what brings the ENIs up: ifupdown, or systemd-networkd, for netplan too; auto: systemd-networkd where it manages the primary ENI",
		`Before a change take the ENIs down with ec2ifdown, and up again afterwards.`,
		func(s *settings, v string) error {
			stack := render.Stack(v)
			if v == "auto" {
				stack = ""
			} else if !slices.Contains(render.Stacks, stack) {
				return fmt.Errorf("%.40q is none of auto, ifupdown and networkd", v)
			}
			s.stack = stack
			return nil
		}},
	{"EC2NET_TAKE_OVER", "take-over", "yes|no", []string{"yes", "no"}, "yes",
		"whether ec2net takes over the ENIs, but for the primary, that cloud-init configures by netplan",
		`What an administrator has written for netplan or systemd-networkd stays as it is anyway.`,
		func(s *settings, v string) (err error) {
			s.takeOver, err = yes(v)
			return err
		}},
	{"EC2NET_UNMANAGED", "unmanaged", "PATTERNS", nil, "",
		"interfaces to leave alone, by name, by pattern with * and ?, by MAC or by the ENI's id; more than one in quotes: \"eth2 cali*\"",
		`What ec2net has made for an ENI that is up stays until it is detached.`,
		func(s *settings, v string) (err error) {
			s.unmanaged, err = hooks.ParsePatterns(v)
			return err
		}},
	{"EC2NET_TEMPLATES", "templates", "FOLDER", []string{":folders"}, "/etc/ec2net/templates",
		"the folder of templates that override the built-in ones; --templates= for none",
		"See ec2net-templates(5).",
		func(s *settings, v string) error {
			// The path is in rendered files, so it does not depend on the working
			// folder, and fits on a line.
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
				return fmt.Errorf("%.80q has characters other than printable ASCII", v)
			}
			if v != "" {
				var err error
				if v, err = filepath.Abs(v); err != nil {
					return err
				}
			}
			s.templates = v
			return nil
		}},
	{"EC2NET_REFRESH", "refresh", "DURATION", nil, "60s",
		"how often watch asks IMDS for the ENIs that are up, give or take a tenth; 0 for never",
		"10s at least. It asks with each lease anyway.",
		func(s *settings, v string) (err error) {
			if s.refresh, err = time.ParseDuration(v); err != nil || s.refresh < 0 {
				return fmt.Errorf("%.40q is not a duration such as 60s", v)
			}
			if s.refresh > 0 && s.refresh < 10*time.Second {
				return fmt.Errorf("%.40q is shorter than 10s", v)
			}
			return nil
		}},
	{"EC2NET_TIMEOUT", "timeout", "DURATION", nil, "10s",
		"how long render, facts and templates check may take; half of it is for IMDS",
		"The other commands have limits of their own.",
		func(s *settings, v string) (err error) {
			if s.timeout, err = time.ParseDuration(v); err != nil || s.timeout <= 0 {
				err = fmt.Errorf("%.40q is not a duration such as 10s", v)
			}
			return err
		}},
	{"AWS_EC2_METADATA_SERVICE_ENDPOINT", "imds-endpoint", "URL", nil, "",
		"the URL of IMDS, if it is not at its usual place",
		"",
		func(s *settings, v string) error {
			s.imds.URL = v
			return nil
		}},
	{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "imds-endpoint-mode", "IPv4|IPv6", []string{"IPv4", "IPv6"}, "IPv4",
		"the usual place of IMDS: IPv4 (169.254.169.254) or IPv6 (fd00:ec2::254)",
		"",
		func(s *settings, v string) error {
			s.imds.Mode = v
			return nil
		}},
}

// yes reads a value that is yes or no.
func yes(v string) (bool, error) {
	if v != "yes" && v != "no" {
		return false, fmt.Errorf("%.40q is neither yes nor no", v)
	}
	return v == "yes", nil
}

// settingsFlags declares the flags of some settings, and --settings.
func settingsFlags(flags *pflag.FlagSet, names []string) {
	for _, row := range settingsTable {
		if slices.Contains(names, row.flag) {
			flags.Var(&textFlag{new(string), row.arg, row.values}, row.flag, row.help)
			flags.Lookup(row.flag).DefValue = row.initial
		}
	}
	file := settingsFile
	flags.Var(&textFlag{&file, "FILE", []string{":files"}}, "settings", "the settings file; empty for none")
}

// deadline is that of the whole process.
func (s settings) deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), s.timeout)
}

// imdsShare bounds the time for facts.
func (s settings) imdsShare() time.Duration { return s.timeout / 2 }

// checkFolder fails if somebody named a folder of templates that is not there.
func (s settings) checkFolder() error {
	named, ok := s.given["EC2NET_TEMPLATES"]
	if !ok || s.templates == "" {
		return nil
	}
	info, err := os.Stat(s.templates)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a folder", s.templates)
	}
	if err != nil {
		return usage(fmt.Errorf("%s: %w", named.place, err))
	}
	return nil
}
