//go:build cuda && linux

package cuda

import (
	"fmt"
	"math"

	"drover/kernel"
)

// Constants of src/attend.cu.
const (
	attendThreads = 256
	attendRows    = 16
	attendSlice   = 128
	// attendSpan is kernel's spanTokens: a constant of the results.
	attendSpan = 4096
	// attendSums is what a state holds beside a head's elements.
	attendSums = 17
)

const (
	// attendFew is the largest number of queries of a sequence whose spans are pieces of
	// their own, since there are too few pieces otherwise.
	attendFew = 4
	// maxAttendStates bounds the memory of spans' results: what would need more goes from
	// span to span in one piece.
	maxAttendStates = 1 << 16
)

// attendShape is the kernels' AttendShape.
type attendShape struct {
	heads, kvHeads, headDim, chunk, span, panels int32
	blockTiles, first, tiles                     int32
	scale                                        float32
}

// attendPiece is the kernels' AttendPiece.
type attendPiece struct{ row, queries, pos, table, first, last, state int32 }

// attendMerge is the kernels' AttendMerge.
type attendMerge struct{ row, state, stride, spans int32 }

// attendPlan is the work of one attention, as tables that the kernels read. Launches are
//
//	attend_store_P(memory, k, v, places, rows, kvHeads, headDim)   storeThreads threads
//	attend_P(out, states, q, memory, tables, pieces, shape)        grid()
//	attend_merge(out, states, merges, shape, mergeThreads)         mergeThreads threads,
//	                                                               unless there are no merges
//
// with P the precision of keys and values, f32, bf16 or int8, or tensor_bf16 in attend_P.
type attendPlan struct {
	shape  attendShape
	places []int64 // of each row: number of its tile, times KVTokens, plus where in it
	tables []int32 // those of all sequences, one after the other
	pieces []attendPiece
	merges []attendMerge
	states int // each of headDim + attendSums floats
}

// plan makes p the work of a over the sequences of kv.
func (p *attendPlan) plan(a *kernel.Attention, kv *kernel.KV) {
	group := a.Heads / a.KV.Heads
	queries := max(attendRows/group, 1)
	p.shape = attendShape{heads: int32(a.Heads), kvHeads: int32(a.KV.Heads),
		headDim: int32(a.KV.HeadDim), chunk: int32(a.Chunk), span: attendSpan,
		panels:     int32((queries*group + attendRows - 1) / attendRows),
		blockTiles: int32(kv.BlockTiles), first: int32(kv.First), tiles: int32(kv.Tiles),
		scale: a.Scale}
	p.places, p.tables, p.pieces, p.merges = p.places[:0], p.tables[:0], p.pieces[:0], p.merges[:0]
	p.states = 0
	row := 0
	for _, s := range kv.Sequences {
		end := s.Start + s.Count
		if end > math.MaxInt32 {
			panic(fmt.Sprintf("cuda: a sequence of %d tokens", end))
		}
		table := len(p.tables)
		blocks := (end + kernel.KVTokens*kv.Tiles - 1) / (kernel.KVTokens * kv.Tiles)
		p.tables = append(p.tables, s.Table[:blocks]...)
		for pos := s.Start; pos < end; {
			n := min(end-pos, queries)
			if a.Chunk > 0 { // all queries of a piece see the same first position
				n = min(n, a.Chunk-pos%a.Chunk)
			}
			p.add(attendPiece{row: int32(row), queries: int32(n), pos: int32(pos), table: int32(table)},
				s.Count <= attendFew)
			for range n {
				p.places = append(p.places, kvPlace(kv, s.Table, pos))
				pos, row = pos+1, row+1
			}
		}
	}
}

// kvPlace is where a position of a sequence with a table is stored.
func kvPlace(kv *kernel.KV, table []int32, pos int) int64 {
	i := pos / kernel.KVTokens
	tile := int64(table[i/kv.Tiles])*int64(kv.BlockTiles) + int64(kv.First+i%kv.Tiles)
	return tile*kernel.KVTokens + int64(pos%kernel.KVTokens)
}

// add adds a piece: one, or one for each span.
func (p *attendPlan) add(c attendPiece, few bool) {
	from := int32(0)
	if p.shape.chunk > 0 {
		from = c.pos - c.pos%p.shape.chunk
	}
	first, last := from/p.shape.span, (c.pos+c.queries-1)/p.shape.span
	stride := c.queries * p.shape.heads
	states := int(last-first+1) * int(stride)
	if first == last || !few || p.states+states > maxAttendStates {
		c.first, c.last, c.state = first, last, -1
		p.pieces = append(p.pieces, c)
		return
	}
	for i := range c.queries {
		p.merges = append(p.merges, attendMerge{row: c.row + i,
			state: int32(p.states) + i*p.shape.heads, stride: stride,
			spans: (c.pos+i)/p.shape.span - first + 1})
	}
	for span := first; span <= last; span++ {
		c.first, c.last, c.state = span, span, int32(p.states)
		p.states += int(stride)
		p.pieces = append(p.pieces, c)
	}
}

// grid is that of attend_P.
func (p *attendPlan) grid() Grid {
	slices := (p.shape.headDim + attendSlice - 1) / attendSlice
	return Grid{uint32(len(p.pieces)), uint32(p.shape.kvHeads * p.shape.panels * slices),
		attendThreads}
}

// storeThreads is how many threads attend_store_P needs: one for each element that a tile
// keeps, in 8 bits for each key and value.
func (p *attendPlan) storeThreads(precision kernel.Precision) int {
	heads := len(p.places) * int(p.shape.kvHeads)
	if precision == kernel.PrecisionInt8 {
		return heads * 2
	}
	return heads * int(p.shape.headDim+(p.shape.headDim+15)&^15)
}

// mergeThreads is how many threads attend_merge needs.
func (p *attendPlan) mergeThreads() int {
	return len(p.merges) * int(p.shape.heads*p.shape.headDim)
}

// stateFloats is the memory of states.
func (p *attendPlan) stateFloats() int { return p.states * (int(p.shape.headDim) + attendSums) }
