package main

import (
	"os"
	"regexp"
	"testing"
	"time"

	"ec2net/stack/ifupdown"
)

// A limit is longer than those within it: that of hotplug longer than that of ifup with the
// slowest DHCP client, that of a unit longer than that of hotplug.
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
