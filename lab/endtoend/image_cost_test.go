package endtoend

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

// countPrograms puts a script in the place of each program that ec2net may start on an image,
// which notes the call.
const countPrograms = `
for program in networkctl ip iptables iptables-restore iptables-save; do
	real=$(command -v $program) || continue
	real=$(realpath $real)
	test -e $real.real || mv $real $real.real
	printf '#!/bin/sh\necho "${0##*/} $*" >>/run/programs\nexec -a "$0" %s.real "$@"\n' $real | sed 's,#!/bin/sh,#!/bin/bash,' >$real
	chmod 755 $real
done
`

// plugged plugs an ENI in, and returns how long it takes until the client gets an answer.
func plugged(t *testing.T, v *lab.VPC, eni *lab.ENI) time.Duration {
	t.Helper()
	v.Client.Patience = 50 * time.Millisecond
	defer func() { v.Client.Patience = 0 }()
	eni.Attach(t, "eth1")
	began := time.Now()
	for time.Since(began) < time.Minute {
		if v.Client.UDP("10.0.1.20:7") == nil {
			return time.Since(began)
		}
	}
	t.Fatal("no answer in a minute")
	return 0
}

// What it costs to plug an ENI in: on the images beside Debian 13's alone, and on ifupdown.
func TestImageCost(t *testing.T) {
	t.Parallel()
	const plugs = 5
	rows := []struct {
		name  string
		setup lab.Setup
		alone bool
	}{
		{"Debian 13's image alone (cloud-init's hotplug)", lab.Setup{Release: "trixie", Image: true}, true},
		{"Debian 13's image with ec2net", lab.Setup{Release: "trixie", Image: true, Prepare: imageReady + countPrograms}, false},
		{"Debian 12's image with ec2net", lab.Setup{Release: "bookworm", Image: true, Prepare: imageReady + countPrograms}, false},
		{"Debian 12 with ec2net, by ifupdown and dhclient", lab.Setup{Systemd: true, Prepare: imageReady}, false},
	}
	cells := make([]string, len(rows))
	t.Run("rows", func(t *testing.T) {
		for n, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				v := lab.NewVPC(t, lab.Plan{})
				eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
				if row.alone {
					i := v.Boot(t, row.setup)
					i.WaitRunning(t)
					i.Echo(t, 7)
					cells[n] = fmt.Sprintf("%.1f s | – | – | –", plugged(t, v, eth1).Seconds())
					return
				}
				i := boot(t, v, row.setup)
				i.WaitRunning(t)
				i.WaitSh(t, "test inactive = $(systemctl is-active ec2net-hotplug@eth0.service)")
				i.Sh(t, ": >/run/programs")
				first := plugged(t, v, eth1)
				waitUp(t, i, "eth1")
				programs := strings.Fields(i.Sh(t, "cut -d ' ' -f 1,2 /run/programs | tr ' ' _"))
				var again []time.Duration
				for range plugs {
					eth1.Detach(t)
					waitDown(t, i, "eth1")
					again = append(again, plugged(t, v, eth1))
					waitUp(t, i, "eth1")
				}
				slices.Sort(again)
				counted := "–"
				reloads := "–"
				if row.setup.Image {
					counted = fmt.Sprint(len(programs))
					reloads = strings.TrimSpace(i.Sh(t, "grep -c '^networkctl reload' /run/programs || :"))
					if reloads != "1" {
						t.Errorf("%s reloads for %d plugs of one ENI:\n%s", reloads, plugs+1, i.Sh(t, "cat /run/programs"))
					}
					if len(programs) > 3 {
						t.Errorf("%d programs for the first plug: %q", len(programs), programs)
					}
				}
				cells[n] = fmt.Sprintf("%.2f s | %.2f s | %s | %s", first.Seconds(), again[plugs/2].Seconds(), counted, reloads)
			})
		}
	})
	table := fmt.Sprintf("| | plug to first answer | again, median of %d | programs of the first plug | reloads of networkd for %d plugs |\n| --- | --- | --- | --- | --- |\n", plugs, plugs+1)
	for n, row := range rows {
		table += fmt.Sprintf("| %s | %s |\n", row.name, cells[n])
	}
	t.Log("\n" + table)
	report.Update(t, "../../docs/performance.md", "plug", table)
}
