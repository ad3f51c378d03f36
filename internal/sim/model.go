package sim

import (
	"context"
	"math"
	"sync"
	"time"

	"drover/kernel"
	"drover/model"
	"drover/moe"
	"drover/tensor"
)

// The model of all simulations: small, but with attention over all earlier tokens and
// experts whose outputs go into what later tokens see. One wrong element of one row changes
// the rest of the answer.
const (
	hidden     = 8
	width      = 16
	experts    = 8
	topK       = 2
	vocabulary = 64
	mode       = kernel.Exact
)

var (
	moeLayers = []int{1, 3}
	digest    = []byte("a checkpoint of simulations")
)

// modelName is the digest's text.
const modelName = "simulated"

// weights are the experts, made once; they never change.
var weights = sync.OnceValue(func() map[[2]int]*moe.Expert {
	out := map[[2]int]*moe.Expert{}
	for _, layer := range moeLayers {
		for e := range experts {
			out[[2]int{layer, e}] = makeExpert(uint64(layer<<8 | e))
		}
	}
	return out
})

func makeExpert(seed uint64) *moe.Expert {
	fill := func(n, k int, seed uint64) *kernel.Matrix {
		m, err := kernel.NewMatrix(n, k, kernel.WeightsF32)
		if err != nil {
			panic(err)
		}
		for i := range n {
			row := make([]float32, k)
			for j := range row {
				row[j] = unit(mix(seed, uint64(i*k+j))) - 0.5
			}
			if err := m.SetRow(i, row); err != nil {
				panic(err)
			}
		}
		return m
	}
	e, err := moe.NewExpert(kernel.NewCPU(nil), fill(2*width, hidden, seed*2),
		fill(hidden, width, seed*2+1))
	if err != nil {
		panic(err)
	}
	return e
}

// unit turns a hash into a number from 0 to 1.
func unit(x uint64) float32 { return float32(x>>40) / (1 << 24) }

// replicaBytes is the size of one expert's packed weights.
var replicaBytes = sync.OnceValue(func() int64 {
	return weights()[[2]int{moeLayers[0], 0}].Bytes()
})

func spec() moe.Spec {
	return moe.Spec{Layers: moeLayers, Experts: experts, TopK: topK, Hidden: hidden, Width: width,
		ReplicaBytes: replicaBytes()}
}

// source reads experts as if from a disk.
type source struct {
	before func() error // may wait or fail; nil does neither
}

func (s source) Spec() moe.Spec { return spec() }

func (s source) Load(layer, expert int) (*moe.Expert, error) {
	if s.before != nil {
		if err := s.before(); err != nil {
			return nil, err
		}
	}
	return weights()[[2]int{layer, expert}], nil
}

// tiny is the coordinator's part of the model.
type tiny struct {
	experts moe.Experts
	think   time.Duration // that each step takes here
	device  kernel.Device
	plan    *moe.Plan
	routes  moe.Routes

	blockTokens int
	kv          [][]uint64 // for each MoE layer, a hash at each position of each block
	logits      []float32
}

func newTiny(e moe.Experts, think time.Duration) *tiny {
	d := kernel.NewCPU(nil)
	return &tiny{experts: e, think: think, device: d,
		plan: moe.NewPlan(d, experts, moe.ScaleInput, mode)}
}

// Spec implements model.Model.
func (m *tiny) Spec() model.Spec {
	return model.Spec{Architecture: "simulated", Vocabulary: vocabulary, Hidden: hidden, Layers: 4,
		MaxTokens: 64, BOS: 1, EOS: []int32{2}, MoE: spec(),
		KV: []model.KVGroup{{Layers: []int{0, 1, 2, 3}, RowBytes: 16}}}
}

// NewCache implements model.Model.
func (m *tiny) NewCache(blocks []int, blockTokens int) (*model.Cache, error) {
	m.blockTokens = blockTokens
	for range moeLayers {
		m.kv = append(m.kv, make([]uint64, blocks[0]*blockTokens))
	}
	return &model.Cache{}, nil
}

// Forward implements model.Model.
func (m *tiny) Forward(ctx context.Context, _ *model.Cache, b *model.Batch) error {
	if m.think > 0 && !sleep(ctx, m.think) {
		return context.Cause(ctx)
	}
	x, err := m.device.Allocate(len(b.Tokens), hidden)
	if err != nil {
		return err
	}
	rows := tensor.Rows{Data: make([]float32, len(b.Tokens)*hidden), N: len(b.Tokens), Dim: hidden}
	for i, token := range b.Tokens {
		addHash(rows.Row(i), uint64(token))
	}
	for index, layer := range moeLayers {
		m.attend(index, rows, b)
		m.device.Write(x, rows)
		m.gate(rows)
		if err := m.plan.Gather(layer, x, &m.routes); err != nil {
			return err
		}
		if err := m.experts.Forward(ctx, &m.plan.Batch, nil); err != nil {
			return err
		}
		if err := m.plan.Combine(x); err != nil {
			return err
		}
		out, err := m.device.Read(x)
		if err != nil {
			return err
		}
		copy(rows.Data, out.Data)
	}
	m.unembed(rows, b)
	return nil
}

// attend adds to each row what all earlier positions left in the cache.
func (m *tiny) attend(index int, rows tensor.Rows, b *model.Batch) {
	at := 0
	for _, s := range b.Sequences {
		for i := range s.Count {
			h := uint64(index)
			for p := range s.Start + i + 1 {
				cell := &m.kv[index][int(s.Tables[0][p/m.blockTokens])*m.blockTokens+p%m.blockTokens]
				if p == s.Start+i {
					*cell = hashRow(rows.Row(at))
				}
				h = mix(h, *cell)
			}
			addHash(rows.Row(at), h)
			at++
		}
	}
}

// gate chooses the experts of each row by its content.
func (m *tiny) gate(rows tensor.Rows) {
	m.routes.Resize(rows.N, topK)
	for i := range rows.N {
		h := hashRow(rows.Row(i))
		first := int32(h % experts)
		second := (first + 1 + int32(h>>32%(experts-1))) % experts
		m.routes.Experts[i*topK], m.routes.Experts[i*topK+1] = first, second
		m.routes.Weights[i*topK], m.routes.Weights[i*topK+1] = 0.75, 0.5
	}
}

// unembed sets the logits of the positions that need some.
func (m *tiny) unembed(rows tensor.Rows, b *model.Batch) {
	m.logits = m.logits[:0]
	at, n := 0, 0
	for _, s := range b.Sequences {
		for i := range s.Count {
			if i >= s.Count-s.Logits {
				h := hashRow(rows.Row(at))
				for v := range vocabulary {
					m.logits = append(m.logits, 8*unit(mix(h, uint64(v)))-4)
				}
				n++
			}
			at++
		}
	}
	b.Logits = tensor.Rows{Data: m.logits, N: n, Dim: vocabulary}
}

// addHash halves a row and adds numbers that a hash gives.
func addHash(row []float32, h uint64) {
	for i := range row {
		row[i] = row[i]/2 + unit(mix(h, uint64(i))) - 0.5
	}
}

func hashRow(row []float32) uint64 {
	h := uint64(len(row))
	for _, v := range row {
		h = mix(h, uint64(math.Float32bits(v)))
	}
	return h
}
