package lab

import (
	"os"
	"strings"
)

// What dockerd needs in a namespace, beyond what a machine has:
//
//   - Control groups of its own, since those that it makes outlive it. Of
//     version 2 they do without any controller, as on a machine that has its
//     controllers in version 1; dockerd warns of each.
//   - A storage driver that does not mount an overlay on an overlay: vfs.
//   - bridge, veth, nat, conntrack and addrtype in the kernel already: it goes on
//     when it cannot load them.
//   - A /proc/sys/net that it may write to, for ip_forward. It needs neither
//     /lib/modules nor AppArmor nor /dev/fuse.

// dockerInit is idle for a machine with docker. What has control groups below
// it that limit anything may have no processes itself: cgroups(7), "no internal
// processes".
const dockerInit = cgroupInit + `echo 0 >/sys/fs/cgroup/lab/cgroup.procs || exit 125
echo >&3
exec 3>&-
while :; do sleep 1000000; done'`

var dockerFiles = map[string]string{
	"/etc/docker/daemon.json": `{"storage-driver": "vfs", "log-level": "warn"}` + "\n",
	"/etc/containers/storage.conf": `[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
`,
}

// dockerPrepare disables docker, podman and the firewalls. "systemctl enable docker.service"
// in a Setup's Prepare starts docker at boot, as Debian's package would. The image is for
// "docker import".
const dockerPrepare = `systemctl --quiet disable docker.service docker.socket containerd.service firewalld ufw \
	podman.service podman.socket podman-restart podman-auto-update.service podman-auto-update.timer
mkdir -p /tmp/image/bin /tmp/image/etc /var/lib/lab
cp /bin/busybox /tmp/image/bin
chroot /tmp/image /bin/busybox --install -s /bin
tar -C /tmp/image -cf /var/lib/lab/image.tar .
`

// Image is the image that [Instance.StartDocker] makes: busybox and nothing
// else.
const Image = "busybox"

// StartDocker starts the docker daemon, and makes its image if it has none yet.
func (i *Instance) StartDocker(tb TB) {
	tb.Helper()
	if i.setup.Systemd {
		i.Sh(tb, "systemctl start docker.service")
	} else {
		i.Sh(tb, "setsid dockerd 2>&1 </dev/null | logger --tag dockerd &")
		i.WaitSh(tb, "docker version")
	}
	i.Sh(tb, "docker image inspect "+Image+" >/dev/null 2>&1 || docker import /var/lib/lab/image.tar "+Image)
}

// StopDocker stops the docker daemon, in order, and with it the containers. Its
// networks stay.
func (i *Instance) StopDocker(tb TB) {
	tb.Helper()
	if i.setup.Systemd {
		i.Sh(tb, "systemctl stop docker.socket docker.service")
		return
	}
	i.Sh(tb, "kill $(cat /run/docker.pid)")
	i.WaitSh(tb, "! pgrep -x dockerd")
}

// RestartDocker stops docker and starts it again. Containers that were run with
// --restart=always come back, in new networks, so that everything there is lost; see
// [Container.Enter].
func (i *Instance) RestartDocker(tb TB) {
	tb.Helper()
	if i.setup.Systemd {
		i.Sh(tb, "systemctl restart docker.service")
		return
	}
	i.StopDocker(tb)
	i.StartDocker(tb)
}

// Docker runs a docker command that has to succeed and returns what it prints.
func (i *Instance) Docker(tb TB, args ...string) string {
	tb.Helper()
	return i.engine(tb, append([]string{"docker"}, args...)...)
}

// engine runs docker or podman.
func (i *Instance) engine(tb TB, args ...string) string {
	tb.Helper()
	r := i.Run(tb, Cmd{Args: args})
	if r.Status != 0 {
		tb.Fatalf("%s: status %d\n%s%s\n%s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr, i.Trouble())
	}
	return strings.TrimSpace(r.Stdout)
}

// A Container is a container of docker or podman that runs only sleep(1). Servers in it,
// [Place.Echo], and clients, [Place.TCP], are sockets of this process in the
// container's network: to docker and the kernel it is the same, and the image needs no
// program that reports the address it saw.
type Container struct {
	Place
	instance *Instance
	program  string // docker or podman
}

// Container runs a container, in the background, with options of "docker run":
// "-p", "80:7", "--network=net1".
func (i *Instance) Container(tb TB, name string, options ...string) *Container {
	tb.Helper()
	return i.container(tb, "docker", name, options...)
}

// Podman is Container with podman, without a control group: podman's runtime would need
// controllers, and more locked memory for its BPF program, which the instance does not have.
func (i *Instance) Podman(tb TB, name string, options ...string) *Container {
	tb.Helper()
	i.Sh(tb, "podman image exists "+Image+" || podman import --quiet /var/lib/lab/image.tar "+Image)
	return i.container(tb, "podman", name, append([]string{"--cgroups=disabled"}, options...)...)
}

func (i *Instance) container(tb TB, program, name string, options ...string) *Container {
	tb.Helper()
	// Process 1 would ignore any other signal, for ten seconds.
	args := append([]string{program, "run", "--detach", "--name=" + name, "--stop-signal=KILL"}, options...)
	i.engine(tb, append(args, Image, "sleep", "1000000")...)
	c := &Container{Place: Place{Name: "container " + name}, instance: i, program: program}
	c.Enter(tb)
	tb.Cleanup(c.close)
	return c
}

// Enter puts the place into the container's network: a container that was started
// again has another one.
func (c *Container) Enter(tb TB) {
	tb.Helper()
	name := strings.TrimPrefix(c.Name, "container ")
	pid := c.instance.engine(tb, c.program, "inspect", "--format={{.State.Pid}}", name)
	var n *netns
	err := c.instance.running(tb).inside(func() error {
		file, err := os.Open("/proc/" + pid + "/ns/net")
		n = &netns{file}
		return err
	})
	if err != nil {
		tb.Fatalf("cannot enter %s: %v", c.Name, err)
	}
	c.mu.Lock()
	old := c.net
	c.net = n
	c.mu.Unlock()
	if old != nil {
		old.close()
	}
}
