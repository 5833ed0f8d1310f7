package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"time"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/hooks"
)

// lastFacts is the path of the remembered facts of an ENI.
func lastFacts(name string) string { return path.Join("/var/lib/ec2net", name+".json") }

// withoutIMDS returns the remembered facts of a device, if IMDS does not answer and the
// command can use them. For another command it fails, and names their file.
func (inv *invocation) withoutIMDS(failure error, name string, mac facts.MAC, n facts.Numbers) (facts.ENI, error) {
	failed := &fault.Error{Kind: fault.Of(failure), Err: fmt.Errorf("no facts of %s: %w", name, failure)}
	last, written, ok := recall(name, mac, n)
	switch {
	case failed.Kind != fault.Facts || !ok:
		return last.ENI, failed
	case inv.command.recalls:
		inv.say("%s; using the remembered facts: %s, written %s", joinOnce(failure), lastFacts(name), ago(time.Since(written)))
		return last.ENI, nil
	}
	failed.Try = fmt.Sprintf("the remembered facts: ec2net %s %s --facts %s", inv.command.name, name, lastFacts(name))
	if len(last.Unknown()) > 0 { // --facts would refuse them
		failed.Try = "the remembered facts are in " + lastFacts(name)
	}
	if hint := fault.Hint(failure); hint != "" {
		failed.Try = hint + "; " + failed.Try
	}
	return last.ENI, failed
}

// recall reads the remembered facts, if they are of this very device and nobody else
// can have written them. written is the time of their last change.
func recall(name string, mac facts.MAC, n facts.Numbers) (last facts.Kept, written time.Time, ok bool) {
	tree, err := disk.OpenMachine(hooks.OwnFolders...)
	if err != nil {
		return last, written, false
	}
	defer tree.Close()
	text, err := tree.Read(lastFacts(name))
	if err != nil || text == nil {
		return last, written, false
	}
	last, err = facts.DecodeKept(bytes.NewReader(text), n)
	if err != nil || last.Name != name || last.MAC != mac {
		return last, written, false
	}
	info, err := os.Stat(lastFacts(name))
	if err != nil {
		return last, written, false
	}
	return last, info.ModTime(), true
}

// ago spells a past time in the largest unit of which there are at least two.
func ago(passed time.Duration) string {
	for _, unit := range []struct {
		name string
		time.Duration
	}{{"days", 24 * time.Hour}, {"hours", time.Hour}, {"minutes", time.Minute}} {
		if n := passed / unit.Duration; n >= 2 {
			return fmt.Sprintf("%d %s ago", n, unit.name)
		}
	}
	if n := max(0, passed/time.Second); n != 1 {
		return fmt.Sprintf("%d seconds ago", n)
	}
	return "1 second ago"
}
