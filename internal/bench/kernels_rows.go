package bench

import (
	"runtime"

	"drover/internal/limits"
	"drover/kernel"
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
	w := work(name, kernel.WeightsF32)
	w.N, w.K = context, heads*headDim
	copies := p.copies(4 * size)
	return subjectKernel{w, []int{rows}, func() (func(m, t int) job, error) {
		kv, err := makeFloats(copies * size)
		if err != nil {
			return nil, err
		}
		return func(m, threads int) job {
			w := w
			w.M, w.Threads = m, threads
			q, out := makeRows(threads, m, w.K), makeRows(threads, m, w.K)
			scratch := make([]kernel.AttentionScratch, threads)
			a := kernel.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: headDim,
				BlockTokens: kvBlockTokens, Scale: 0.088}
			walk := newWalk(copies, threads)
			seen := float64(m) * (float64(context) - float64(m-1)/2) // pairs of row and position
			all := part{float64(4 * size), 4 * seen * float64(w.K)}
			return job{w, []part{all}, limits.FMA, func(t int) {
				i := walk.next(t)
				blocks := contextBlocks(kv.x[i*size : (i+1)*size])
				a.Run(out[t], q[t], context-m, blocks, &scratch[t])
				runtime.KeepAlive(kv.buf)
			}}
		}, nil
	}}
}
