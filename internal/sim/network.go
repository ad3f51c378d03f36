package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// direction is one of a connection's two.
type direction int

const (
	toNode direction = iota
	fromNode
)

// socketBytes bounds what is written to a connection and not yet read.
const socketBytes = 64 << 10

// link is the way between the coordinators and one node, with its faults. Its connections
// carry bytes in order, like TCP: what does not arrive arrives later, or never.
type link struct {
	world *world
	name  string
	base  [2]time.Duration // latency, fixed; no two links have the same

	mu       sync.Mutex // guards the fields below
	listener *listener  // nil while no process listens
	off      bool       // the machine has no power: nobody refuses a connection
	stalled  [2]int     // faults that hold bytes back
	delay    time.Duration
	slow     int                  // faults that limit the rate
	spoil    [2]int               // writes whose bytes are to be corrupted
	lose     [2]int               // writes whose bytes are to be lost
	hurt     time.Time            // when bytes were last lost or corrupted
	apart    [maxCoordinators]int // faults that hold back what comes from or to one coordinator
	far      [maxCoordinators]time.Duration
	conns    map[*conn]bool
	changed  chan struct{} // closed and replaced at each change
}

const slowBytesPerSecond = 125_000

func newLink(w *world, name string) *link {
	l := &link{world: w, name: name, conns: map[*conn]bool{}, changed: make(chan struct{})}
	for d := range l.base {
		l.base[d] = 100*time.Microsecond +
			time.Duration(mix(w.scenario.Seed, uint64(len(w.nodes)*2+d))%300_000)
	}
	return l
}

// change edits the link's state and wakes who waits for it.
func (l *link) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// waits tells whether bytes of a half are held back, and what is closed when that may have
// changed.
func (l *link) waits(h *half) (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled[h.direction]+l.apart[h.from] > 0, l.changed
}

// silent tells whether nothing is heard of the node at a coordinator. The caller holds mu.
func (l *link) silent(from int) bool {
	return l.off || l.stalled[0]+l.stalled[1]+l.apart[from] > 0
}

// dial connects a coordinator to the node as its address in the cluster says.
func (l *link) dial(ctx context.Context, from int) (net.Conn, error) {
	for {
		l.mu.Lock()
		silent, open, changed := l.silent(from), l.listener, l.changed
		l.mu.Unlock()
		if !silent && open == nil {
			l.world.fired.fire(DialRefused)
			return nil, fmt.Errorf("dial %s: %w", l.name, syscall.ECONNREFUSED)
		}
		if !silent {
			if !sleep(ctx, l.base[toNode]+l.base[fromNode]) {
				return nil, context.Cause(ctx)
			}
			if c := l.connect(open, from); c != nil {
				return c, nil
			}
			return nil, fmt.Errorf("dial %s: %w", l.name, syscall.ECONNREFUSED)
		}
		l.world.fired.fire(DialSilent)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// connect makes a connection, unless the process has ended meanwhile.
func (l *link) connect(to *listener, from int) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != to || l.off {
		return nil
	}
	c := &conn{link: l}
	for d := range c.halves {
		c.halves[d] = &half{link: l, direction: direction(d), from: from,
			changed: make(chan struct{})}
	}
	select {
	case to.accepted <- &end{conn: c, reads: c.halves[toNode], writes: c.halves[fromNode]}:
	default:
		return nil // the backlog is full
	}
	l.conns[c] = true
	return &end{conn: c, reads: c.halves[fromNode], writes: c.halves[toNode]}
}

// reset ends all connections. Silent ones are not told to the routers: what they wrote is
// never answered.
func (l *link) reset(silent bool) (ended int) {
	l.mu.Lock()
	conns, through, apart := slices.Collect(maps.Keys(l.conns)), l.stalled[fromNode] == 0, l.apart
	if !silent {
		clear(l.conns)
	}
	l.mu.Unlock() // halves are locked before their link
	for _, c := range conns {
		if c.halves[toNode].end(syscall.ECONNRESET, true); silent {
			c.halves[fromNode].freeze()
			continue
		}
		// Where nothing comes through, this does not either before the fault ends.
		c.halves[fromNode].end(syscall.ECONNRESET, through && apart[c.halves[fromNode].from] == 0)
	}
	return len(conns)
}

// conn is a connection between a router and the node.
type conn struct {
	link   *link
	halves [2]*half
}

// half is one direction of a connection.
type half struct {
	link      *link
	direction direction
	from      int // the coordinator

	mu       sync.Mutex // guards the fields below; the link's may be taken under it
	chunks   []chunk
	bytes    int
	last     time.Time // when the last chunk arrives
	err      error     // for reading, after the chunks
	broken   error     // for writing
	frozen   bool      // nothing that is written arrives any more
	shutdown bool      // the writer has closed
	changed  chan struct{}
}

// chunk is bytes that arrive together.
type chunk struct {
	bytes []byte
	at    time.Time
}

func (h *half) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// end makes reading return an error after what is on the way, or at once.
func (h *half) end(err error, atOnce bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	if atOnce {
		h.chunks, h.bytes, h.broken = nil, 0, err
	}
	h.wake()
}

// shut ends writing; what is on the way arrives.
func (h *half) shut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shutdown = true
	h.wake()
}

func (h *half) freeze() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = true
}

// write takes bytes, and waits while too many are unread.
func (h *half) write(p []byte, deadline time.Time) (int, error) {
	for {
		h.mu.Lock()
		if h.broken != nil {
			defer h.mu.Unlock()
			return 0, h.broken
		}
		if h.shutdown {
			defer h.mu.Unlock()
			return 0, net.ErrClosed
		}
		if h.bytes <= socketBytes {
			defer h.mu.Unlock()
			h.put(p)
			return len(p), nil
		}
		changed := h.changed
		h.mu.Unlock()
		if err := wait(changed, nil, 0, deadline); err != nil {
			return 0, err
		}
	}
}

// put adds a chunk as the link's faults want it.
func (h *half) put(p []byte) {
	now := time.Now()
	at, bytes := h.link.passes(h, p, now)
	if at.Before(h.last) {
		at = h.last
	}
	if h.last = at; bytes == nil || h.frozen {
		return
	}
	h.chunks = append(h.chunks, chunk{bytes, at})
	h.bytes += len(bytes)
	h.wake()
}

// passes returns when bytes arrive and as what, nil if they are lost.
func (l *link) passes(h *half, p []byte, now time.Time) (time.Time, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := h.direction
	at := now.Add(l.base[d] + l.delay + l.far[h.from])
	if l.slow > 0 {
		at = at.Add(time.Duration(len(p)) * time.Second / slowBytesPerSecond)
	}
	bytes := append([]byte(nil), p...)
	const least = 64 // bytes of a write that is worth spoiling
	switch {
	case len(p) < least:
	case l.lose[d] > 0:
		l.lose[d]--
		l.hurt = now
		l.world.fired.fire([2]Failpoint{LoseTo, LoseFrom}[d])
		bytes = nil
	case l.spoil[d] > 0:
		l.spoil[d]--
		l.hurt = now
		l.world.fired.fire([2]Failpoint{CorruptTo, CorruptFrom}[d])
		x := mix(l.world.scenario.Seed, uint64(l.spoil[d])<<8|uint64(len(p)))
		bytes[x%uint64(len(p))] ^= 1 << (x >> 32 % 8)
	}
	return at, bytes
}

// read waits for bytes and takes them.
func (h *half) read(p []byte, deadline time.Time) (int, error) {
	for {
		stalled, linkChanged := h.link.waits(h)
		h.mu.Lock()
		if len(h.chunks) == 0 && h.err != nil && (!stalled || h.broken != nil) {
			defer h.mu.Unlock()
			return 0, h.err
		}
		until := time.Duration(-1)
		if len(h.chunks) > 0 && !stalled {
			if until = time.Until(h.chunks[0].at); until <= 0 {
				defer h.mu.Unlock()
				return h.take(p), nil
			}
		}
		changed := h.changed
		h.mu.Unlock()
		if err := wait(changed, linkChanged, until, deadline); err != nil {
			return 0, err
		}
	}
}

func (h *half) take(p []byte) int {
	n := copy(p, h.chunks[0].bytes)
	if h.chunks[0].bytes = h.chunks[0].bytes[n:]; len(h.chunks[0].bytes) == 0 {
		h.chunks = h.chunks[1:]
	}
	if h.bytes -= n; h.bytes+n > socketBytes {
		h.wake()
	}
	return n
}

// wait waits for one of two channels, a duration unless it is negative, or a deadline
// unless it is zero; that one is an error.
func wait(a, b <-chan struct{}, d time.Duration, deadline time.Time) error {
	limited := !deadline.IsZero() && (d < 0 || time.Until(deadline) < d)
	if limited {
		d = max(time.Until(deadline), 0)
	}
	var timer <-chan time.Time
	if d > 0 || limited {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-a:
	case <-b:
	case <-timer:
		if limited {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

// end is one side's view of a connection.
type end struct {
	conn          *conn
	reads, writes *half

	mu       sync.Mutex // guards the field below
	deadline time.Time
}

func (e *end) limit() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.deadline
}

// Read implements net.Conn.
func (e *end) Read(p []byte) (int, error) { return e.reads.read(p, e.limit()) }

// Write implements net.Conn.
func (e *end) Write(p []byte) (int, error) { return e.writes.write(p, e.limit()) }

// Close implements net.Conn.
func (e *end) Close() error {
	e.reads.end(net.ErrClosed, true)
	e.writes.end(io.EOF, false)
	e.writes.shut()
	l := e.conn.link
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, e.conn)
	return nil
}

// LocalAddr implements net.Conn.
func (e *end) LocalAddr() net.Addr { return address(e.conn.link.name) }

// RemoteAddr implements net.Conn.
func (e *end) RemoteAddr() net.Addr { return address(e.conn.link.name) }

// SetDeadline implements net.Conn, for reads and writes that begin later.
func (e *end) SetDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deadline = t
	return nil
}

// SetReadDeadline implements net.Conn.
func (e *end) SetReadDeadline(t time.Time) error { return e.SetDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (e *end) SetWriteDeadline(t time.Time) error { return e.SetDeadline(t) }

type address string

func (a address) Network() string { return "sim" }
func (a address) String() string  { return string(a) }

// listener is where a node's process accepts connections.
type listener struct {
	link     *link
	accepted chan *end
	closed   chan struct{}
	once     sync.Once
}

func (l *link) listen() *listener {
	n := &listener{link: l, accepted: make(chan *end, 64), closed: make(chan struct{})}
	l.change(func() { l.listener, l.off = n, false })
	return n
}

// Accept implements net.Listener.
func (n *listener) Accept() (net.Conn, error) {
	select {
	case e := <-n.accepted:
		return e, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *listener) Close() error {
	n.once.Do(func() {
		close(n.closed)
		n.link.change(func() {
			if n.link.listener == n {
				n.link.listener = nil
			}
		})
		for {
			select {
			case e := <-n.accepted: // that nobody took
				e.writes.end(syscall.ECONNRESET, true)
				e.reads.end(syscall.ECONNRESET, true)
				continue
			default:
			}
			return
		}
	})
	return nil
}

// Addr implements net.Listener.
func (n *listener) Addr() net.Addr { return address(n.link.name) }

var errKilled = errors.New("sim: the process has ended")

// sleep waits, and returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// mix hashes numbers to one (splitmix64).
func mix(seed, x uint64) uint64 {
	x += seed*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
