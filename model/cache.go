package model

import (
	"fmt"
	"math"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// Cache holds keys and values of all sequences, in numbered blocks outside the Go
// heap. In each KV group a block keeps the same positions for all of the group's
// layers. The scheduler decides what a block holds.
type Cache struct {
	blockTokens int
	kvDim       int // kvHeads * headDim
	dtype       tensor.DType
	groups      []cacheGroup
	place       []cachePlace // by layer
	keys, vals  []float32    // scratch: one block as float32
}

type cacheGroup struct {
	blocks     int
	blockBytes int
	buf        *kernel.Buffer
}

// cachePlace locates a layer: its group, and its place within a block.
type cachePlace struct {
	group, index int
}

// maxCacheBytes bounds one group's memory, so that a wrong number fails clearly.
const maxCacheBytes = math.MaxInt64 / 4

// newCache makes a cache for layers with kvDim keys and as many values a position.
func newCache(groups []KVGroup, kvDim int, d tensor.DType, blocks []int, tokens int) (*Cache,
	error) {
	if len(blocks) != len(groups) || tokens < 1 {
		return nil, fmt.Errorf("make a KV cache: %d block counts for %d groups, %d tokens a block",
			len(blocks), len(groups), tokens)
	}
	c := &Cache{blockTokens: tokens, kvDim: kvDim, dtype: d}
	for g, group := range groups {
		size := 2 * kvDim * d.Size() * tokens * len(group.Layers)
		if blocks[g] < 1 || blocks[g] > maxCacheBytes/size {
			return nil, fmt.Errorf("make a KV cache: %d blocks of %d bytes", blocks[g], size)
		}
		buf, err := kernel.NewBuffer(blocks[g] * size)
		if err != nil {
			return nil, fmt.Errorf("make a KV cache: %w", err)
		}
		c.groups = append(c.groups, cacheGroup{blocks: blocks[g], blockBytes: size, buf: buf})
		for i, l := range group.Layers {
			for len(c.place) <= l {
				c.place = append(c.place, cachePlace{})
			}
			c.place[l] = cachePlace{group: g, index: i}
		}
	}
	c.keys = make([]float32, tokens*kvDim)
	c.vals = make([]float32, tokens*kvDim)
	return c, nil
}

// BlockTokens is the number of positions in a block.
func (c *Cache) BlockTokens() int { return c.blockTokens }

// layer returns the raw keys and values of one layer in one block.
func (c *Cache) layer(layer int, block int32) (keys, values []byte) {
	p := c.place[layer]
	g := &c.groups[p.group]
	half := c.kvDim * c.dtype.Size() * c.blockTokens
	at := int(block)*g.blockBytes + p.index*2*half
	b := g.buf.Bytes()[at : at+2*half]
	return b[:half], b[half:]
}

// put stores the keys and values, kvDim each, of one position of a layer.
func (c *Cache) put(layer int, tables [][]int32, pos int, key, value []float32) {
	block := tables[c.place[layer].group][pos/c.blockTokens]
	kb, vb := c.layer(layer, block)
	at := pos % c.blockTokens * c.kvDim
	if c.dtype == tensor.BF16 {
		putBF16(kb[2*at:], key)
		putBF16(vb[2*at:], value)
		return
	}
	copy(asFloat32(kb)[at:at+c.kvDim], key)
	copy(asFloat32(vb)[at:at+c.kvDim], value)
}

// sequenceBlocks gives kernel.Attention one sequence's blocks of one layer.
type sequenceBlocks struct {
	cache *Cache
	layer int
	table []int32
}

// Block returns block i's keys and values; bfloat16 ones are valid until the next call.
func (s *sequenceBlocks) Block(i int) (keys, values []float32) {
	c := s.cache
	kb, vb := c.layer(s.layer, s.table[i])
	if c.dtype == tensor.F32 {
		return asFloat32(kb), asFloat32(vb)
	}
	getBF16(c.keys, kb)
	getBF16(c.vals, vb)
	return c.keys, c.vals
}

// table returns the block table of layer's group.
func (c *Cache) table(layer int, tables [][]int32) []int32 {
	return tables[c.place[layer].group]
}

func putBF16(dst []byte, src []float32) {
	for i, v := range src {
		h := tensor.Float32ToBF16(v)
		dst[2*i], dst[2*i+1] = byte(h), byte(h>>8)
	}
}

func getBF16(dst []float32, src []byte) {
	kernel.WidenBF16(dst, src)
}

func asFloat32(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4)
}

// check refuses a batch whose tables, positions or tokens do not fit the cache and
// the model: such a batch is a bug of the scheduler.
func (b *Batch) check(c *Cache, s *Spec) error {
	n := 0
	for i := range b.Sequences {
		q := &b.Sequences[i]
		if q.Start < 0 || q.Count < 1 || q.Start+q.Count > s.MaxTokens ||
			q.Logits < 0 || q.Logits > q.Count || len(q.Tables) != len(c.groups) {
			return fmt.Errorf("batch: sequence %d: start %d, count %d, logits %d, %d tables, %d positions",
				i, q.Start, q.Count, q.Logits, len(q.Tables), s.MaxTokens)
		}
		for g, table := range q.Tables {
			first := q.Start
			if chunk := s.KV[g].Chunk; chunk > 0 {
				first -= first % chunk
			}
			last := (q.Start + q.Count - 1) / c.blockTokens
			if last >= len(table) {
				return fmt.Errorf("batch: sequence %d: group %d has %d blocks, needs %d",
					i, g, len(table), last+1)
			}
			for _, id := range table[first/c.blockTokens : last+1] {
				if id < 0 || int(id) >= c.groups[g].blocks {
					return fmt.Errorf("batch: sequence %d: group %d: block %d of %d",
						i, g, id, c.groups[g].blocks)
				}
			}
		}
		n += q.Count
	}
	if n != len(b.Tokens) || n == 0 {
		return fmt.Errorf("batch: %d tokens for sequences of %d", len(b.Tokens), n)
	}
	for _, t := range b.Tokens {
		if t < 0 || int(t) >= s.Vocabulary {
			return fmt.Errorf("batch: token %d is outside the vocabulary of %d", t, s.Vocabulary)
		}
	}
	return nil
}
