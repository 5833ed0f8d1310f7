package lab

import (
	"context"
	"maps"
)

// A Setup is how an instance is made. The zero Setup is Debian 12 with
// ifupdown and dhclient, and with a udevd but no init system.
type Setup struct {
	Release string // "bookworm" if empty
	Systemd bool   // systemd is process 1
	Dhcpcd  bool   // dhcpcd is installed and not dhclient, else the other way round

	// Before the first boot: the tree of files at Install, as "make install
	// DESTDIR=" makes one, is copied over the root; Files are written; Prepare
	// is run by sh, as in the making of an image.
	Install string
	Files   map[string]string
	Prepare string
}

// interfaces is /etc/network/interfaces of an instance.
const interfaces = `auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp

source /etc/network/interfaces.d/*.cfg
`

// An Instance is a Debian system in a VPC.
type Instance struct {
	Place
	vpc     *VPC
	setup   Setup
	disk    *disk
	machine *machine
	cgroup  *cgroup // of its systemd
	ctx     context.Context
}

// Boot makes the VPC's instance and boots it, with all ENIs that are attached.
// Without systemd it is up when Boot returns, with an address on eth0; for
// systemd see [Instance.WaitRunning].
func (v *VPC) Boot(tb TB, s Setup) *Instance {
	tb.Helper()
	if s.Release == "" {
		s.Release = "bookworm"
	}
	tree := Debian(tb, s.Release)
	v.mu.Lock()
	second := v.booted
	v.booted = true
	v.mu.Unlock()
	if second {
		tb.Fatalf("a VPC has one instance")
	}
	i := &Instance{Place: Place{Name: "instance", ENI: v.Primary}, vpc: v, setup: s, ctx: tb.Context()}
	tb.Cleanup(func() {
		i.off()
		if i.cgroup != nil {
			i.cgroup.close()
		}
	})
	if err := i.create(tree); err != nil {
		tb.Fatalf("cannot make an instance of %s: %v", s.Release, err)
	}
	if err := i.on(); err != nil {
		tb.Fatalf("cannot boot an instance of %s: %v\n%s", s.Release, err, i.Trouble())
	}
	return i
}

// create makes the disk, on a machine that is in no VPC.
func (i *Instance) create(tree *Tree) (err error) {
	if i.disk, err = newDisk(tree); err != nil {
		return err
	}
	files := map[string]string{
		"/etc/network/interfaces": interfaces,
		"/etc/hostname":           "instance\n",
		"/etc/hosts":              "127.0.0.1 localhost instance\n",
	}
	maps.Copy(files, systemdFiles)
	maps.Copy(files, i.setup.Files)
	m := &machine{disk: i.disk, hostname: "image", script: idle}
	if err := m.start(); err != nil {
		return err
	}
	defer m.kill()
	if i.setup.Install != "" {
		if err := m.copyTree(i.setup.Install); err != nil {
			return err
		}
	}
	remove := "rm -f /usr/sbin/dhcpcd"
	if i.setup.Dhcpcd {
		remove = "rm -f /usr/sbin/dhclient"
	}
	_, err = m.sh(i.ctx, remove+"\n"+i.setup.Prepare, files)
	return err
}
