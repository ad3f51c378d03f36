package bench

import (
	"fmt"
	"sync"
	"unsafe"

	"drover/internal/limits"
	"drover/kernel"
	"drover/tensor"
)

// The kernels that are measured.
const (
	kernelMatmul  = "matmul"
	kernelDecode  = "attention_decode"
	kernelPrefill = "attention_prefill"
	kernelSwiGLU  = "swiglu"
	kernelSigmoid = "sigmoid"
	kernelRMSNorm = "rmsnorm"
)

// memory is how many bytes are used at most: by the reader, and by a kernel's weights.
type memory struct {
	reader, kernel int
}

const (
	// mostWeights and the reader's memory stay below 4 GiB with rows and all else.
	mostWeights  = 2200 << 20
	leastWeights = 512 << 20
	perThread    = 16 << 20 // more than caches that a thread has for itself
)

// memory looks how much there is.
func (o KernelOptions) memory(threads int) (memory, error) {
	if o.tiny {
		return memory{64 << 20, 16 << 20}, nil
	}
	m := memory{max(limits.BufferBytes, min(threads*perThread, 2*limits.BufferBytes)), mostWeights}
	if free, ok := limits.FreeBytes(); ok {
		if need := int64(m.reader + 2*leastWeights); free < need {
			return memory{}, fmt.Errorf("measure kernels: %d MiB of memory are free, %d are needed",
				free>>20, need>>20)
		}
		m.kernel = int(min(int64(m.kernel), (free-int64(m.reader))/2))
	}
	return m, nil
}

// planner is what a list of kernels to measure is made from.
type planner struct {
	opts    KernelOptions
	threads int
	memory  memory
}

// shape is a matrix of inputs and outputs.
type shape struct {
	k, n   int
	cached bool
}

// Llama 4 Maverick: hidden size, heads, heads of keys and values, size of a head, expert width.
const (
	hidden      = 5120
	heads       = 40
	kvHeads     = 8
	headDim     = 128
	expertWidth = 8192
)

// kernelPlan lists the kernels, the most telling first, in case the time does not suffice.
func kernelPlan(opts KernelOptions, threads int, m memory) []subjectKernel {
	p := planner{opts, threads, m}
	shapes := []shape{
		{hidden, 2 * expertWidth, false}, {expertWidth, hidden, false}, {2048, 1024, false},
		{128, 128, true}, {64, 128, true},
	}
	contexts := []int{512, 8192}
	switch {
	case opts.tiny:
		shapes, contexts = shapes[3:], contexts[:1]
	case !opts.Quick:
		shapes = append(shapes, shape{hidden, hidden, false}, shape{hidden, kvHeads * headDim, false},
			shape{hidden, 202048, false})
		contexts = append(contexts, 65536)
	}
	var plan []subjectKernel
	for _, s := range shapes {
		plan = append(plan, p.matmul(s, kernel.WeightsBF16))
	}
	for _, c := range contexts {
		plan = append(plan, p.attention(kernelDecode, c, 1), p.attention(kernelPrefill, c, 64))
	}
	plan = append(plan, p.elementwise(kernelSwiGLU, 2*expertWidth),
		p.elementwise(kernelSigmoid, hidden), p.elementwise(kernelRMSNorm, hidden))
	for _, s := range shapes {
		plan = append(plan, p.matmul(s, kernel.WeightsF32))
	}
	return plan
}

// walked is how many bytes weights take at least, so that a cache has forgotten the first when
// the last was used.
func (p *planner) walked() int {
	return min(max(4*limits.CacheBytes(), p.threads*perThread), p.memory.kernel)
}

// copies returns how many pieces of so many bytes are walked: the same number for each thread.
func (p *planner) copies(bytes int) int {
	most := p.memory.kernel / bytes / p.threads
	return max(1, min(p.walked()/bytes/p.threads+1, most)) * p.threads
}

// walk hands each thread its own pieces in turn; one thread alone gets all of them.
type walk struct {
	copies int
	at     []int // by thread, of its next piece
}

func newWalk(copies, threads int) *walk {
	const line = 8 // ints in a cache line: threads do not write to each other's
	w := &walk{copies: copies, at: make([]int, threads*line)}
	for t := range threads {
		w.at[t*line] = t
	}
	return w
}

func (w *walk) next(thread int) int {
	const line = 8
	at := &w.at[thread*line]
	i := *at
	if *at += len(w.at) / line; *at >= w.copies {
		*at = thread
	}
	return i
}

// quickOutputs is how many outputs of a matrix one call computes at most with Quick.
const quickOutputs = 1024

// outputs returns how many outputs of a shape one call computes: as many as fit, whole matrices
// for all threads.
func (p *planner) outputs(s shape, d kernel.Format) int {
	n := s.n
	if p.opts.Quick {
		n = min(n, quickOutputs)
	}
	for n > 64 && p.threads*kernel.MatrixBytes(n, s.k, d) > p.memory.kernel {
		n = (n/2 + 63) / 64 * 64
	}
	return n
}

func (p *planner) matmul(s shape, d kernel.Format) subjectKernel {
	mode := kernel.BF16
	if d == kernel.WeightsF32 {
		mode = kernel.Exact
	}
	n := p.outputs(s, d)
	w := KernelWork{Kernel: kernelMatmul, Mode: mode.String(), Class: kernel.Class(mode),
		N: s.n, K: s.k, Cached: s.cached}
	if n < s.n {
		w.Outputs = n
	}
	copies := p.copies(kernel.MatrixBytes(n, s.k, d))
	if s.cached {
		copies = p.threads
	}
	return subjectKernel{w, []int{1, 2, 4, 8, 16, 64, 256, 512}, func() (func(m, t int) job, error) {
		matrices, err := makeMatrices(copies, n, s.k, d, p.threads)
		if err != nil {
			return nil, err
		}
		return func(m, threads int) job {
			w.M, w.Threads = m, threads
			x, y := makeRows(1, m, s.k)[0], makeRows(threads, m, n)
			walk := newWalk(copies, threads)
			return job{KernelWork: w, bytes: float64(matrices[0].Bytes()),
				flops: 2 * float64(m) * float64(n) * float64(s.k),
				call:  func(t int) { matrices[walk.next(t)].Mul(y[t], x) }}
		}, nil
	}}
}

// makeRows makes rows for each thread, none of them zero.
func makeRows(threads, n, dim int) []tensor.Rows {
	rows := make([]tensor.Rows, threads)
	for t := range rows {
		rows[t] = tensor.MakeRows(n, dim)
		fillRandom(rows[t].Data, uint64(t)+1)
	}
	return rows
}

// fillRandom sets x to numbers from -1 to 1.
func fillRandom(x []float32, seed uint64) {
	for i := range x {
		seed = seed*6364136223846793005 + 1442695040888963407
		x[i] = float32(int32(seed>>32)) / (1 << 31)
	}
}

// makeMatrices makes packed weights, all threads filling.
func makeMatrices(copies, n, k int, d kernel.Format, threads int) ([]*kernel.Matrix, error) {
	matrices := make([]*kernel.Matrix, copies)
	for i := range matrices {
		m, err := kernel.NewMatrix(n, k, d)
		if err != nil {
			return nil, err
		}
		matrices[i] = m
	}
	const turns = 61 // each output's weights are others
	weights := make([]float32, k+turns)
	fillRandom(weights, 1)
	var done sync.WaitGroup
	for t := range threads {
		done.Go(func() {
			for i := t * 16; i < copies*n; i += 16 * threads { // outputs are packed by 16
				for r := i; r < min(i+16, copies*n); r++ {
					matrices[r/n].SetRow(r%n, weights[r%turns:r%turns+k])
				}
			}
		})
	}
	done.Wait()
	return matrices, nil
}

// floats is memory of float32 outside the heap.
type floats struct {
	buf *kernel.Buffer
	x   []float32
}

func makeFloats(n int) (*floats, error) {
	buf, err := kernel.NewBuffer(n * 4)
	if err != nil {
		return nil, err
	}
	f := &floats{buf, unsafe.Slice((*float32)(unsafe.Pointer(&buf.Bytes()[0])), n)}
	fillRandom(f.x, 1)
	return f, nil
}
