package main

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"drover/internal/limits"
	"drover/internal/localcluster"
	"drover/kernel"
	"drover/tensor"
)

func TestThreads(t *testing.T) {
	for threads, want := range map[int]int{
		0: limits.Processors(), 1: 1, 1024: 1024, -1: 0, 1025: 0,
	} {
		got, err := threadsOr(threads)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("--threads %d: %d threads and error %v, want %d", threads, got, err, want)
		}
	}
	remote := target{threads: 2}
	if _, _, err := remote.connect(t.Context(), &globals{err: io.Discard}); !errors.As(err, new(usageError)) {
		t.Errorf("--threads without --model: error %v, want one of usage", err)
	}
}

// TestUpShares checks that the nodes of a machine share its processors unless told otherwise.
func TestUpShares(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	all := limits.Processors()
	for _, tc := range []struct{ threads, nodes, want, wantNode int }{
		{0, 1, all, all}, {0, 64, all, (all + 63) / 64}, {3, 4, 3, 3},
	} {
		f := upFlags{options: localcluster.Options{Threads: tc.threads, Nodes: tc.nodes}}
		if err := f.share(); err != nil {
			t.Fatal(err)
		}
		if got := f.options; got.Threads != tc.want || got.NodeThreads != tc.wantNode {
			t.Errorf("--threads %d --nodes %d: %d threads and %d in each node, want %d and %d",
				tc.threads, tc.nodes, got.Threads, got.NodeThreads, tc.want, tc.wantNode)
		}
	}
}

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
