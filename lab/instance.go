package lab

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// A Setup is how an instance is made. The zero Setup is Debian 12 with
// ifupdown and dhclient, and with a udevd but no init system.
type Setup struct {
	Release string // "bookworm" if empty
	Systemd bool   // systemd is process 1
	// Image boots what Debian's official image for EC2 does: systemd with cloud-init,
	// netplan and systemd-networkd in the place of ifupdown. See [Instance.WaitRunning].
	Image bool
	// Rendered has what cloud-init writes for the primary there already, and switches
	// cloud-init off: the image boots in a quarter of the time.
	Rendered bool
	Dhcpcd   bool // dhcpcd is installed and not dhclient, else the other way round
	// Docker says that docker, podman, ufw and firewalld are installed, in Debian 12.
	// Nothing starts them; see [Instance.StartDocker].
	Docker bool

	// Before the first boot, as when an image is made: the tree at Install, such as
	// "make install DESTDIR=" makes, is copied over the root; Files are written; sh
	// runs Prepare.
	Install string
	Files   map[string]string
	Prepare string
}

// interfaces returns /etc/network/interfaces of an instance.
func (i *Instance) interfaces() string {
	return fmt.Sprintf(`auto lo
iface lo inet loopback

auto %[1]s
iface %[1]s inet dhcp

source /etc/network/interfaces.d/*.cfg
`, i.vpc.name)
}

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
// Without systemd it is up when Boot returns, with an address on the primary; for
// systemd see [Instance.WaitRunning].
func (v *VPC) Boot(tb TB, s Setup) *Instance {
	tb.Helper()
	if s.Release == "" {
		s.Release = "bookworm"
	}
	if s.Docker {
		s.Release += "-docker"
	}
	if s.Image {
		s.Release += "-ec2"
		s.Systemd = true
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
	err := i.create(tree)
	if err == nil && s.Image {
		err = v.startResolver()
	}
	if err != nil {
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
		"/etc/hostname": "instance\n",
		"/etc/hosts":    "127.0.0.1 localhost instance\n",
	}
	maps.Copy(files, systemdFiles)
	prepare := i.setup.Prepare
	if i.setup.Image {
		maps.Copy(files, imageFiles)
		if i.setup.Rendered {
			maps.Copy(files, i.rendered())
			prepare = fewerWatches + prepare
		}
		prepare = imagePrepare + prepare
	} else {
		files["/etc/network/interfaces"] = i.interfaces()
		prepare = i.setup.oneClient() + prepare
	}
	if i.setup.Docker {
		maps.Copy(files, dockerFiles)
		prepare = dockerPrepare + prepare
	}
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
	_, err = m.sh(i.ctx, prepare, files)
	return err
}

// oneClient leaves one DHCP client of the two.
func (s Setup) oneClient() string {
	if s.Dhcpcd {
		return "rm -f /usr/sbin/dhclient\n"
	}
	return "rm -f /usr/sbin/dhcpcd\n"
}

// Beyond makes a network of the instance's own, such as a VPN: an interface of that
// name and address ("192.0.2.1/30"), and a place at its other end, which has no other
// route. It ends with the instance or the place.
func (i *Instance) Beyond(tb TB, name, addr, far string) *Place {
	tb.Helper()
	i.running(tb)
	n, err := newNetns()
	if err != nil {
		tb.Fatalf("cannot make what is beyond %s: %v", name, err)
	}
	p := &Place{Name: "beyond " + name, net: n}
	tb.Cleanup(p.close)
	err = i.Do(func() error {
		// The far end is made in its place, where udevd does not see it. udevd must
		// not give this end another MAC (systemd.link(5)) either, which the far one
		// would not learn.
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr{2, 0xbe, 0, 0, 0, name[len(name)-1]}},
			PeerName:      "far",
			PeerNamespace: netlink.NsFd(n.fd()),
		})
		if err != nil {
			return err
		}
		return addAddress(name, addr)
	})
	if err == nil {
		err = n.do(func() error {
			if err := addAddress("far", far); err != nil {
				return err
			}
			gateway, _, _ := strings.Cut(addr, "/")
			if err := addDefaultRoute(gateway); err != nil {
				return err
			}
			return waitUp("far")
		})
	}
	if err != nil {
		tb.Fatalf("cannot make what is beyond %s: %v", name, err)
	}
	return p
}
