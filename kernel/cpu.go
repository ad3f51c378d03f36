package kernel

import (
	"fmt"
	"math"

	"drover/tensor"
)

// CPU is the Device that every machine has: whatever is queued is done when the call
// returns. It keeps scratch memory, which grows to the largest use.
//
// Work is cut into pieces for the threads of its pool, by outputs of a product or by
// rows, and what is too little to be worth waking a thread is the caller's. By K1 no
// byte depends on the cut.
type CPU struct {
	pool       *Pool
	cuts       cuts
	rows       rowTask
	mul        mulTask
	quantising quantiseTask
	forward    forwardTask
	put        putTask
	attend     AttentionRun
	tiles      cpuTiles
}

var _ Device = (*CPU)(nil)

// NewCPU returns a CPU that computes on the threads of a pool, which several CPUs may
// share; nil is the caller's thread alone.
func NewCPU(pool *Pool) *CPU { return &CPU{pool: pool, cuts: usualCuts} }

// Class is that of all CPUs.
func (c *CPU) Class(m Mode) string { return Class(m) }

// Estimates of time by which work is cut, in nanoseconds. They need not be exact: a
// machine may be several times faster or slower.
type cuts struct {
	// forkNanos is what work must take to be worth waking other threads.
	forkNanos int
	// smallestPieceNanos and largestPieceNanos bound a piece where units allow it: many
	// pieces balance better, few cost less.
	smallestPieceNanos, largestPieceNanos int
}

// usualCuts are those of every CPU but some in tests.
var usualCuts = cuts{forkNanos: 40_000, smallestPieceNanos: 10_000, largestPieceNanos: 300_000}

const (
	// piecesPerThread is the number of pieces for each thread, so that one that
	// is late delays the others little.
	piecesPerThread = 4

	// bytesPerNano and productsPerNano are how fast a thread reads weights and
	// multiplies.
	bytesPerNano, productsPerNano = 32, 32
)

// cut returns into how many pieces to cut work that takes so long and has so many
// units that cannot be cut.
func (c *CPU) cut(nanos, units int) int {
	threads := c.pool.Threads()
	if threads == 1 || nanos < c.cuts.forkNanos {
		return 1
	}
	n := max(threads*piecesPerThread, nanos/c.cuts.largestPieceNanos)
	return max(min(n, nanos/c.cuts.smallestPieceNanos, units), 1)
}

// run does the pieces of a task; one piece needs no other thread.
func (c *CPU) run(pieces int, t Task) {
	if pieces == 1 {
		t.Do(0, 0)
		return
	}
	c.pool.Run(pieces, t)
}

// mulNanos estimates the time of a product of some rows.
func mulNanos(m *Matrix, rows int) int {
	return max(m.Bytes()/bytesPerNano, rows*m.N/productsPerNano*m.K)
}

// cpuMemory is a piece of the Go heap.
type cpuMemory struct{ data []float32 }

// Elements is the number of float32.
func (m *cpuMemory) Elements() int { return len(m.data) }

// view returns the rows as they lie in memory.
func view(r Rows) tensor.Rows {
	if r.N == 0 {
		return tensor.Rows{Dim: r.Dim}
	}
	m, ok := r.Memory.(*cpuMemory)
	if !ok {
		panic(fmt.Sprintf("kernel: a CPU is given rows in memory of %T", r.Memory))
	}
	to := r.Offset + r.N*r.Dim
	return tensor.Rows{Data: m.data[r.Offset:to:to], N: r.N, Dim: r.Dim}
}

// matrixOf returns the matrix that w is on a CPU.
func matrixOf(w Weights) *Matrix {
	m, ok := w.(*Matrix)
	if !ok {
		panic(fmt.Sprintf("kernel: a CPU is given weights of type %T", w))
	}
	return m
}

// Allocate returns rows of zeros.
func (c *CPU) Allocate(n, dim int) (Rows, error) {
	if n < 0 || dim < 0 || dim > 0 && n > math.MaxInt/8/dim {
		return Rows{}, fmt.Errorf("allocate %d rows of %d elements: out of range", n, dim)
	}
	return Rows{N: n, Dim: dim, Memory: &cpuMemory{make([]float32, n*dim)}}, nil
}

// Upload returns m itself.
func (c *CPU) Upload(m *Matrix) (Weights, error) {
	if m == nil {
		return nil, fmt.Errorf("upload weights: there is no matrix")
	}
	return m, nil
}

// cpuTable is embeddings where they lie.
type cpuTable struct{ TableBytes }

// Shape is the number of rows and their width.
func (t *cpuTable) Shape() (rows, dim int) { return t.Rows, t.Dim }

// UploadTable returns the table where it lies.
func (c *CPU) UploadTable(t TableBytes) (Table, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	return &cpuTable{t}, nil
}

// Write copies the rows.
func (c *CPU) Write(dst Rows, src tensor.Rows) {
	if dst.N*dst.Dim != src.N*src.Dim {
		panic(fmt.Sprintf("kernel: (%d,%d) written to (%d,%d)", src.N, src.Dim, dst.N, dst.Dim))
	}
	copy(view(dst).Data, src.Data[:src.N*src.Dim])
}

// Read returns the rows where they lie.
func (c *CPU) Read(src Rows) (tensor.Rows, error) { return view(src), nil }

// arrived is the Arrival of what is there.
type arrived struct{}

func (arrived) Wait() error { return nil }

// StartRead has nothing to begin.
func (c *CPU) StartRead(Rows) Arrival { return arrived{} }

// Ahead is 0: nothing is ever under way.
func (c *CPU) Ahead() int { return 0 }

// Sync has nothing to wait for.
func (c *CPU) Sync() error { return nil }
