package hooks

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/render"
)

// ec2net reports it if iptables refuses.
func TestIptablesRefuses(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.forward(t, true)
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			run(ctx, program, args...)
			if program == "iptables" {
				return exited(1)
			}
			return nil
		}
		if err := m.DockerUp(t.Context()); err == nil {
			t.Error("iptables -A failed, and DockerUp returned no error")
		}
		check(t, m.DockerDown(t.Context())) // there is nothing to remove
	})
}

type exited int

func (e exited) Error() string { return "exited" }
func (e exited) ExitCode() int { return int(e) }

// A failure at docker's marks does not keep an ENI down.
func TestDockerInTheWay(t *testing.T) {
	onMachine(t, func(m *machine) {
		check(t, m.Add(t.Context(), "eth1"))
		check(t, m.Remove(t.Context(), "eth1"))
		m.put(t, dockerMark, "up\n")
		m.Templates = endlessDocker{m.Templates}
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if err := run(ctx, program, args...); err != nil {
				return err
			}
			return ctx.Err()
		}
		m.forward(t, true)
		m.ran = nil
		if err := m.Add(t.Context(), "eth1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("add: %v", err)
		}
		same(t, "programs", m.ran, []string{"ifup eth1"})
	})
}

type endlessDocker struct{ Templates }

func (endlessDocker) Docker(ctx context.Context, _ []facts.ENI, _ int) (render.File, error) {
	<-ctx.Done()
	return render.File{}, ctx.Err()
}

// A live ENI keeps its mark for containers even if its facts or its note are lost.
func TestDockerKeepsMarks(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *machine){
		"facts": func(t *testing.T, m *machine) { m.put(t, factsPath("eth1"), "\x00") },
		"note":  func(t *testing.T, m *machine) { check(t, m.Tree.Remove(notePath("eth1"))) },
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				m.forward(t, true)
				ready(t, m)
				check(t, m.DockerUp(t.Context()))
				lose(t, m)
				check(t, m.Add(t.Context(), "eth2"))
				if text := m.file(t, "/var/lib/ec2net/docker.iptables"); !strings.Contains(text, "0x3e9/0x3fff") || !strings.Contains(text, "0x3ea/0x3fff") {
					t.Error(text)
				}
			})
		})
	}
}

// docker comes up after an administrator has taken over an ENI: ec2net leaves it alone.
func TestDockerUnmanaged(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		m.Unmanaged = Patterns{"eth1"}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "docker0"
		check(t, m.netns.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		m.address(t, "docker0", "172.17.0.1/16")
		check(t, m.DockerUp(t.Context()))
		for _, r := range m.log {
			if strings.HasPrefix(r, "eth1:") && strings.Contains(r, "docker") {
				t.Error(r)
			}
		}
	})
}

// An administrator takes over an ENI while it is up: the answers of containers still
// leave by it.
func TestDockerTakenOver(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		check(t, m.DockerUp(t.Context()))
		m.put(t, "/etc/network/interfaces.d/eth1.cfg", "# EC2SYNC=no\n"+m.file(t, "/etc/network/interfaces.d/eth1.cfg"))
		check(t, m.Add(t.Context(), "eth2"))
		if text := m.file(t, "/var/lib/ec2net/docker.iptables"); !strings.Contains(text, "0x3e9/0x3fff") {
			t.Error(text)
		}
	})
}

// An ENI comes up while "docker up" runs: the answers of containers get its mark.
func TestDockerMeanwhile(t *testing.T) {
	const fragment = "/var/lib/ec2net/docker.iptables"
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.forward(t, true)
		m.Log, m.Kernel = quiet{}, m.kernel // which are safe to share
		added := make(chan error, 1)
		var once sync.Once
		m.Run = func(_ context.Context, program string, args ...string) error {
			if slices.Contains(args, fragment) {
				once.Do(func() {
					go func() { added <- m.Add(t.Context(), "eth2") }()
					for m.file(t, notePath("eth2")) == "" {
						time.Sleep(time.Millisecond)
					}
				})
			}
			if program == "ifup" {
				m.setUp(t, args[0])
			}
			_, err := m.firewall.run(program, args)
			return err
		}
		check(t, m.DockerUp(t.Context()))
		check(t, <-added)
		if text := m.file(t, fragment); !strings.Contains(text, "0x3ea/0x3fff") {
			t.Errorf("the marks are\n%s", text)
		}
	})
}

// iptables fails at "docker up", which returns an error.
func TestDockerUpFails(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.forward(t, true)
		m.Run = func(_ context.Context, program string, _ ...string) error {
			return errors.New("there is no " + program)
		}
		if err := m.DockerUp(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}
