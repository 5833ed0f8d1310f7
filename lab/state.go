package lab

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// section is a part of [Instance.State].
type section struct {
	name, command string
	order         func(lines []string) // sorts lines whose order means nothing
}

var sections = []section{
	{"links", "ip -oneline link", slices.Sort[[]string]},
	{"addresses", "ip -oneline address", byInterface},
	{"rules", "ip -details rule; ip -6 -details rule", nil},
	{"routes", "ip -4 route show table all", slices.Sort[[]string]},
	{"routes of IPv6", "ip -6 route show table all", slices.Sort[[]string]},
	{"iptables-nft", "iptables-nft-save", nil},
	{"ip6tables-nft", "ip6tables-nft-save", nil},
	{"iptables-legacy", "iptables-legacy-save", nil},
	{"ip6tables-legacy", "ip6tables-legacy-save", nil},
	// The script that asks is a session of its own; udevd's workers and systemd's
	// hostnamed come and go, and so does an ec2net that asks IMDS again in the background.
	{"processes", `ps -e -o sid=,pid=,stat=,args= | awk -v me=$$ '$1 != me && $2 != 1 && $3 !~ "^Z" && !/\(udev-worker\)|systemd-hostnamed|sleep 1000000|ec2net refresh/ { $1 = $2 = $3 = ""; print substr($0, 4) }'`, slices.Sort[[]string]},
}

// Text that changes although nothing has changed, or that differs between equal
// interfaces that were made anew.
var passing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`^\d+: `), ""},            // the number of an interface
	{regexp.MustCompile(`@if\d+`), ""},            // that of its peer
	{regexp.MustCompile(` link-netnsid \d+`), ""}, //
	{regexp.MustCompile(`\\? +valid_lft.*`), ""},  //
	{regexp.MustCompile(` expires \d+sec`), ""},   //
	{regexp.MustCompile(` \[\d+:\d+\]`), ""},      // the counters of a chain
	{regexp.MustCompile(` *\\ +`), " "},           // a line break that -oneline took out
	{regexp.MustCompile(`[ \t]+$`), ""},
}

// byInterface sorts by a line's first word. The order of an interface's
// addresses means something.
func byInterface(lines []string) {
	slices.SortStableFunc(lines, func(a, b string) int {
		a, _, _ = strings.Cut(a, " ")
		b, _, _ = strings.Cut(b, " ")
		return cmp.Compare(a, b)
	})
}

// State returns the instance's network and its processes as text, the same text for
// the same state, so that tests can compare it before and after.
func (i *Instance) State(tb TB) string {
	tb.Helper()
	i.running(tb)
	state, err := i.state(tb.Context())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return state
}

func (i *Instance) state(ctx context.Context) (string, error) {
	const mark = "==> "
	var script strings.Builder
	for _, s := range sections {
		fmt.Fprintf(&script, "echo '%s%s'\n%s\n", mark, s.name, s.command)
	}
	r, err := i.machine.run(ctx, Cmd{Args: []string{"sh", "-c", script.String()}})
	if err != nil {
		return "", fmt.Errorf("cannot read the state: %w", err)
	}
	texts := strings.Split(r.Stdout, mark)[1:]
	if len(texts) != len(sections) {
		return "", fmt.Errorf("cannot read the state:\n%s%s", r.Stdout, r.Stderr)
	}
	var state strings.Builder
	for n, s := range sections {
		lines := slices.DeleteFunc(strings.Split(texts[n], "\n")[1:], func(l string) bool {
			return l == "" || strings.HasPrefix(l, "# ")
		})
		for l := range lines {
			for _, p := range passing {
				lines[l] = p.pattern.ReplaceAllString(lines[l], p.with)
			}
		}
		if s.order != nil {
			s.order(lines)
		}
		fmt.Fprintf(&state, "%s%s\n%s\n", mark, s.name, strings.Join(append(lines, ""), "\n"))
	}
	return state.String(), nil
}

// Trouble describes the instance for a failing test: the state, the frames that the
// VPC dropped, and the ends of all logs.
func (i *Instance) Trouble() string {
	const last = 60
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if i.machine == nil {
		return "the instance is off"
	}
	report, err := i.state(ctx)
	if err != nil {
		report = err.Error() + "\n"
	}
	log := ""
	if i.machine.log != nil {
		log = i.machine.log.String()
	} else if r, err := i.machine.run(ctx, Cmd{Args: []string{"sh", "-c", journal}}); err == nil {
		log = r.Stdout
	}
	dropped, err := i.vpc.dropped(ctx)
	if err != nil {
		dropped = err.Error()
	}
	dhcp, _ := i.vpc.router.sh(ctx, "tail -n 20 /run/dnsmasq.log", nil)
	var asked strings.Builder
	requests := i.vpc.IMDS.Requests()
	for _, r := range requests[max(0, len(requests)-last):] {
		fmt.Fprintf(&asked, "%s %s %s %d\n", r.Time.Format("15:04:05.000"), r.Method, r.Path, r.Status)
	}
	return fmt.Sprintf("%s==> dropped\n%s\n==> system log\n%s\n\n==> DHCP server\n%s\n==> IMDS\n%s",
		report, dropped, lastLines(log, last), dhcp, asked.String())
}
