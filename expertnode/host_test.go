package expertnode_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testSpec = moe.Spec{Layers: []int{1, 3}, Experts: 8, TopK: 1, Hidden: 32, Width: 16,
	ReplicaBytes: int64(kernel.MatrixBytes(32, 32, kernel.WeightsBF16) +
		kernel.MatrixBytes(32, 16, kernel.WeightsBF16))}

// source makes experts of random weights that depend on layer and expert alone.
type source struct {
	spec  moe.Spec
	loads atomic.Int64
	fail  func(layer, expert int) error
}

func (s *source) Spec() moe.Spec { return s.spec }

func (s *source) Load(layer, expert int) (*moe.Expert, error) {
	s.loads.Add(1)
	if s.fail != nil {
		if err := s.fail(layer, expert); err != nil {
			return nil, err
		}
	}
	rng := rand.New(rand.NewPCG(uint64(layer), uint64(expert)))
	matrix := func(n, k int) (*kernel.Matrix, error) {
		m, err := kernel.NewMatrix(n, k, kernel.WeightsBF16)
		row := make([]float32, k)
		for i := 0; i < n && err == nil; i++ {
			for j := range row {
				row[j] = rng.Float32() - 0.5
			}
			err = m.SetRow(i, row)
		}
		return m, err
	}
	gateUp, err := matrix(2*s.spec.Width, s.spec.Hidden)
	if err != nil {
		return nil, err
	}
	down, err := matrix(s.spec.Hidden, s.spec.Width)
	if err != nil {
		return nil, err
	}
	return moe.NewExpert(kernel.NewCPU(nil), gateUp, down)
}

// batch returns rows for some experts of layer 1.
func batch(experts ...int32) *moe.Batch {
	b := &moe.Batch{Layer: 1, Experts: experts, X: tensor.MakeRows(2*len(experts), testSpec.Hidden),
		Y: tensor.MakeRows(2*len(experts), testSpec.Hidden)}
	for range experts {
		b.Counts = append(b.Counts, 2)
	}
	for i := range b.X.Data {
		b.X.Data[i] = float32(i%17) / 8
	}
	return b
}

func TestHostComputesWhatItHolds(t *testing.T) {
	src := &source{spec: testSpec}
	h := expertnode.NewHost(src, kernel.BF16, expertnode.HostOptions{})
	ctx := context.Background()
	b := batch(2, 5)
	err := h.Forward(ctx, b, nil)
	if !errors.Is(err, expertnode.ErrNotHeld) ||
		!strings.Contains(err.Error(), "layer 1 expert 2") {
		t.Errorf("Forward on an empty host = %v, want ErrNotHeld for layer 1 expert 2", err)
	}
	if err := h.Assign(ctx, []expertnode.Replica{{1, 5}, {1, 2}, {1, 5}}); err != nil {
		t.Fatal(err)
	}
	called := 0
	if err := h.Forward(ctx, b, func() { called++ }); err != nil || called != 1 {
		t.Fatalf("Forward = %v, meanwhile called %d times", err, called)
	}
	e, err := src.Load(1, 5)
	if err != nil {
		t.Fatal(err)
	}
	want := tensor.MakeRows(2, testSpec.Hidden)
	run := moe.NewRunner(kernel.NewCPU(nil))
	if err := run.Forward(want, b.X.Slice(2, 4), []*moe.Expert{e}, []int32{2}); err != nil {
		t.Fatal(err)
	}
	moe.RoundRows(kernel.BF16, want)
	if got := b.Y.Slice(2, 4).Data; !slices.Equal(got, want.Data) {
		t.Errorf("rows of expert 5 = %v, want %v", got, want.Data)
	}
}

func TestHostAssignAndDrop(t *testing.T) {
	src := &source{spec: testSpec}
	var progress []int
	h := expertnode.NewHost(src, kernel.Exact, expertnode.HostOptions{
		Progress: func(done, total int) { progress = append(progress, done, total) }})
	ctx := context.Background()
	if err := h.Assign(ctx, []expertnode.Replica{{3, 1}, {1, 7}}); err != nil {
		t.Fatal(err)
	}
	if want := []int{1, 2, 2, 2}; !slices.Equal(progress, want) {
		t.Errorf("progress = %v, want %v", progress, want)
	}
	if err := h.LoadAll(ctx); err != nil {
		t.Fatal(err)
	}
	if got := src.loads.Load(); got != 16 || h.Count() != 16 {
		t.Errorf("%d loads, %d held, want 16 of each: what is held is not loaded again",
			got, h.Count())
	}
	if got, want := h.Bytes(), 16*testSpec.ReplicaBytes; got != want {
		t.Errorf("Bytes() = %d, want %d", got, want)
	}
	held := h.Held()
	h.Drop(held[1:])
	h.Drop(held[1:2]) // not held any more
	if got := h.Held(); !slices.Equal(got, []expertnode.Replica{{1, 0}}) ||
		h.Bytes() != testSpec.ReplicaBytes {
		t.Errorf("held = %v, %d bytes, want layer 1 expert 0 alone", got, h.Bytes())
	}
}

func TestHostRefuses(t *testing.T) {
	broken := errors.New("weights are not finite")
	for name, tc := range map[string]struct {
		want     expertnode.Replica
		capacity int64
		message  string
	}{
		"layer without experts": {expertnode.Replica{Layer: 2}, 0, "no MoE layer 2"},
		"expert out of range":   {expertnode.Replica{Layer: 1, Expert: 8}, 0, "has 8 experts"},
		"negative expert":       {expertnode.Replica{Layer: 1, Expert: -1}, 0, "has 8 experts"},
		"no room":               {expertnode.Replica{Layer: 1, Expert: 1}, 10, "capacity is 10"},
		"broken weights":        {expertnode.Replica{Layer: 3, Expert: 4}, 0, "expert 4: weights"},
	} {
		t.Run(name, func(t *testing.T) {
			src := &source{spec: testSpec, fail: func(layer, expert int) error {
				if layer == 3 && expert == 4 {
					return broken
				}
				return nil
			}}
			h := expertnode.NewHost(src, kernel.BF16,
				expertnode.HostOptions{CapacityBytes: tc.capacity})
			err := h.Assign(context.Background(), []expertnode.Replica{tc.want})
			if err == nil || !strings.Contains(err.Error(), tc.message) {
				t.Errorf("Assign = %v, want %q in it", err, tc.message)
			}
			if h.Count() != 0 {
				t.Errorf("%d replicas held after an error, want none", h.Count())
			}
		})
	}
}

// TestHostKeepsWhatItLoaded cancels while loading: what came before stays and is not loaded twice.
func TestHostKeepsWhatItLoaded(t *testing.T) {
	src := &source{spec: testSpec}
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("the node stops")
	src.fail = func(_, expert int) error {
		if expert == 3 {
			cancel(reason)
		}
		return nil
	}
	h := expertnode.NewHost(src, kernel.BF16, expertnode.HostOptions{LoadParallel: 1})
	if err := h.LoadAll(ctx); !errors.Is(err, reason) {
		t.Errorf("LoadAll = %v, want %v", err, reason)
	}
	if n := h.Count(); n < 4 || n > 5 || !h.Holds(1, 3) {
		t.Errorf("%d replicas held, want those loaded before the end", n)
	}
	if err := h.LoadAll(context.Background()); err != nil || src.loads.Load() != 16 {
		t.Errorf("LoadAll = %v after %d loads, want 16 loads", err, src.loads.Load())
	}
}

// TestHostComputesWhileLoading runs both at once, for the race detector.
func TestHostComputesWhileLoading(t *testing.T) {
	h := expertnode.NewHost(&source{spec: testSpec}, kernel.BF16, expertnode.HostOptions{})
	ctx := context.Background()
	if err := h.Assign(ctx, []expertnode.Replica{{1, 1}}); err != nil {
		t.Fatal(err)
	}
	var loading sync.WaitGroup
	loading.Go(func() {
		for range 20 {
			if err := h.LoadAll(ctx); err != nil {
				t.Error(err)
			}
			h.Drop([]expertnode.Replica{{1, 2}, {3, 3}})
		}
	})
	for range 200 {
		if err := h.Forward(ctx, batch(1), nil); err != nil {
			t.Fatal(err)
		}
	}
	loading.Wait()
}
