package main

import (
	"os"
	"regexp"
	"testing"
	"time"

	"ec2net/stack/ifupdown"
)

// Each limit leaves time for those within it: ifup, with a DHCP client that waits as long
// as it ever does, within hotplug, and hotplug within its unit.
func TestLimits(t *testing.T) {
	const askAndUndo = 40*time.Second + 90*time.Second
	if hotplugLimit < ifupdown.LongestLimit+askAndUndo {
		t.Errorf("hotplug has %v, ifup %v", hotplugLimit, ifupdown.LongestLimit)
	}
	for _, unit := range []string{"hotplug", "unplug"} {
		text, err := os.ReadFile("../../systemd/ec2net-" + unit + "@.service")
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`(?m)^TimeoutStartSec=(\d+m)in$`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s: no TimeoutStartSec", unit)
		}
		if limit, err := time.ParseDuration(string(found[1])); err != nil || limit <= hotplugLimit {
			t.Errorf("%s has %v, %v", unit, limit, err)
		}
	}
}
