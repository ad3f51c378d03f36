//go:build cuda && linux

package cuda

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"drover/kernel"
)

// kvMemory is memory for KV tiles.
type kvMemory struct {
	device *Device
	memory *Memory // nil without tiles
	layout kernel.KVLayout
	tiles  int
}

// Tiles is the number of tiles.
func (m *kvMemory) Tiles() int { return m.tiles }

// AllocateKV returns memory for tiles, all zeros.
func (d *Device) AllocateKV(l kernel.KVLayout, tiles int) (kernel.KVMemory, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if tiles < 0 || tiles > math.MaxInt/2/l.TileBytes() {
		return nil, fmt.Errorf("allocate %d KV tiles of %d bytes: out of range", tiles, l.TileBytes())
	}
	m := &kvMemory{device: d, layout: l, tiles: tiles}
	if tiles > 0 {
		memory, err := d.take(tiles * l.TileBytes())
		if err != nil {
			return nil, fmt.Errorf("allocate %d KV tiles of %d bytes: %w", tiles, l.TileBytes(), err)
		}
		m.memory = memory
		runtime.AddCleanup(m, d.memory.give, memory)
	}
	return m, nil
}

// attendKernels are the kernels for keys and values of a precision.
type attendKernels struct{ store, attend kernelID }

var attendKernelsOf = map[kernel.Precision]attendKernels{
	kernel.PrecisionExact: {attendStoreF32, attendF32},
	kernel.PrecisionBF16:  {attendStoreBF16, attendBF16},
	kernel.PrecisionInt8:  {attendStoreInt8, attendInt8},
}

// attends are the kernels of this device for keys and values of a precision. For those of
// bfloat16 devices of TensorKind have one of their own, for decode and prefill.
func (d *Device) attends(p kernel.Precision) attendKernels {
	if d.kind == TensorKind && p == kernel.PrecisionBF16 {
		return attendKernels{attendStoreBF16, attendTensorBF16}
	}
	return attendKernelsOf[p]
}

// Attend stores keys and values and attends, by the plan that the host makes of both.
func (d *Device) Attend(a *kernel.Attention, out, q, k, v kernel.Rows, kv *kernel.KV) {
	if k.N == 0 && q.N == 0 && out.N == 0 {
		return
	}
	memory := d.checkAttend(a, out, q, k, v, kv)
	d.begin()
	if d.Err() != nil {
		return
	}
	p, use := &d.plan, d.attends(a.KV.Precision)
	p.plan(a, kv)
	d.hold(memory)
	tiles := memory.memory.At(0)
	d.elements(use.store, p.storeThreads(a.KV.Precision), tiles, d.at(k), d.at(v),
		d.argument(memoryOf(p.places)), uint64(k.N), uint64(a.KV.Heads), uint64(a.KV.HeadDim))
	states := uint64(0)
	if p.states > 0 {
		states = d.room(scratchStates, 4*p.stateFloats())
	}
	shape := d.argument(memoryOf([]attendShape{p.shape}))
	d.launch(use.attend, p.grid(), d.at(out), states, d.at(q), tiles, d.argument(memoryOf(p.tables)),
		d.argument(memoryOf(p.pieces)), shape)
	if n := p.mergeThreads(); n > 0 {
		d.elements(attendMergeSpans, n, d.at(out), states, d.argument(memoryOf(p.merges)), shape,
			uint64(n))
	}
}

// memoryOf returns the memory of a slice.
func memoryOf[T any](x []T) []byte {
	var t T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(t)))
}

// checkAttend refuses what does not fit, and blocks that are not there: a kernel that
// reads beyond takes the device with it.
func (d *Device) checkAttend(a *kernel.Attention, out, q, k, v kernel.Rows,
	kv *kernel.KV) *kvMemory {
	must(a.Heads%a.KV.Heads == 0 && q.Dim == a.Heads*a.KV.HeadDim && out.Dim == q.Dim &&
		out.N == q.N, "attention of (%d,%d) into (%d,%d) with %d heads over %d of %d", q.N, q.Dim,
		out.N, out.Dim, a.Heads, a.KV.Heads, a.KV.HeadDim)
	must(k.N == q.N && v.N == q.N && k.Dim == a.KV.Heads*a.KV.HeadDim && v.Dim == k.Dim,
		"attention of (%d,%d) over new keys (%d,%d) and values (%d,%d)", q.N, q.Dim, k.N, k.Dim, v.N,
		v.Dim)
	m, ok := kv.Memory.(*kvMemory)
	must(ok && m.device == d && m.layout == a.KV && kv.Tiles >= 1 && kv.First >= 0 &&
		kv.First+kv.Tiles <= kv.BlockTiles, "keys and values of %v in %T, tiles %d to %d of blocks of %d",
		a.KV, kv.Memory, kv.First, kv.First+kv.Tiles, kv.BlockTiles)
	rows, blockTokens := 0, kv.Tiles*kernel.KVTokens
	for _, s := range kv.Sequences {
		must(s.Start >= 0 && s.Count > 0, "a sequence of %d tokens from %d on", s.Count, s.Start)
		first, last := 0, (s.Start+s.Count-1)/blockTokens
		if a.Chunk > 0 {
			first = (s.Start - s.Start%a.Chunk) / blockTokens
		}
		must(last < len(s.Table), "%d blocks for %d tokens", len(s.Table), s.Start+s.Count)
		within(s.Table[first:last+1], m.tiles/kv.BlockTiles, "block")
		rows += s.Count
	}
	must(rows == q.N, "attention of %d rows for sequences of %d", q.N, rows)
	return m
}
