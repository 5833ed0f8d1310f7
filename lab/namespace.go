package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onThread runs f on a thread of its own, which may change its namespaces, root and
// umask: it runs nothing else and ends with f. As long as f runs, the thread is the
// parent of the processes that f starts.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self is about it. While this
			// goroutine holds it, the next one gets another.
			result <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		result <- f()
	}()
	return <-result
}

// enter moves the calling thread into mount, net, UTS and IPC namespaces of
// its own, with a throwaway copy of the tree as its root. Only a thread from
// [onThread] may call it: there is no way back. It leaves a umask of 0, so
// that files get the modes that they are written with.
//
// It does not mount /proc, which would show this PID namespace: a new one begins only
// with a new process. See [initCommand].
func (t *Tree) enter() error {
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	unix.Umask(0)
	if err := t.changeRoot(); err != nil {
		return err
	}
	if err := populate(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("cannot set the host name: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}
	return nil
}

// changeRoot makes a throwaway copy of the tree the root of the calling
// thread's mount namespace.
func (t *Tree) changeRoot() error {
	if err := t.mountDisk(); err != nil {
		return err
	}
	return t.pivot()
}

// scratch is the folder in which to assemble the overlay: the tree's own /mnt, which
// exists before and after, in mount namespaces of the lab only.
func (t *Tree) scratch() string { return filepath.Join(t.Dir, "mnt") }

// mountDisk mounts the file system that takes the writes to a copy of the tree.
func (t *Tree) mountDisk() error {
	// The namespace's mounts are copies that may still propagate changes
	// (MS_SHARED, systemd's default).
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	if err := mount("tmpfs", t.scratch(), 0, "mode=0755"); err != nil {
		return err
	}
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(t.scratch(), dir), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// pivot mounts the overlay of tree and disk, and makes it the root.
func (t *Tree) pivot() error {
	// From here the tree is "..", whose name needs no escaping in mount options.
	if err := unix.Chdir(t.scratch()); err != nil {
		return fmt.Errorf("cannot change to %s: %w", t.scratch(), err)
	}
	if err := mount("overlay", "root", 0, "lowerdir=..,upperdir=upper,workdir=work"); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of
	// the new one, and with it everything that is mounted on this machine
	// leaves the namespace.
	if err := unix.Chdir("root"); err != nil {
		return fmt.Errorf("cannot change to the new root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot leave the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("cannot change to the new root: %w", err)
	}
	return nil
}

// populate adds what a running system has and a tree on disk lacks.
func populate() error {
	const noDev = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []struct {
		fstype, target string
		flags          uintptr
		options        string
	}{
		{"sysfs", "/sys", noDev | unix.MS_NOEXEC, ""}, // shows the devices of the mounter's net namespace
		{"tmpfs", "/run", noDev, "mode=0755"},
		{"tmpfs", "/tmp", noDev, "mode=1777"},
		{"tmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "/dev/shm", noDev, "mode=1777"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := mount(m.fstype, m.target, m.flags, m.options); err != nil {
			return err
		}
	}
	for _, node := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	} {
		path := "/dev/" + node.name
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(node.major, node.minor))); err != nil {
			return fmt.Errorf("cannot make %s: %w", path, err)
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return err
		}
	}
	return nil
}

// mount mounts a file system that has no source beyond its type.
func mount(fstype, target string, flags uintptr, options string) error {
	if err := unix.Mount(fstype, target, fstype, flags, options); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", fstype, target, err)
	}
	return nil
}

// initFailed is the exit status of an init that could not start its command;
// the number is the one that chroot(1) and env(1) use for this.
const initFailed = 125

// initScript is process 1 of a PID namespace. It does not exec its command: process 1
// ignores every signal it has no handler for, which a command under test would
// notice. The exit keeps bash from an exec of the last command by itself.
const initScript = `umask 022
mount -n -t proc proc /proc || exit 125
"$@"
exit $?`

// initCommand returns a command that runs args in a new PID namespace of the
// caller's root. Nothing in the namespace outlives its process 1, which the kernel
// kills when the thread that started it ends, at the latest with this process. So the
// caller stays on one thread from Start to Wait.
func initCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", initScript, "init"}, args...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true, // no terminal to ask questions on
	}
	return cmd
}
