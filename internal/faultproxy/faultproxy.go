// Package faultproxy carries TCP connections to a target and does to them what networks
// do: delay, narrow, stall, break. Tests and benchmarks use it where the kernel has no
// means for that.
package faultproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// Conditions say how the network is. The zero value is a good one.
type Conditions struct {
	// Delay is the time of the way, in each direction.
	Delay time.Duration
	// BytesPerSecond bounds each direction of each connection. Zero means no bound.
	BytesPerSecond int64
	// StallOut and StallBack deliver nothing from the client to the target, or back. As
	// TCP sends again what is lost, what was held back arrives when the stall is over.
	// Both together are a black hole; one is a half-open connection.
	StallOut, StallBack bool
	// Refuse closes new connections at once, as the machine of a dead process does.
	Refuse bool
}

// BlackHole is a network that delivers nothing and says nothing.
var BlackHole = Conditions{StallOut: true, StallBack: true}

// Proxy carries connections to one target.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu         sync.Mutex // guards the fields below
	conditions Conditions
	changed    chan struct{} // closed and replaced when conditions change
	open       map[*net.TCPConn]bool
}

// Start starts a proxy on a free port of loopback.
func Start(target string) (*Proxy, error) { return StartAt("127.0.0.1:0", target) }

// StartAt starts a proxy at an address.
func StartAt(address, target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: listener, changed: make(chan struct{}),
		open: make(map[*net.TCPConn]bool)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p, nil
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Set changes the conditions, also of connections that are open.
func (p *Proxy) Set(c Conditions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conditions = c
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset breaks all connections as the end of a process does.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.SetLinger(0) // close with RST
		_ = c.Close()
	}
}

// Close breaks all connections and returns when all goroutines are gone.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.cancel()
	p.Reset()
	p.running.Wait()
}

func (p *Proxy) now() (Conditions, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conditions, p.changed
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.carry(in.(*net.TCPConn))
	}
}

// carry connects to the target and starts both directions.
func (p *Proxy) carry(in *net.TCPConn) {
	if c, _ := p.now(); c.Refuse {
		_ = in.SetLinger(0)
		_ = in.Close()
		return
	}
	target, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = in.Close()
		return
	}
	out := target.(*net.TCPConn)
	p.mu.Lock()
	p.open[in], p.open[out] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.direction(in, out, func(c Conditions) bool { return c.StallOut }) })
	both.Go(func() { p.direction(out, in, func(c Conditions) bool { return c.StallBack }) })
	p.running.Go(func() {
		both.Wait()
		p.mu.Lock()
		delete(p.open, in)
		delete(p.open, out)
		p.mu.Unlock()
	})
	if p.ctx.Err() != nil {
		p.Reset() // Close may have looked before these were open
	}
}

// piece is bytes on their way.
type piece struct {
	bytes []byte
	sent  time.Time
}

const (
	pieceBytes = 16 << 10
	maxPieces  = 256 // on their way in one direction
)

// direction carries one direction to its end and closes both connections then.
func (p *Proxy) direction(from, to *net.TCPConn, stalled func(Conditions) bool) {
	ctx, cancel := context.WithCancel(p.ctx)
	way := make(chan piece, maxPieces)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(way)
		for {
			b := make([]byte, pieceBytes)
			n, err := from.Read(b)
			if n > 0 {
				select {
				case way <- piece{b[:n], time.Now()}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for one := range way {
		if !p.pass(ctx, one, stalled) {
			break
		}
		if _, err := to.Write(one.bytes); err != nil {
			break
		}
	}
	cancel()
	_ = from.Close()
	_ = to.Close()
	reading.Wait()
}

// pass waits until a piece may be delivered; it returns false if that is never.
func (p *Proxy) pass(ctx context.Context, one piece, stalled func(Conditions) bool) bool {
	for {
		c, changed := p.now()
		wait := time.Until(one.sent.Add(c.Delay))
		if c.BytesPerSecond > 0 {
			wait = max(wait, 0) + time.Duration(len(one.bytes))*time.Second/time.Duration(c.BytesPerSecond)
		}
		if !stalled(c) && wait <= 0 {
			return true
		}
		timer := time.NewTimer(max(wait, 0))
		due := timer.C
		if stalled(c) {
			due = nil
		}
		select {
		case <-due:
			return true
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}
