package lab

import "time"

// eventWait is how long an instance has for what is to happen: a DHCP client
// without an answer gives up after a minute, and ifdown waits for the ifup that
// waits for it. It is looked at every eventPoll, or, where looking is work, for a
// third of the time: the instance needs the processor too.
const (
	eventWait = 90 * time.Second
	eventPoll = 10 * time.Millisecond
)

// WaitFor waits until something has happened in the instance. If it does not
// within 90 seconds the test fails, with all there is to see.
func (i *Instance) WaitFor(tb TB, what string, done func() bool) {
	tb.Helper()
	deadline := time.Now().Add(eventWait)
	for {
		start := time.Now()
		if done() {
			return
		}
		if start.After(deadline) || tb.Context().Err() != nil {
			tb.Fatalf("waited in vain for %s\n%s", what, i.Trouble())
		}
		time.Sleep(max(eventPoll, 2*time.Since(start)))
	}
}

// WaitSh waits until a shell script succeeds.
func (i *Instance) WaitSh(tb TB, script string) {
	tb.Helper()
	i.WaitFor(tb, "the success of: "+script, func() bool {
		return i.Run(tb, Cmd{Args: []string{"sh", "-c", script}}).Status == 0
	})
}
