package devicetest

import (
	"fmt"

	"drover/kernel"
	"drover/tensor"
)

// The blocks of the test: of each two layers have a part, the second of which is used.
const (
	layerTiles  = 2
	blockTiles  = 2 * layerTiles
	blockTokens = layerTiles * kernel.KVTokens
	firstTile   = layerTiles
)

// hostTiles are the same tiles as the device's, in the host's memory.
type hostTiles struct {
	memory []byte
	size   int
}

func (h *hostTiles) Tile(table []int32, i int) []byte {
	at := (int(table[i/layerTiles])*blockTiles + firstTile + i%layerTiles) * h.size
	return h.memory[at : at+h.size]
}

// attend runs steps of several sequences, which begin and go on.
func (s *suite) attend() {
	for _, p := range []kernel.Precision{kernel.PrecisionExact, kernel.PrecisionBF16,
		kernel.PrecisionInt8} {
		for _, chunk := range []int{0, 48} {
			a := kernel.Attention{Heads: 6, Chunk: chunk, Scale: 0.2,
				KV: kernel.KVLayout{Heads: 2, HeadDim: 20, Precision: p}}
			s.attendSteps(&a, fmt.Sprintf("%v, chunk %d", p, chunk))
		}
	}
}

func (s *suite) attendSteps(a *kernel.Attention, what string) {
	const sequences, blocks = 4, 5 // blocks of each sequence
	memory, err := s.d.AllocateKV(a.KV, sequences*blocks*blockTiles)
	if err != nil {
		s.Fatal(err)
	}
	if memory.Tiles() < sequences*blocks*blockTiles {
		s.Fatalf("%d tiles, want %d", memory.Tiles(), sequences*blocks*blockTiles)
	}
	host := &hostTiles{make([]byte, sequences*blocks*blockTiles*a.KV.TileBytes()), a.KV.TileBytes()}
	numbers := s.rng.Perm(sequences * blocks)
	var tables [sequences][]int32
	for i, n := range numbers {
		tables[i%sequences] = append(tables[i%sequences], int32(n))
	}
	var lengths [sequences]int
	for step, counts := range [][sequences]int{{40, 1, 0, 100}, {1, 1, 1, 1}, {17, 64, 3, 1},
		{0, 0, 0, 0}, {1, 1, 70, 1}} {
		kv := kernel.KV{Memory: memory, BlockTiles: blockTiles, First: firstTile, Tiles: layerTiles}
		for i, n := range counts {
			if n > 0 {
				kv.Sequences = append(kv.Sequences, kernel.AttentionSequence{
					Start: lengths[i], Count: n, Table: tables[i]})
			}
			lengths[i] += n
		}
		s.attendStep(a, &kv, host, fmt.Sprintf("%s, step %d", what, step))
	}
	if longest := blocks * blockTokens; max(lengths[0], lengths[1], lengths[2], lengths[3]) > longest {
		s.Fatalf("sequences of %v tokens in blocks of %d", lengths, longest)
	}
}

// attendStep runs one step on the device and on the host.
func (s *suite) attendStep(a *kernel.Attention, kv *kernel.KV, host *hostTiles, what string) {
	n := 0
	for _, seq := range kv.Sequences {
		n += seq.Count
	}
	q := s.random(n, a.Heads*a.KV.HeadDim)
	k, v := s.random(n, a.KV.Heads*a.KV.HeadDim), s.random(n, a.KV.Heads*a.KV.HeadDim)
	out, want := s.on(s.random(n, q.Dim)), tensor.MakeRows(n, q.Dim)
	row := 0
	for _, seq := range kv.Sequences {
		for pos := seq.Start; pos < seq.Start+seq.Count; pos++ {
			tile := host.Tile(seq.Table, pos/kernel.KVTokens)
			a.KV.Put(tile, pos%kernel.KVTokens, k.Row(row), v.Row(row))
			row++
		}
	}
	var run kernel.AttentionRun
	for i := range run.Prepare(a, want, q, kv.Sequences, host, 1) {
		run.Do(0, i)
	}
	s.d.Attend(a, out, s.on(q), s.on(k), s.on(v), kv)
	clear(kv.Sequences) // the caller's again
	s.want(out, want, "%s", what)
}
