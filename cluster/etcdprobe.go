package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// probeTimeout bounds a look at one member.
const probeTimeout = time.Second

// away adds to an error of etcd's client, which says no more than that the time is up, what is
// seen of each member: whoever has a wrong address or certificate must learn of that.
func (s *Etcd) away(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	seen := make([]string, len(s.endpoints))
	done := make(chan struct{})
	for i, e := range s.endpoints {
		go func() {
			seen[i] = probe(ctx, e, s.tls)
			done <- struct{}{}
		}()
	}
	for range seen {
		<-done
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(seen, "; "))
}

// probe connects to a member, begins HTTP/2, and says what came of it.
func probe(ctx context.Context, endpoint string, secure *tls.Config) string {
	_, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		address = endpoint
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline() // of away
	_ = conn.SetDeadline(deadline)
	if secure != nil {
		cfg := secure.Clone()
		cfg.NextProtos = []string{"h2"}
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(address)
		}
		conn = tls.Client(conn, cfg)
	}
	// The client's preface and an empty SETTINGS frame, RFC 9113, section 3.4.
	_, err = io.WriteString(conn,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	frame := make([]byte, 9) // a frame's head
	if err == nil {
		_, err = io.ReadFull(conn, frame)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return address + ": connected, no answer"
	case err != nil && secure == nil:
		return fmt.Sprintf("%s: connected in plain text, then %v", address, err)
	case err != nil:
		return fmt.Sprintf("%s: %v", address, err)
	case frame[3] != 4: // a server's first frame is SETTINGS
		return address + ": connected, answers in another protocol"
	}
	return address + ": answers, but not in time"
}
