package kernel

import (
	"fmt"
	"math"

	"drover/tensor"
)

// cpuKV is memory for KV tiles outside the Go heap.
type cpuKV struct {
	buf    *Buffer
	layout KVLayout
	tiles  int
}

// Tiles is the number of tiles.
func (m *cpuKV) Tiles() int { return m.tiles }

// AllocateKV returns memory whose pages cost nothing until they are used.
func (c *CPU) AllocateKV(l KVLayout, tiles int) (KVMemory, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if tiles < 0 || tiles > math.MaxInt/2/l.TileBytes() {
		return nil, fmt.Errorf("allocate %d KV tiles of %d bytes: out of range", tiles, l.TileBytes())
	}
	buf, err := NewBuffer(tiles * l.TileBytes())
	if err != nil {
		return nil, err
	}
	return &cpuKV{buf, l, tiles}, nil
}

// cpuTiles finds the tiles of a KV.
type cpuTiles struct {
	KV
	memory *cpuKV
	size   int
}

// Tile returns the i-th tile of a sequence with a table of blocks.
func (t *cpuTiles) Tile(table []int32, i int) []byte {
	at := t.tile(table, i) * t.size
	return t.memory.buf.Bytes()[at : at+t.size]
}

// find makes t find the tiles of kv, which are as the layout says.
func (t *cpuTiles) find(kv *KV, l KVLayout) {
	memory, ok := kv.Memory.(*cpuKV)
	if !ok || memory.layout != l || kv.Tiles < 1 || kv.First < 0 ||
		kv.First+kv.Tiles > kv.BlockTiles {
		panic(fmt.Sprintf("kernel: keys and values of %v in %T, tiles %d to %d of blocks of %d", l,
			kv.Memory, kv.First, kv.First+kv.Tiles, kv.BlockTiles))
	}
	*t = cpuTiles{*kv, memory, l.TileBytes()}
}

// putTask stores the keys and values of new tokens, cut by tokens.
type putTask struct {
	layout KVLayout
	k, v   tensor.Rows
	tiles  *cpuTiles
	piece  int // tokens
}

// putNanos estimates the time to store 16 elements of keys or values, which lie apart.
const putNanos = 12

// Attend forks twice: to store keys and values, and to attend.
func (c *CPU) Attend(a *Attention, out, q, k, v Rows, kv *KV) {
	if k.N == 0 && q.N == 0 && out.N == 0 {
		return
	}
	if k.N != q.N || v.N != q.N || v.Dim != k.Dim {
		panic(fmt.Sprintf("kernel: attention of (%d,%d) over new keys (%d,%d) and values (%d,%d)",
			q.N, q.Dim, k.N, k.Dim, v.N, v.Dim))
	}
	c.tiles.find(kv, a.KV)
	t := &c.put
	*t = putTask{layout: a.KV, k: view(k), v: view(v), tiles: &c.tiles}
	pieces := c.cut(2*k.N*k.Dim*putNanos/16, k.N)
	t.piece = (k.N + pieces - 1) / pieces
	c.run((k.N+t.piece-1)/t.piece, t)

	pieces = c.attend.Prepare(a, view(out), view(q), kv.Sequences, &c.tiles, c.pool.Threads())
	pairs := 0
	for _, s := range kv.Sequences {
		last := s.Start + s.Count
		pairs += s.Count * (last - a.from(last-1))
	}
	if c.cut(2*pairs*q.Dim/productsPerNano, pieces) > 1 {
		c.pool.Run(pieces, &c.attend)
	} else {
		for i := range pieces {
			c.attend.Do(0, i)
		}
	}
	c.attend.release() // nothing refers to what is not in use
	*t, c.tiles = putTask{}, cpuTiles{}
}

// Do does a piece.
func (t *putTask) Do(_, i int) {
	lo, hi := i*t.piece, min((i+1)*t.piece, t.k.N)
	row := 0
	for _, s := range t.tiles.Sequences {
		for j := max(lo, row); j < min(hi, row+s.Count); j++ {
			pos := s.Start + j - row
			tile := t.tiles.Tile(s.Table, pos/KVTokens)
			t.layout.Put(tile, pos%KVTokens, t.k.Row(j), t.v.Row(j))
		}
		row += s.Count
	}
}
