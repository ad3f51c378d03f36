package kernel

import "drover/tensor"

// putTask stores the keys and values of new tokens, cut by tokens.
type putTask struct {
	layout KVLayout
	k, v   tensor.Rows
	kv     KV
	piece  int // tokens
}

// putNanos estimates the time to store 16 elements of keys or values, which lie apart.
const putNanos = 12

// Attend forks twice: to store keys and values, and to attend.
func (c *CPU) Attend(a *Attention, out, q, k, v Rows, kv KV) {
	t := &c.put
	*t = putTask{layout: a.KV, k: view(k), v: view(v), kv: kv}
	pieces := c.cut(2*k.N*k.Dim*putNanos/16, k.N)
	t.piece = (k.N + pieces - 1) / pieces
	if k.N > 0 {
		c.run((k.N+t.piece-1)/t.piece, t)
	}
	*t = putTask{} // it refers to nothing that is not in use

	threads := c.pool.Threads()
	pieces = c.attend.Prepare(a, view(out), view(q), kv.Sequences(), kv, threads)
	pairs := 0
	for _, s := range kv.Sequences() {
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
	c.attend.release()
}

// Do does a piece.
func (t *putTask) Do(_, i int) {
	lo, hi := i*t.piece, min((i+1)*t.piece, t.k.N)
	row := 0
	for _, s := range t.kv.Sequences() {
		for j := max(lo, row); j < min(hi, row+s.Count); j++ {
			pos := s.Start + j - row
			tile := t.kv.Tile(s.Table, pos/KVTokens)
			t.layout.Put(tile, pos%KVTokens, t.k.Row(j), t.v.Row(j))
		}
		row += s.Count
	}
}
