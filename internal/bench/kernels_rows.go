package bench

import (
	"runtime"
	"unsafe"

	"drover/internal/limits"
	"drover/kernel"
)

// contextTiles are the keys and values of one context.
type contextTiles struct {
	b    []byte
	size int // of a tile
}

// Tile returns the tile of positions i*kernel.KVTokens and on; there is no table.
func (c *contextTiles) Tile(_ []int32, i int) []byte { return c.b[i*c.size : (i+1)*c.size] }

// attention is the attention of the last rows of a context, in Maverick's shape.
func (p *planner) attention(name string, context, rows int) subjectKernel {
	if p.opts.tiny {
		context, rows = 128, min(rows, 8)
	}
	layout := kernel.KVLayout{Heads: kvHeads, HeadDim: headDim, Precision: kernel.PrecisionExact}
	size := context / kernel.KVTokens * layout.TileBytes()
	for ; context/2 >= max(rows, kernel.KVTokens) && p.threads*size > p.memory.kernel; size /= 2 {
		context /= 2 // so that each thread has its own
	}
	w := work(name, kernel.WeightsF32)
	w.N, w.K = context, heads*headDim
	copies := p.copies(size)
	return subjectKernel{w, []int{rows}, func() (func(m, t int) job, error) {
		kv, err := makeFloats(copies * size / 4)
		if err != nil {
			return nil, err
		}
		return func(m, threads int) job {
			w := w
			w.M, w.Threads = m, threads
			q, out := makeRows(threads, m, w.K), makeRows(threads, m, w.K)
			runs := make([]kernel.AttentionRun, threads)
			tiles := make([]contextTiles, threads)
			seqs := []kernel.AttentionSequence{{Start: context - m, Count: m}}
			a := kernel.Attention{Heads: heads, KV: layout, Scale: 0.088}
			memory := unsafe.Slice((*byte)(unsafe.Pointer(&kv.x[0])), copies*size)
			walk := newWalk(copies, threads)
			seen := float64(m) * (float64(context) - float64(m-1)/2) // pairs of row and position
			all := part{float64(size), 4 * seen * float64(w.K)}
			return job{w, []part{all}, limits.FMA, func(t int) {
				i := walk.next(t)
				tiles[t] = contextTiles{memory[i*size : (i+1)*size], layout.TileBytes()}
				for piece := range runs[t].Prepare(&a, out[t], q[t], seqs, &tiles[t], 1) {
					runs[t].Do(0, piece)
				}
				runtime.KeepAlive(kv.buf)
			}}
		}, nil
	}}
}
