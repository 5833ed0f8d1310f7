// Package lab runs ec2net on real Debian userlands without EC2.
//
// [Debian] makes the project's own Debian trees, [Tree.Run] runs one command in
// a throwaway copy of a tree. [NewVPC] makes a VPC of network namespaces: a
// router with a real DHCP server and the metadata service of the package imds,
// a client outside, ENIs whose ports drop and count what is not theirs to send.
// [VPC.Boot] boots the VPC's instance, a Debian tree with a disk of its own in
// which the real udevd, ifupdown and DHCP client run, by themselves or under
// systemd; or one with cloud-init, netplan and systemd-networkd, as on EC2: see
// [Setup]. [ENI.Attach] plugs an ENI in. [Place.TCP] and [Place.UDP] ask the
// instance from elsewhere, [Instance.State] is its network as text.
//
// The lab needs root, because it makes namespaces, mounts and device nodes,
// and it needs debootstrap once for each tree. It needs nothing else of the host:
// every tool that it runs is the tree's. Whatever it starts lives in namespaces of its
// own, which end with their first process, and that process ends with the one that
// started it; so nothing has to be torn down, even after a SIGKILL. The one exception
// is the control group of a systemd: a small process waits for the lab's end and
// removes it.
package lab

import (
	"context"
	"os"
)

// TB is the part of [testing.TB] that the lab uses. As with testing.TB, Fatalf
// and Skipf do not return, and the context ends before the functions of Cleanup
// begin. A program that is no test gets one from [Program].
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// needRoot skips the test for a user who cannot run it. Under CI a skipped
// test would look like a passed one, so there it fails.
func needRoot(tb TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const why = "the lab needs root: it makes namespaces, mounts and device nodes"
	if os.Getenv("CI") != "" {
		tb.Fatalf("%s", why)
	}
	tb.Skipf("%s", why)
}
