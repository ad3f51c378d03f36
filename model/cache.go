package model

import (
	"fmt"
	"math"

	"drover/kernel"
)

// Cache holds keys and values of all sequences, in numbered blocks of a device's
// memory. In each KV group a block keeps the same positions for all of the group's
// layers: for each layer in turn, KV tiles. The scheduler decides what a block holds.
type Cache struct {
	blockTokens int
	layout      kernel.KVLayout
	groups      []cacheGroup
	place       []cachePlace // by layer
}

type cacheGroup struct {
	blocks int
	layers int // whose tiles stand one layer after the other in a block
	memory kernel.KVMemory
}

// cachePlace locates a layer: its group, and its place within a block.
type cachePlace struct {
	group, index int
}

// maxCacheBytes bounds one group's memory, so that a wrong number fails clearly.
const maxCacheBytes = math.MaxInt64 / 4

// newCache makes a cache for layers with keys and values of a layout.
func newCache(d kernel.Device, groups []KVGroup, layout kernel.KVLayout, blocks []int,
	tokens int) (*Cache, error) {
	if len(blocks) != len(groups) || tokens < 1 || tokens%kernel.KVTokens != 0 {
		return nil, fmt.Errorf("make a KV cache: %d block counts for %d groups, %d tokens a block "+
			"(must be a multiple of %d)", len(blocks), len(groups), tokens, kernel.KVTokens)
	}
	if err := layout.Check(); err != nil {
		return nil, fmt.Errorf("make a KV cache: %w", err)
	}
	c := &Cache{blockTokens: tokens, layout: layout}
	for g, group := range groups {
		size := layout.TileBytes() * (tokens / kernel.KVTokens) * len(group.Layers)
		if blocks[g] < 1 || blocks[g] > maxCacheBytes/size {
			return nil, fmt.Errorf("make a KV cache: %d blocks of %d bytes", blocks[g], size)
		}
		tiles := blocks[g] * (tokens / kernel.KVTokens) * len(group.Layers)
		memory, err := d.AllocateKV(layout, tiles)
		if err != nil {
			return nil, fmt.Errorf("make a KV cache: %w", err)
		}
		c.groups = append(c.groups,
			cacheGroup{blocks: blocks[g], layers: len(group.Layers), memory: memory})
		for i, l := range group.Layers {
			for len(c.place) <= l {
				c.place = append(c.place, cachePlace{})
			}
			c.place[l] = cachePlace{group: g, index: i}
		}
	}
	return c, nil
}

// BlockTokens is the number of positions in a block.
func (c *Cache) BlockTokens() int { return c.blockTokens }

// layer makes kv that of a layer and a batch.
func (c *Cache) layer(kv *kernel.KV, b *Batch, layer int) {
	p := c.place[layer]
	g, tiles := &c.groups[p.group], c.blockTokens/kernel.KVTokens
	*kv = kernel.KV{Memory: g.memory, BlockTiles: tiles * g.layers, First: tiles * p.index,
		Tiles: tiles, Sequences: kv.Sequences[:0]}
	for i := range b.Sequences {
		s := &b.Sequences[i]
		kv.Sequences = append(kv.Sequences,
			kernel.AttentionSequence{Start: s.Start, Count: s.Count, Table: s.Tables[p.group]})
	}
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
