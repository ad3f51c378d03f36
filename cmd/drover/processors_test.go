package main

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// computing multiplies in every piece.
type computing struct {
	m    *kernel.Matrix
	rows []kernel.Activations // by thread
	y    []tensor.Rows
}

func (c *computing) Do(thread, _ int) { c.m.MulPart(c.y[thread], &c.rows[thread], 0, c.m.N) }

// echo answers each byte that comes on a loopback connection until the other side ends.
func echo(t *testing.T) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // no splice: a goroutine
			_ = c.Close()
		}
	}()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = l.Close()
		<-done
	})
	return client
}

// TestNetworkWhileComputing checks that goroutines get replies from the network while
// all compute threads are busy. The work takes some 500 ms: with no room for the runtime
// replies wait for up to 20 ms each, and with room for some 0.05 ms.
func TestNetworkWhileComputing(t *testing.T) {
	const fewestReplies = 100
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	threads := 0
	if err := setProcessors(&threads); err != nil {
		t.Fatal(err)
	}
	if got := runtime.GOMAXPROCS(0); got != threads+2 {
		t.Fatalf("GOMAXPROCS = %d for %d threads, want two more", got, threads)
	}
	m, err := kernel.NewMatrix(2048, 2048, kernel.WeightsBF16)
	if err != nil {
		t.Fatal(err)
	}
	work := &computing{m: m, rows: make([]kernel.Activations, threads),
		y: make([]tensor.Rows, threads)}
	for i := range threads {
		work.rows[i].Prepare(tensor.MakeRows(1, m.K), m.Format())
		work.y[i] = tensor.MakeRows(1, m.N)
	}
	pool := kernel.NewPool(threads)
	defer pool.Close()
	client := echo(t)
	var computed atomic.Bool
	go func() {
		defer computed.Store(true)
		pool.Run(1000*threads, work)
	}()
	trips, b := 0, make([]byte, 1)
	for ; !computed.Load(); trips++ {
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, b); err != nil {
			t.Fatal(err)
		}
	}
	if trips < fewestReplies {
		t.Errorf("%d replies while all threads computed, want at least %d", trips, fewestReplies)
	}
}
