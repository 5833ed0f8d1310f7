package hooks

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ec2net/kernel"
)

// A router adds 20,000 routes at once by the primary and by eth1, and deletes them. The
// kernel may drop events, but watch goes on, and the ENIs' own tables follow, in a second or
// two of CPU. A step that takes quadratic time would need minutes. The log has a few lines.
func TestWatchKeepsUpWithARouter(t *testing.T) {
	routes := 20_000
	if race || testing.Short() {
		routes = 4_000
	}
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		ready(t, m)
		m.log = nil
		ctx, stop := context.WithCancel(t.Context())
		changed, err := m.Kernel.Watch(ctx)
		check(t, err)
		m.Kernel = listening{m.Kernel, changed}
		ended := make(chan error, 1)
		go func() { ended <- Watch(ctx, func() *Host { return m.Host }) }()
		table := func(number int) (n int) {
			for _, r := range m.routes(t) {
				if r.Table == number && strings.HasPrefix(r.Dst.String(), "172.") {
					n++
				}
			}
			return n
		}
		batch := filepath.Join(t.TempDir(), "batch")
		for _, verb := range []string{"add", "del"} {
			var text strings.Builder
			for n := range routes {
				a := netip.AddrFrom4([4]byte{172, byte(16 + n>>13), byte(n >> 5), byte(n << 3)})
				fmt.Fprintf(&text, "route %s %v/29 dev eth%d\n", verb, a, n%2)
			}
			check(t, os.WriteFile(batch, []byte(text.String()), 0o600))
			before := cpu(t)
			if out, err := exec.Command("ip", "-batch", batch).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := 0
			if verb == "add" {
				want = routes / 2
			}
			for deadline := time.Now().Add(3 * time.Minute); table(1000) != want || table(1001) != want; time.Sleep(200 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("after %s the tables have %d and %d routes, want %d", verb, table(1000), table(1001), want)
				}
			}
			t.Logf("%s: %v of CPU, the looks of the test among them", verb, cpu(t)-before)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if len(m.log) > routes/2 { // a round logs a hundred at most, of the thousands
			t.Errorf("%d lines of log", len(m.log))
		}
	})
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	check(t, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// listening is a kernel whose Watch was opened in the namespace of the test's thread.
type listening struct {
	Kernel
	changed *kernel.Watch
}

func (k listening) Watch(context.Context) (*kernel.Watch, error) { return k.changed, nil }
