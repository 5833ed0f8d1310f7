package program

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// An error says how the program ended, and has the last lines of its output.
func TestError(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		ctx      context.Context
		program  string
		script   string
		status   int
		want     string
		contains bool // want is only a part
	}{
		"a status":      {t.Context(), "sh", "exit 3", 3, "exit status 3", false},
		"with output":   {t.Context(), "sh", "echo one; echo two >&2; exit 4", 4, "exit status 4: one; two", false},
		"by descriptor": {t.Context(), "sh", "echo lost; echo one >/dev/stderr; echo two; exit 4", 4, "exit status 4: one; two", false},
		"a signal":      {t.Context(), "sh", "kill -KILL $$", -1, "signal: killed", false},
		"no time":       {late, "sh", "exit 3", 0, "it was not started: no time was left", false},
		"told to end":   {ended, "sh", "exit 3", 0, "it was not started: ec2net was told to end", false},
		"no program":    {t.Context(), "ifno-such", "", 0, "there is no ifno-such: is ifupdown installed?", false},
		"of no package": {t.Context(), "no-such", "", 0, "there is no no-such in /usr/local/sbin", true},
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(c.ctx, c.program, "-c", c.script)
			if err == nil || (err.Error() != c.want && !(c.contains && strings.Contains(err.Error(), c.want))) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			var e *Error
			if errors.As(err, &e) != (c.status != 0) || (e != nil && e.ExitCode() != c.status) {
				t.Errorf("%v has exit code %v, want %d", err, e, c.status)
			}
		})
	}
}

// A program that is given up has time to clean up. The error says why it was given up,
// and has its output from before that.
func TestInOrder(t *testing.T) {
	said, done := newFIFO(t), newFIFO(t)
	for want, when := range map[string]func(context.Context) context.Context{
		"it was ended, since ec2net was told to end: one; two": func(ctx context.Context) context.Context { return ctx },
		"it took too long and was ended: one; two":             func(ctx context.Context) context.Context { return overdue{ctx} },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Run(when(ctx), "sh", "-c", `trap 'sleep 0.1; echo $$ >"$1"; echo three; exit 0' TERM
echo one; echo two; setsid `+sleeper+` & wait`, said.path, done.path)
		}()
		said.next(t)
		cancel()
		if err := <-ended; err == nil || err.Error() != want || !errors.Is(err, when(ctx).Err()) {
			t.Errorf("error %v, want %q", err, want)
		}
		done.next(t)
	}
}

// The error names the process that the program was waiting for when it was given up.
func TestAt(t *testing.T) {
	said := newFIFO(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, "sh", "-c", sleeper+"; :", said.path) }()
	waitNamed(t, said.next(t), "sleep")
	cancel()
	const want = "it was ended, since ec2net was told to end, at sleep"
	if err := <-ended; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

// waitNamed waits until a process runs this program.
func waitNamed(t *testing.T, pid int, name string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		p, _ := readProcess(pid)
		if p.name == name {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%v is not %s", p, name)
		}
	}
}

// overdue is a context that ends as if its deadline had passed.
type overdue struct{ context.Context }

func (o overdue) Err() error {
	if o.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

// The error quotes the last lines whole.
func TestTail(t *testing.T) {
	long := strings.Repeat("0123456789 ", 60)
	for name, c := range map[string]struct{ output, want string }{
		"nothing":                {"", ""},
		"blank lines":            {"\n \n", ""},
		"no end of the line":     {"one\ntwo", "one; two"},
		"blanks":                 {"\n  one \t two \r\n\n three\n", "one two; three"},
		"too many lines":         {strings.Repeat("DHCPDISCOVER on eth1 to 255.255.255.255 port 67 interval 3\n", 6) + "RTNETLINK answers: File exists\nifup: failed to bring up eth1\n", strings.Repeat("DHCPDISCOVER on eth1 to 255.255.255.255 port 67 interval 3; ", 5) + "RTNETLINK answers: File exists; ifup: failed to bring up eth1"},
		"a long line":            {long + "\nlast\n", "last"},
		"a long line at the end": {"first\n" + long + "\n", long[:400] + "..."},
		"not cut within a rune":  {strings.Repeat("a", 399) + "äöü", strings.Repeat("a", 399) + "..."},
		"far too much":           {strings.Repeat("x", 70<<10) + "\nlast", "last"},
		"one line far too long":  {strings.Repeat("x", 70<<10), strings.Repeat("x", 400) + "..."},
	} {
		t.Run(name, func(t *testing.T) {
			output, err := newOutput("test")
			if err != nil {
				t.Fatal(err)
			}
			defer output.Close()
			if _, err := output.WriteString(c.output); err != nil {
				t.Fatal(err)
			}
			if got := tail(output); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
