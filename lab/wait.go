package lab

import "time"

// eventWait bounds the wait for an event in an instance: a DHCP client without an
// answer gives up after a minute, and ifdown waits for the ifup that waits for the
// client. The lab looks every eventPoll, or, if looking is work, for a tenth of the
// time: the instance needs the processor too.
const (
	eventWait = 90 * time.Second
	eventPoll = 50 * time.Millisecond
)

// WaitFor waits until something has happened in the instance. If it does not within
// 90 seconds, the test fails and prints [Instance.Trouble].
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
		time.Sleep(max(eventPoll, min(5*eventPoll, 9*time.Since(start))))
	}
}

// WaitSh waits until a shell script succeeds.
func (i *Instance) WaitSh(tb TB, script string) {
	tb.Helper()
	i.WaitFor(tb, "the success of: "+script, func() bool {
		return i.Run(tb, Cmd{Args: []string{"sh", "-c", script}}).Status == 0
	})
}
