package role

import (
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"drover/internal/limits"
)

// Who connects to a port takes a file of the process for each connection, and without a file the
// process reaches neither nodes nor etcd, and no health check reaches it. So each port has a part
// of the files, and gives those that nobody uses to who comes next.
const (
	clientPart = 4  // a coordinator's gRPC port has the 4th part of the files, HTTP as many
	adminPart  = 16 // health and metrics
	leastPart  = 8  // connections that a port has anyway
	// usualFiles is the limit where the system tells none.
	usualFiles = 1024
)

// ofFiles is a part of the files that this process may have open.
func ofFiles(part int) int {
	files := limits.OpenFiles()
	if files == 0 {
		files = usualFiles
	}
	return max(files/part, leastPart)
}

// bounded is a listener with a bound for connections. At the bound a new one takes the place of
// the one that has been idle for longest; while none is idle new ones are closed at once, so that
// clients go elsewhere or come again.
type bounded struct {
	net.Listener
	most    int
	refused func(most int)

	mu   sync.Mutex // guards the fields below, and those of its connections
	open int
	idle list.List // of *boundedConn, idle for longest first
}

// bound bounds a listener, and tells the log, now and then, that connections are refused.
func bound(l net.Listener, most int, log *slog.Logger) *bounded {
	var refusals rarely
	return &bounded{Listener: l, most: most, refused: func(most int) {
		if n, say := refusals.add(1, time.Now()); say {
			log.Warn("connections are refused: as many as the limit of open files leaves room for are"+
				" in use; raise it (ulimit -n, LimitNOFILE=)", "address", l.Addr().String(),
				"refused", n, "most", most)
		}
	}}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		k := &boundedConn{Conn: c, of: b}
		if b.take(k) {
			return k, nil
		}
		_ = c.Close() // nothing was written
		b.refused(b.most)
	}
}

// take counts a connection, which is idle at first, if there is room for it.
func (b *bounded) take(k *boundedConn) bool {
	b.mu.Lock()
	var oldest *boundedConn
	if b.open >= b.most {
		if b.idle.Len() == 0 {
			b.mu.Unlock()
			return false
		}
		oldest = b.idle.Front().Value.(*boundedConn)
		oldest.forget()
	}
	b.open++
	k.at = b.idle.PushBack(k)
	b.mu.Unlock()
	if oldest != nil {
		_ = oldest.Conn.Close() // who serves it learns that from its next read
	}
	return true
}

// setIdle notes that a connection waits for its next request, or no longer.
func (b *bounded) setIdle(k *boundedConn, idle bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case k.closed || idle == (k.at != nil):
	case idle:
		k.at = b.idle.PushBack(k)
	default:
		b.idle.Remove(k.at)
		k.at = nil
	}
}

// serveHTTP lets the server tell which connections are idle.
func (b *bounded) serveHTTP(s *http.Server) {
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		if k := c.(*boundedConn); state == http.StateActive || state == http.StateIdle {
			b.setIdle(k, state == http.StateIdle)
		}
	}
}

// boundedConn is a connection of a bounded.
type boundedConn struct {
	net.Conn
	of     *bounded
	at     *list.Element // among the idle ones; nil while it is in use
	closed bool
}

// forget takes a connection out of the count. The caller holds of.mu.
func (k *boundedConn) forget() {
	if k.closed {
		return
	}
	k.closed = true
	k.of.open--
	if k.at != nil {
		k.of.idle.Remove(k.at)
		k.at = nil
	}
}

// Close implements net.Conn.
func (k *boundedConn) Close() error {
	k.of.mu.Lock()
	k.forget()
	k.of.mu.Unlock()
	return k.Conn.Close()
}

// spoken is a bounded whose connections are in use from their first byte on: for servers that
// do not tell, and close those that are idle by themselves.
type spoken struct{ *bounded }

// Accept implements net.Listener.
func (s spoken) Accept() (net.Conn, error) {
	c, err := s.bounded.Accept()
	if err != nil {
		return nil, err
	}
	return &spokenConn{boundedConn: c.(*boundedConn)}, nil
}

// Close implements net.Listener. It also closes the connections on which nothing came yet: a gRPC
// server that stops waits for their first words.
func (s spoken) Close() error {
	err := s.bounded.Close()
	for _, c := range s.takeIdle() {
		_ = c.Close() // nothing was written
	}
	return err
}

// takeIdle takes the idle connections out of the count.
func (b *bounded) takeIdle() (all []net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.idle.Len() > 0 {
		k := b.idle.Front().Value.(*boundedConn)
		k.forget()
		all = append(all, k.Conn)
	}
	return all
}

// spokenConn is a connection of a spoken. One goroutine reads it.
type spokenConn struct {
	*boundedConn
	spoke bool
}

// Read implements net.Conn.
func (c *spokenConn) Read(p []byte) (int, error) {
	n, err := c.boundedConn.Read(p)
	if n > 0 && !c.spoke {
		c.spoke = true
		c.of.setIdle(c.boundedConn, false)
	}
	return n, err
}
