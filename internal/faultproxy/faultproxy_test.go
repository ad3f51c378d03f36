package faultproxy_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drover/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startEcho returns the address of a server that sends back what it gets.
func startEcho(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// through is a proxy with a connection through it.
type through struct {
	*faultproxy.Proxy
	conn net.Conn
}

func start(t *testing.T) through {
	t.Helper()
	p, err := faultproxy.Start(startEcho(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	conn, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return through{p, conn}
}

// echo sends bytes and returns how long they took to come back.
func (c through) echo(t *testing.T, bytes int) time.Duration {
	t.Helper()
	began := time.Now()
	go func() { _, _ = c.conn.Write(make([]byte, bytes)) }()
	if _, err := io.ReadFull(c.conn, make([]byte, bytes)); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestConditions(t *testing.T) {
	c := start(t)
	c.echo(t, 1<<20)
	c.Set(faultproxy.Conditions{Delay: 20 * time.Millisecond})
	if took := c.echo(t, 10); took < 40*time.Millisecond {
		t.Errorf("20 ms each way: came back after %v", took)
	}
	c.Set(faultproxy.Conditions{BytesPerSecond: 1 << 20})
	if took := c.echo(t, 100<<10); took < 95*time.Millisecond {
		t.Errorf("100 KiB at 1 MiB/s came back after %v", took)
	}
	c.Set(faultproxy.Conditions{})
	c.echo(t, 1<<20)
}

// TestStall holds bytes back in each direction, and delivers them when it is over.
func TestStall(t *testing.T) {
	for _, stall := range []faultproxy.Conditions{faultproxy.BlackHole, {StallOut: true},
		{StallBack: true}} {
		c := start(t)
		c.echo(t, 10)
		c.Set(stall)
		if _, err := c.conn.Write([]byte("held back")); err != nil {
			t.Fatal(err)
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if n, err := c.conn.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Errorf("%+v: %d bytes, %v", stall, n, err)
		}
		_ = c.conn.SetReadDeadline(time.Time{})
		c.Set(faultproxy.Conditions{})
		got := make([]byte, 9)
		if _, err := io.ReadFull(c.conn, got); err != nil || string(got) != "held back" {
			t.Errorf("%+v over: %q, %v", stall, got, err)
		}
	}
}

func TestResetAndRefuse(t *testing.T) {
	c := start(t)
	c.echo(t, 10)
	c.Set(faultproxy.Conditions{Refuse: true})
	c.Reset()
	if _, err := c.conn.Read(make([]byte, 1)); err == nil {
		t.Error("a reset connection still reads")
	}
	again, err := net.Dial("tcp", c.Address())
	if err == nil {
		defer again.Close()
		if _, err := again.Read(make([]byte, 1)); err == nil {
			t.Error("a refused connection reads")
		}
	}
	c.Set(faultproxy.Conditions{})
	good, err := net.Dial("tcp", c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	through{c.Proxy, good}.echo(t, 10)
}
