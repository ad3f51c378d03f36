package coordinator

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"drover/model"
	droverv1 "drover/proto/drover/v1"
	"drover/tensor"
)

// instantModel returns the same logits for every token, at no cost.
type instantModel struct {
	spec   model.Spec
	logits []float32
}

func (m *instantModel) Spec() model.Spec { return m.spec }

func (m *instantModel) NewCache([]int, int) (*model.Cache, error) { return &model.Cache{}, nil }

func (m *instantModel) Forward(_ context.Context, _ *model.Cache, b *model.Batch) error {
	rows := 0
	for i := range b.Sequences {
		rows += b.Sequences[i].Logits
	}
	b.Logits = tensor.Rows{Data: m.logits[:rows*m.spec.Vocabulary], N: rows, Dim: m.spec.Vocabulary}
	return nil
}

// BenchmarkTurn measures what the engine adds to the model in one step of n sequences that
// decode and are read. In steady state it does not allocate.
func BenchmarkTurn(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c, requests := benchEngine(b, n)
			var o results
			b.ReportAllocs()
			for b.Loop() {
				if err := c.turn(b.Context()); err != nil {
					b.Fatal(err)
				}
				for i, r := range requests {
					if r.box.take(&o); o.done {
						requests[i] = benchRequest(b, c)
					}
				}
			}
		})
	}
}

// benchEngine is an engine with n sequences that have been prefilled.
func benchEngine(b *testing.B, n int) (*Coordinator, []*request) {
	spec := newFake(2048).spec
	spec.MaxTokens = 1 << 20
	m := &instantModel{spec, make([]float32, n*spec.Vocabulary)}
	for i := range m.logits {
		m.logits[i] = float32(uniform(0, uint64(i%2048)))
	}
	c, err := build(m, nil, Options{Name: "x", KVBytes: 1 << 34, MaxSequences: n})
	if err != nil {
		b.Fatal(err)
	}
	var requests []*request
	for range n {
		requests = append(requests, benchRequest(b, c))
	}
	if err := c.turn(b.Context()); err != nil {
		b.Fatal(err)
	}
	return c, requests
}

// BenchmarkMetrics measures what metrics cost of a step of n sequences, of which the engine's
// own part alone is the whole here: the model costs nothing. In one run it takes the time of a
// step, and that of counting again what the step has counted.
func BenchmarkMetrics(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c, requests := benchEngine(b, n)
			var o results
			var turns, counts time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				if err := c.turn(b.Context()); err != nil {
					b.Fatal(err)
				}
				turned := time.Now()
				for range n {
					c.recorder.gap.ObserveTime(turned.Sub(began))
				}
				c.recorder.step.ObserveTime(turned.Sub(began))
				c.recorder.sequences.Observe(float64(n))
				c.recorder.tokens.Observe(float64(n))
				turns, counts = turns+turned.Sub(began), counts+time.Since(turned)
				for i, r := range requests {
					if r.box.take(&o); o.done {
						requests[i] = benchRequest(b, c)
					}
				}
			}
			b.ReportMetric(float64(turns.Nanoseconds())/float64(b.N), "ns-step")
			b.ReportMetric(float64(counts.Nanoseconds())/float64(b.N), "ns-counting")
			b.ReportMetric(100*float64(counts)/float64(turns), "%-of-step")
		})
	}
}

func benchRequest(b *testing.B, c *Coordinator) *request {
	req := tokensRequest([]int32{3, 4, 5}, 0)
	req.IgnoreEos = true
	req.TopLogprobs = proto.Uint32(2)
	req.Sampling = &droverv1.Sampling{Temperature: proto.Float32(1), TopK: proto.Uint32(8)}
	r, err := c.newGeneration(b.Context(), req)
	if err == nil {
		err = c.submit(r)
	}
	if err != nil {
		b.Fatal(err)
	}
	return r
}
