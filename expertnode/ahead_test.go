package expertnode_test

import (
	"slices"
	"sync"
	"testing"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/tensor"
	"drover/wire"
)

// pipeline is a device with two batches under way, which are computed when they end. The
// first one ends when as many have begun as may, and release is closed.
type pipeline struct {
	expertnode.Replicas
	full, release chan struct{}

	mu    sync.Mutex // guards the fields below
	begun []int      // layers
	under int
	most  int
	ended int
}

func newPipeline(r expertnode.Replicas) *pipeline {
	return &pipeline{Replicas: r, full: make(chan struct{}), release: make(chan struct{})}
}

func (p *pipeline) Ahead() int { return 2 }

func (p *pipeline) Begin(b *moe.Batch, _ []error) expertnode.Begun {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = append(p.begun, b.Layer)
	p.under++
	if p.most = max(p.most, p.under); len(p.begun) == p.Ahead() {
		close(p.full)
	}
	return expertnode.Begun{}
}

func (p *pipeline) End(b *moe.Batch, errs []error, _ expertnode.Begun) {
	<-p.release
	p.mu.Lock()
	layer := p.begun[p.ended]
	p.under--
	p.ended++
	p.mu.Unlock()
	if layer != b.Layer {
		panic("batches end in another order than they began")
	}
	p.ComputeBatch(b, errs)
}

// ahead serves a pipeline.
func ahead(t *testing.T) (*serving, *pipeline) {
	var p *pipeline
	s := serve(t, func(o *expertnode.Options) {
		p = newPipeline(o.Replicas)
		o.Ahead = p
	})
	return s, p
}

// TestFramesAhead checks that frames are begun while others are under way, as many as may be,
// and that those that wait meanwhile go together.
func TestFramesAhead(t *testing.T) {
	s, p := ahead(t)
	a, b := s.greeted(t), s.greeted(t)
	a.send(numbered(1, 1, map[uint32]int{0: 1}))
	a.queued()
	b.send(numbered(2, 3, map[uint32]int{1: 2}))
	<-p.full
	a.send(numbered(3, 1, map[uint32]int{0: 1, 2: 2}))
	b.send(numbered(4, 1, map[uint32]int{0: 1}))
	a.queued()
	b.queued()
	close(p.release)
	a.wantRows(1, 0, 1, 1)
	b.wantRows(2, 0, 2, 2)
	a.wantRows(3, 0, 3, 3)
	b.wantRows(4, 0, 1, 1)
	got, err := s.server.Status(t.Context(), &droverv1.StatusRequest{})
	if err != nil || got.Frames != 4 || got.Batches != 3 || got.Rows != 7 {
		t.Errorf("status %v, error %v; want 4 frames with 7 rows in 3 batches", got, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.most != 2 || !slices.Equal(p.begun, []int{1, 3, 1}) {
		t.Errorf("layers %v began, %d under way at most", p.begun, p.most)
	}
}

// TestFramesAheadFaults checks that what fails of one frame stays its own, also where a
// batch panics when it ends.
func TestFramesAheadFaults(t *testing.T) {
	s, p := ahead(t)
	before := func(layer, expert int) error {
		if layer == 3 && expert == 2 {
			panic("a bug")
		}
		return nil
	}
	s.stub.before.Store(&before)
	a := s.greeted(t)
	a.send(numbered(1, 1, map[uint32]int{0: 1, 5: 1})) // 5 is not held
	a.queued()
	a.send(numbered(2, 3, map[uint32]int{0: 1}))
	<-p.full
	a.send(numbered(3, 3, map[uint32]int{0: 1, 2: 1}))
	a.send(numbered(4, 3, map[uint32]int{0: 2, 1: 1}))
	a.queued()
	close(p.release)
	ok, gone, failed := wire.StatusOK, wire.StatusNotHosted, wire.StatusInternal
	a.wantRows(1, 0, 1, 2, ok, gone)
	a.wantRows(2, 0, 1, 1)
	a.wantRows(3, 0, 0, 2, failed, failed)
	a.wantRows(4, 0, 3, 3)
}

// TestFramesAheadClose ends a node with batches under way.
func TestFramesAheadClose(t *testing.T) {
	s, p := ahead(t)
	a := s.greeted(t)
	a.send(numbered(1, 1, map[uint32]int{0: 1}))
	a.queued()
	a.send(numbered(2, 3, map[uint32]int{0: 1}))
	<-p.full
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.server.Close()
	}()
	close(p.release)
	<-closed
}

// slowDevice is a CPU that says of itself that it computes later.
type slowDevice struct{ *kernel.CPU }

func (slowDevice) Ahead() int { return 3 }

// TestHostAhead runs batches through a host, three under way, others between them.
func TestHostAhead(t *testing.T) {
	src := &source{spec: testSpec}
	h := expertnode.NewHost(src, kernel.BF16, expertnode.HostOptions{
		Device: slowDevice{kernel.NewCPU(nil)}})
	plain := expertnode.NewHost(src, kernel.BF16, expertnode.HostOptions{})
	for _, host := range []*expertnode.Host{h, plain} {
		if err := host.Assign(t.Context(), []expertnode.Replica{{Layer: 1, Expert: 2},
			{Layer: 1, Expert: 3}}); err != nil {
			t.Fatal(err)
		}
	}
	if h.Ahead() != 3 || plain.Ahead() != 0 {
		t.Fatalf("ahead %d and %d, want 3 and 0", h.Ahead(), plain.Ahead())
	}
	batches := make([]moe.Batch, 5)
	begun := make([]expertnode.Begun, len(batches))
	errs := make([][]error, len(batches))
	for i := range batches {
		batches[i] = moe.Batch{Layer: 1, Experts: []int32{2, 3}, Counts: []int32{1, int32(i)},
			X: tensor.MakeRows(i+1, testSpec.Hidden), Y: tensor.MakeRows(i+1, testSpec.Hidden)}
		for j := range batches[i].X.Data {
			batches[i].X.Data[j] = float32(i+j%7) / 8
		}
		if i == 2 {
			batches[i].Experts = []int32{3, 4} // 4 is not held
		}
		errs[i] = make([]error, 2)
	}
	check := func(i int) {
		h.End(&batches[i], errs[i], begun[i])
		want := batches[i]
		want.Y = tensor.MakeRows(i+1, testSpec.Hidden)
		wantErrs := make([]error, 2)
		plain.ComputeBatch(&want, wantErrs)
		rows := testSpec.Hidden * (i + 1)
		if i == 2 {
			rows = testSpec.Hidden // of the one that is held
		}
		for j := range wantErrs {
			if (errs[i][j] == nil) != (wantErrs[j] == nil) {
				t.Errorf("batch %d: %v, want %v", i, errs[i], wantErrs)
			}
		}
		if !slices.Equal(batches[i].Y.Data[:rows], want.Y.Data[:rows]) {
			t.Errorf("batch %d: other rows than one at a time", i)
		}
	}
	for i := range batches {
		if i >= 3 {
			check(i - 3)
		}
		begun[i] = h.Begin(&batches[i], errs[i])
		x := tensor.MakeRows(1, testSpec.Hidden)
		if err := h.Compute(1, 2, tensor.MakeRows(1, testSpec.Hidden), x); err != nil {
			t.Error(err)
		}
	}
	for i := 2; i < len(batches); i++ {
		begun[i].Wait()
		check(i)
	}
}
