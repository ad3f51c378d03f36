package bench

import (
	"fmt"
	"unsafe"

	"drover/internal/limits"
	"drover/kernel"
	"drover/tensor"
)

// The kernels that are measured.
const (
	kernelMatmul  = "matmul"
	kernelExperts = "experts" // of one layer, each with the rows that a step has for it
	kernelDecode  = "attention_decode"
	kernelPrefill = "attention_prefill"
	kernelSwiGLU  = "swiglu"
	kernelSigmoid = "sigmoid"
	kernelRMSNorm = "rmsnorm"
	kernelRotate  = "rope"
	kernelRound   = "round"
	kernelAdd     = "add"
	kernelTopK    = "topk"
)

// modes are the numeric modes by the format that they keep linear layers in.
var modes = map[kernel.Format]kernel.Mode{kernel.WeightsF32: kernel.Exact,
	kernel.WeightsBF16: kernel.BF16, kernel.WeightsInt8: kernel.Int8, kernel.WeightsInt4: kernel.Int4,
	kernel.WeightsFP8: kernel.FP8}

// work describes a kernel with weights, or keys and values, of a format.
func work(name string, f kernel.Format) KernelWork {
	return KernelWork{Kernel: name, Mode: f.String(), Class: kernel.Class(modes[f]),
		Instructions: kernel.Instructions()}
}

// arithmetic is the limit of products with weights of a format.
func arithmetic(f kernel.Format) limits.Kind {
	switch f {
	case kernel.WeightsInt8:
		return limits.Int8
	case kernel.WeightsInt4:
		return limits.Int4
	}
	return limits.FMA
}

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
	formats := []kernel.Format{kernel.WeightsInt4, kernel.WeightsInt8, kernel.WeightsBF16}
	expert := []shape{{hidden, 2 * expertWidth, false}, {expertWidth, hidden, false}}
	others := []shape{
		{hidden, hidden, false}, {hidden, kvHeads * headDim, false}, {2048, 1024, false},
		{128, 128, true}, {64, 128, true}, {hidden, 202048, false},
	}
	contexts := []int{512, 8192, 65536}
	if opts.tiny {
		expert, others, contexts = others[3:4], others[4:5], contexts[:1]
	}
	var plan []subjectKernel
	products := func(shapes []shape, formats ...kernel.Format) {
		for _, s := range shapes {
			for _, f := range formats {
				plan = append(plan, p.matmul(s, f))
			}
		}
	}
	products(expert[:1], formats...)
	for _, f := range formats {
		plan = append(plan, p.experts(smallExpert, f))
	}
	for _, c := range contexts {
		for _, f := range []kernel.Format{kernel.WeightsF32, kernel.WeightsBF16, kernel.WeightsInt8} {
			plan = append(plan, p.attention(kernelDecode, f, c, 1))
			if c < 65536 || !opts.Quick {
				plan = append(plan, p.attention(kernelPrefill, f, c, 64))
			}
		}
	}
	for _, name := range smallKernels {
		plan = append(plan, p.small(name))
	}
	products(expert[:1], kernel.WeightsFP8)
	products(expert[1:], formats...)
	products(others[:len(others)/2], formats...)
	for _, f := range formats {
		plan = append(plan, p.experts(maverickExpert, f))
	}
	products(others[len(others)/2:], formats...)
	if !opts.Quick {
		products(append(expert[1:], others...), kernel.WeightsFP8)
		plan = append(plan, p.experts(maverickExpert, kernel.WeightsFP8))
	}
	products(append(expert, others...), kernel.WeightsF32)
	return plan
}

// rows lists the numbers of rows of products.
func (p *planner) rows() []int {
	switch {
	case p.opts.tiny:
		return []int{1, 64}
	case p.opts.Quick:
		return []int{1, 4, 16, 64, 256}
	}
	return []int{1, 2, 4, 8, 16, 32, 64, 256, 512}
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

// Outputs of a matrix that one call computes at most, so that a call of many rows ends soon.
// Integers are computed fast, and each call quantises all rows, as one for 16384 outputs does.
const (
	quickOutputs     = 4096
	quickManyOutputs = 1024 // from manyRows rows on
	manyOutputs      = 4096
	manyRows         = 64
)

// outputs returns how many outputs of a shape a matrix has: as many as fit, whole matrices for
// all threads.
func (p *planner) outputs(s shape, f kernel.Format) int {
	n := s.n
	if p.opts.Quick {
		n = min(n, quickOutputs)
	}
	for n > 64 && p.threads*kernel.MatrixBytes(n, s.k, f) > p.memory.kernel {
		n = (n/2 + 63) / 64 * 64
	}
	return n
}

// part is how many of n outputs a call with m rows computes.
func (p *planner) part(n, m int, f kernel.Format) int {
	switch {
	case m < manyRows:
		return n
	case p.opts.Quick && !f.Integer():
		return min(n, quickManyOutputs)
	}
	return min(n, manyOutputs)
}

func (p *planner) matmul(s shape, f kernel.Format) subjectKernel {
	w := work(kernelMatmul, f)
	w.N, w.K, w.Cached = s.n, s.k, s.cached
	n := p.outputs(s, f)
	copies := p.copies(kernel.MatrixBytes(n, s.k, f))
	if s.cached {
		copies = p.threads
	}
	return subjectKernel{w, p.rows(), func() (func(m, t int) job, error) {
		matrices, err := makeMatrices(copies, n, s.k, f)
		if err != nil {
			return nil, err
		}
		return func(m, threads int) job {
			w, part1 := w, p.part(n, m, f)
			w.M, w.Threads = m, threads
			if part1 < s.n {
				w.Outputs = part1
			}
			x, y := makeRows(1, m, s.k)[0], makeRows(threads, m, n)
			rows := make([]kernel.Activations, threads)
			walk := newWalk(copies, threads)
			return job{w, []part{productPart(m, part1, s.k, f)}, arithmetic(f), func(t int) {
				multiply(matrices[walk.next(t)], y[t], x, &rows[t], part1)
			}}
		}, nil
	}}
}

// productPart is the roofline of a product of m rows with n outputs.
func productPart(m, n, k int, f kernel.Format) part {
	return part{float64(kernel.MatrixBytes(n, k, f)), 2 * float64(m) * float64(n) * float64(k)}
}

// multiply computes the first outputs of a product as a step does: it prepares the rows, too.
func multiply(w *kernel.Matrix, y, x tensor.Rows, a *kernel.Activations, outputs int) {
	a.Prepare(x, w.Format())
	a.Quantise(0, x.N)
	w.MulPart(y, a, 0, outputs)
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

// makeMatrices makes packed weights, each in memory of its own. The same patternOutputs outputs
// repeat in all of them: only their places matter.
func makeMatrices(copies, n, k int, f kernel.Format) ([]*kernel.Matrix, error) {
	const patternOutputs, turns = 64, 61 // each output's weights are others
	pattern, err := kernel.NewMatrix(min(n, patternOutputs), k, f)
	if err != nil {
		return nil, err
	}
	weights := make([]float32, k+turns)
	fillRandom(weights, 1)
	for r := range pattern.N {
		if err := pattern.SetRow(r, weights[r%turns:r%turns+k]); err != nil {
			return nil, err
		}
	}
	matrices := make([]*kernel.Matrix, copies)
	for i := range matrices {
		buf, err := kernel.NewBuffer(kernel.MatrixBytes(n, k, f))
		if err != nil {
			return nil, err
		}
		for b := buf.Bytes(); len(b) > 0; {
			b = b[copy(b, pattern.Packed()):]
		}
		if matrices[i], err = kernel.MapMatrix(n, k, f, buf.Bytes(), buf); err != nil {
			return nil, err
		}
	}
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
