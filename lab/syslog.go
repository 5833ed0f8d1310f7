package lab

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
)

// A syslog is the system log of a machine that has no daemon for it.
type syslog struct {
	conn *net.UnixConn
	mu   sync.Mutex
	text strings.Builder
}

// stamp matches what syslog(3) puts before a message's tag: "<30>Nov 22 10:00:00 ".
var stamp = regexp.MustCompile(`^<\d+>([A-Z][a-z]{2} [ \d]\d [\d:]{8} )?`)

// listenSyslog listens on a socket that anybody may write to, as long as the
// calling thread's umask is 0.
func listenSyslog(path string) (*syslog, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot keep a system log: %w", err)
	}
	l := &syslog{conn: conn}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.text.WriteString(strings.TrimRight(stamp.ReplaceAllString(string(buf[:n]), ""), "\n\x00") + "\n")
			l.mu.Unlock()
		}
	}()
	return l, nil
}

func (l *syslog) close() { _ = l.conn.Close() }

func (l *syslog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
