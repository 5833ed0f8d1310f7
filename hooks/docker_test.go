package hooks

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/render"
)

// iptables that refuses is not taken for done.
func TestIptablesRefuses(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			run(ctx, program, args...)
			if program == "iptables" {
				return exited(1)
			}
			return nil
		}
		if err := m.DockerUp(t.Context()); err == nil {
			t.Error("iptables -A failed, and nobody says so")
		}
		check(t, m.DockerDown(t.Context())) // there is nothing to take away
	})
}

type exited int

func (e exited) Error() string { return "exited" }
func (e exited) ExitCode() int { return int(e) }

// What docker needs does not keep an ENI down.
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

// An ENI that is up keeps its mark for containers, whatever of its state is lost.
func TestDockerKeepsMarks(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *machine){
		"facts": func(t *testing.T, m *machine) { m.put(t, factsPath("eth1"), "\x00") },
		"note":  func(t *testing.T, m *machine) { check(t, m.Tree.Remove(notePath("eth1"))) },
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(m *machine) {
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

// docker comes up: an ENI that is an administrator's by now is none of ec2net's.
func TestDockerUnmanaged(t *testing.T) {
	onMachine(t, func(m *machine) {
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

// An ENI that an administrator takes over while it is up goes on answering for
// its containers.
func TestDockerTakenOver(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.DockerUp(t.Context()))
		m.put(t, "/etc/network/interfaces.d/eth1.cfg", "# EC2SYNC=no\n"+m.file(t, "/etc/network/interfaces.d/eth1.cfg"))
		check(t, m.Add(t.Context(), "eth2"))
		if text := m.file(t, "/var/lib/ec2net/docker.iptables"); !strings.Contains(text, "0x3e9/0x3fff") {
			t.Error(text)
		}
	})
}
