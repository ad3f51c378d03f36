package bench

import (
	"runtime"

	"drover/kernel"
	"drover/tensor"
)

// kvBlockTokens is the number of positions in a block of keys and values.
const kvBlockTokens = 16

// contextBlocks are the keys, then the values, of one context; they are float32.
type contextBlocks []float32

// Block returns the keys and values of a block.
func (c contextBlocks) Block(i int) (keys, values []float32) {
	const size = kvBlockTokens * kvHeads * headDim
	half := len(c) / 2
	return c[i*size : (i+1)*size], c[half+i*size : half+(i+1)*size]
}

// attention is the attention of the last rows of a context, in Maverick's shape.
func (p *planner) attention(name string, context, rows int) subjectKernel {
	if p.opts.tiny {
		context, rows = 128, min(rows, 8)
	}
	size := 2 * context * kvHeads * headDim
	for ; context > rows && p.threads*4*size > p.memory.kernel; size /= 2 {
		context /= 2 // so that each thread has its own
	}
	w := KernelWork{Kernel: name, Mode: kernel.Exact.String(), Class: kernel.Class(kernel.Exact),
		N: context, K: heads * headDim}
	copies := p.copies(4 * size)
	return subjectKernel{w, []int{rows}, func() (func(m, t int) job, error) {
		kv, err := makeFloats(copies * size)
		if err != nil {
			return nil, err
		}
		return func(m, threads int) job {
			w.M, w.Threads = m, threads
			q, out := makeRows(threads, m, w.K), makeRows(threads, m, w.K)
			scratch := make([]kernel.AttentionScratch, threads)
			a := kernel.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: headDim,
				BlockTokens: kvBlockTokens, Scale: 0.088}
			walk := newWalk(copies, threads)
			seen := float64(m) * (float64(context) - float64(m-1)/2) // pairs of row and position
			return job{KernelWork: w, bytes: float64(4 * size),
				flops: 4 * seen * float64(w.K), call: func(t int) {
					i := walk.next(t)
					blocks := contextBlocks(kv.x[i*size : (i+1)*size])
					a.Run(out[t], q[t], context-m, blocks, &scratch[t])
					runtime.KeepAlive(kv.buf)
				}}
		}, nil
	}}
}

// Operations of one element, as a vectorised kernel would need them: e^x is a polynomial of
// degree 6 with its reduction, and a sigmoid adds to it and divides.
const (
	flopsRMSNorm = 4
	flopsSigmoid = 18
	flopsSwiGLU  = flopsSigmoid + 2
)

// elementwise measures an operation on rows of so many elements that lie in memory.
func (p *planner) elementwise(name string, dim int) subjectKernel {
	w := KernelWork{Kernel: name, Mode: kernel.Exact.String(), Class: kernel.Class(kernel.Exact),
		N: dim, K: dim}
	flops, outputs := flopsRMSNorm, dim
	switch name {
	case kernelSwiGLU:
		flops, outputs = flopsSwiGLU, dim/2
		w.N = outputs
	case kernelSigmoid:
		flops = flopsSigmoid
	}
	most := 64
	copies := p.copies(4 * dim * most)
	return subjectKernel{w, []int{1, most}, func() (func(m, t int) job, error) {
		in, err := makeFloats(copies * most * dim)
		if err != nil {
			return nil, err
		}
		weight := makeRows(1, 1, dim)[0].Data
		return func(m, threads int) job {
			w.M, w.Threads = m, threads
			y := makeRows(threads, m, outputs)
			walk := newWalk(copies*most/m, threads)
			return job{KernelWork: w, bytes: float64(4 * m * dim),
				flops: float64(flops) * float64(m) * float64(outputs), call: func(t int) {
					at := walk.next(t) * m * dim
					x := tensor.Rows{Data: in.x[at : at+m*dim], N: m, Dim: dim}
					elementwise(name, y[t], x, weight)
					runtime.KeepAlive(in.buf)
				}}
		}, nil
	}}
}

func elementwise(name string, y, x tensor.Rows, weight []float32) {
	switch name {
	case kernelSwiGLU:
		kernel.SwiGLU(y, x)
	case kernelRMSNorm:
		kernel.RMSNorm(y, x, weight, 1e-5)
	default:
		for i, v := range x.Data {
			y.Data[i] = kernel.Sigmoid(v)
		}
	}
}
