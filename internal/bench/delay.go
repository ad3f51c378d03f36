package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// maxDelayedBytes bounds what is under way in one direction of a delayed connection:
// more than gRPC's windows, so that the delay and not the bound decides.
const maxDelayedBytes = 64 << 20

// delayedDialer dials connections on which everything takes so much longer, each way,
// as a network of that one-way time and of any rate would make it.
func delayedDialer(oneWay time.Duration) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return delay(c, oneWay), nil
	}
}

// delay returns a connection that hands everything on later. Close ends it and waits for
// its goroutines.
func delay(c net.Conn, oneWay time.Duration) net.Conn {
	near, far := net.Pipe()
	d := &delayed{Conn: near, far: far, real: c}
	d.running.Go(func() { d.carry(c, far, oneWay) })
	d.running.Go(func() { d.carry(far, c, oneWay) })
	return d
}

// delayed is the near end of a pipe; what the far end carries to and from the real
// connection arrives late.
type delayed struct {
	net.Conn
	far, real net.Conn
	running   sync.WaitGroup
}

func (d *delayed) LocalAddr() net.Addr  { return d.real.LocalAddr() }
func (d *delayed) RemoteAddr() net.Addr { return d.real.RemoteAddr() }

// Close ends the connection.
func (d *delayed) Close() error {
	err := errors.Join(d.Conn.Close(), d.far.Close(), d.real.Close())
	d.running.Wait()
	return err
}

// late is bytes with the time at which they arrive.
type late struct {
	at   time.Time
	data []byte
}

// carry reads from one side and writes to the other, later. An end on one side, which
// arrives late too, ends both.
func (d *delayed) carry(to io.WriteCloser, from io.ReadCloser, oneWay time.Duration) {
	defer to.Close()
	const chunk = 64 << 10
	under := make(chan late, maxDelayedBytes/chunk)
	gone := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(under)
		buffer := make([]byte, chunk)
		for {
			n, err := from.Read(buffer)
			select {
			case under <- late{time.Now().Add(oneWay), bytes.Clone(buffer[:n])}:
			case <-gone:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for l := range under {
		time.Sleep(time.Until(l.at))
		if len(l.data) == 0 {
			break // the end
		}
		if _, err := to.Write(l.data); err != nil {
			break
		}
	}
	close(gone)
	from.Close()
	reading.Wait()
}
