package bench

import (
	"runtime"

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

// precisions are how keys and values are kept, by format.
var precisions = map[kernel.Format]kernel.Precision{kernel.WeightsF32: kernel.PrecisionExact,
	kernel.WeightsBF16: kernel.PrecisionBF16, kernel.WeightsInt8: kernel.PrecisionInt8}

// makeTiles makes memory for copies of a context's tiles, all of the same numbers.
func makeTiles(layout kernel.KVLayout, bytes int) (*kernel.Buffer, error) {
	buf, err := kernel.NewBuffer(bytes)
	if err != nil {
		return nil, err
	}
	tile := make([]byte, layout.TileBytes())
	rows := makeRows(2, kernel.KVTokens, layout.Heads*layout.HeadDim)
	for i := range kernel.KVTokens {
		layout.Put(tile, i, rows[0].Row(i), rows[1].Row(i))
	}
	for b := buf.Bytes(); len(b) > 0; {
		b = b[copy(b, tile):]
	}
	return buf, nil
}

// attention is the attention of the last rows of a context, in Maverick's shape.
func (p *planner) attention(name string, f kernel.Format, context, rows int) subjectKernel {
	if p.opts.tiny {
		context, rows = 128, min(rows, 8)
	}
	layout := kernel.KVLayout{Heads: kvHeads, HeadDim: headDim, Precision: precisions[f]}
	size := context / kernel.KVTokens * layout.TileBytes()
	for ; context/2 >= max(rows, kernel.KVTokens) && p.threads*size > p.memory.kernel; size /= 2 {
		context /= 2 // so that each thread has its own
	}
	w := work(name, f)
	w.N, w.K = context, heads*headDim
	copies := p.copies(size)
	return subjectKernel{w, []int{rows}, func() (func(m, t int) job, error) {
		kv, err := makeTiles(layout, copies*size)
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
			walk := newWalk(copies, threads)
			seen := float64(m) * (float64(context) - float64(m-1)/2) // pairs of row and position
			all := part{float64(size), 4 * seen * float64(w.K)}
			return job{w, []part{all}, limits.FMA, func(t int) {
				i := walk.next(t)
				tiles[t] = contextTiles{kv.Bytes()[i*size : (i+1)*size], layout.TileBytes()}
				for piece := range runs[t].Prepare(&a, out[t], q[t], seqs, &tiles[t], 1) {
					runs[t].Do(0, piece)
				}
				runtime.KeepAlive(kv)
			}}
		}, nil
	}}
}
