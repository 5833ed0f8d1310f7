package main

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process in the background holds no pipe of the caller's: a reader sees its end.
func TestDetached(t *testing.T) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], 0); err != nil { // open across exec, unlike Go's own
		t.Fatal(err)
	}
	r := os.NewFile(uintptr(ends[0]), "pipe")
	defer r.Close()
	p, err := detached("/bin/sleep", []string{"sleep", "60"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}()
	if err := unix.Close(ends[1]); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(r)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the pipe is held")
	}
	if session, err := unix.Getsid(p.Pid); err != nil || session != p.Pid {
		t.Errorf("session %d, %v", session, err)
	}
}
