package expertnode_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/mem"

	"drover/expertnode"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// recorder are Replicas that note what is computed together. The first computation waits
// for release.
type recorder struct {
	expertnode.Replicas
	entered, release chan struct{}

	mu      sync.Mutex // guards the field below
	batches []string
}

func (r *recorder) ComputeBatch(b *moe.Batch, errs []error) {
	r.mu.Lock()
	r.batches = append(r.batches, fmt.Sprint(b.Layer, b.Experts, b.Counts))
	first := len(r.batches) == 1
	r.mu.Unlock()
	if first {
		close(r.entered)
		<-r.release
	}
	r.Replicas.ComputeBatch(b, errs)
}

// busy serves a node that computes one frame until its recorder is released.
func busy(t *testing.T, change func(*expertnode.Options)) (*serving, *recorder, *lane) {
	t.Helper()
	rec := &recorder{entered: make(chan struct{}), release: make(chan struct{})}
	s := serve(t, func(o *expertnode.Options) {
		rec.Replicas = o.Replicas
		o.Replicas = rec
		if change != nil {
			change(o)
		}
	})
	l := s.greeted(t)
	l.send(numbered(1, 1, map[uint32]int{0: 1}))
	<-rec.entered
	return s, rec, l
}

// numbered makes a Dispatch whose rows all differ, also from those of other frames.
func numbered(id uint64, layer uint32, rows map[uint32]int) *wire.Request {
	r := &wire.Request{Kind: wire.KindDispatch}
	d := &r.Dispatch
	*d = wire.Dispatch{FrameID: id, Layer: layer, DType: wire.BF16}
	for expert := range rows {
		d.ExpertIDs = append(d.ExpertIDs, expert)
	}
	slices.Sort(d.ExpertIDs)
	for _, expert := range d.ExpertIDs {
		d.ExpertRowCounts = append(d.ExpertRowCounts, uint32(rows[expert]))
		d.RowCount += uint32(rows[expert])
	}
	b := make([]byte, int(d.RowCount)*rowBytes)
	wire.PutRows(b, rowsOf(id, int(d.RowCount), 1), wire.BF16)
	r.Rows = mem.SliceBuffer(b)
	return r
}

// rowsOf are the rows of a numbered frame, times a factor that bfloat16 can hold.
func rowsOf(id uint64, rows int, factor float32) []float32 {
	out := make([]float32, rows*rowBytes/2)
	for i := range out {
		out[i] = factor * float32(int(id)*8+i/(rowBytes/2))
	}
	return out
}

// queued returns when everything that was sent on the lane is in the node's queue: a
// stream is read in order.
func (l *lane) queued() {
	l.t.Helper()
	l.send(&wire.Request{Kind: wire.KindPing, PingNonce: 1})
	if r := l.receive(); r.Kind != wire.KindPong {
		l.t.Fatalf("got %+v, want a pong", r)
	}
}

// wantRows receives the Combine of a numbered frame and checks its rows: those from, to
// without to, of all that were sent.
func (l *lane) wantRows(id uint64, from, to, sent int, statuses ...wire.Status) {
	l.t.Helper()
	r := l.receive()
	if r.Kind != wire.KindCombine || r.Combine.FrameID != id ||
		fmt.Sprint(r.Combine.Statuses) != fmt.Sprint(statuses) {
		l.t.Fatalf("got %+v, want frame %d with statuses %v", r.Combine, id, statuses)
	}
	got := make([]float32, len(r.RowBytes())/2)
	wire.TakeRows(got, r.RowBytes(), wire.BF16)
	want := rowsOf(id, sent, 2)[from*rowBytes/2 : to*rowBytes/2]
	if !slices.Equal(got, want) {
		l.t.Errorf("frame %d: rows %v, want %v", id, got, want)
	}
	if r.Combine.CreditBytes != uint64(sent*rowBytes) {
		l.t.Errorf("frame %d: credit %d, want %d", id, r.Combine.CreditBytes, sent*rowBytes)
	}
}

// TestFramesTogether checks that frames of one layer that wait are computed together,
// whoever sent them, and that everyone gets the rows of its own frame.
func TestFramesTogether(t *testing.T) {
	s, rec, a := busy(t, nil)
	b := s.greeted(t)
	a.send(numbered(2, 1, map[uint32]int{0: 2, 2: 1}))
	a.send(numbered(3, 3, map[uint32]int{1: 1}))
	a.queued()
	b.send(numbered(4, 1, map[uint32]int{0: 1, 1: 3, 3: 1}))
	b.send(numbered(5, 3, map[uint32]int{1: 2}))
	b.send(numbered(6, 1, map[uint32]int{3: 1}))
	b.queued()
	close(rec.release)
	a.wantRows(1, 0, 1, 1)
	a.wantRows(2, 0, 3, 3)
	a.wantRows(3, 0, 1, 1)
	b.wantRows(4, 0, 5, 5)
	b.wantRows(6, 0, 1, 1)
	b.wantRows(5, 0, 2, 2)
	want := []string{"1 [0] [1]", "1 [0 1 2 3] [3 3 1 2]", "3 [1] [3]"}
	if !reflect.DeepEqual(rec.batches, want) {
		t.Errorf("computed %q, want %q", rec.batches, want)
	}
	got, err := s.server.Status(t.Context(), &droverv1.StatusRequest{})
	if err != nil || got.Frames != 6 || got.Batches != 3 || got.Rows != 13 {
		t.Errorf("status %v, error %v; want 6 frames with 13 rows in 3 batches", got, err)
	}
}

// TestFramesTogetherBound checks that no more rows are computed together than one frame
// may have, and that a smaller frame goes along where a larger one does not fit.
func TestFramesTogetherBound(t *testing.T) {
	_, rec, a := busy(t, func(o *expertnode.Options) { o.MaxFrameBytes = 64 * rowBytes })
	a.send(numbered(2, 1, map[uint32]int{0: 40}))
	a.send(numbered(3, 1, map[uint32]int{0: 25}))
	a.send(numbered(4, 1, map[uint32]int{0: 24}))
	a.queued()
	close(rec.release)
	a.wantRows(1, 0, 1, 1)
	a.wantRows(2, 0, 40, 40)
	a.wantRows(4, 0, 24, 24)
	a.wantRows(3, 0, 25, 25)
	if want := []string{"1 [0] [1]", "1 [0] [64]", "1 [0] [25]"}; !reflect.DeepEqual(
		rec.batches, want) {
		t.Errorf("computed %q, want %q", rec.batches, want)
	}
}

// TestFramesTogetherFaults checks that what fails of one frame stays its own: an expert
// that is not held, one with an error, a panic; and that withdrawn frames take no part.
func TestFramesTogetherFaults(t *testing.T) {
	s, rec, a := busy(t, nil)
	before := func(layer, expert int) error {
		switch {
		case layer == 3 && expert == 2:
			panic("a bug")
		case expert == 3:
			return errors.New("a fault")
		}
		return nil
	}
	s.stub.before.Store(&before)
	b := s.greeted(t)
	ok, gone, failed := wire.StatusOK, wire.StatusNotHosted, wire.StatusInternal
	a.send(numbered(2, 1, map[uint32]int{0: 1, 3: 1, 5: 1})) // 5 is not held
	a.send(numbered(3, 1, map[uint32]int{0: 1}))
	a.send(&wire.Request{Kind: wire.KindCancel, CancelID: 3})
	a.send(numbered(4, 3, map[uint32]int{0: 1, 2: 1}))
	a.queued()
	b.send(numbered(5, 1, map[uint32]int{0: 2, 1: 1}))
	b.send(numbered(6, 3, map[uint32]int{0: 1, 1: 1}))
	b.queued()
	close(rec.release)
	a.wantRows(1, 0, 1, 1)
	a.wantRows(3, 0, 0, 1, wire.StatusCancelled)
	a.wantRows(2, 0, 1, 3, ok, failed, gone)
	a.wantRows(4, 0, 0, 2, failed, failed)
	b.wantRows(5, 0, 3, 3)
	b.wantRows(6, 0, 2, 2)
	want := []string{"1 [0] [1]", "1 [0 1 3 5] [3 1 1 1]", "3 [0 1 2] [2 1 1]",
		"3 [0 2] [1 1]", "3 [0 1] [1 1]"}
	if !reflect.DeepEqual(rec.batches, want) {
		t.Errorf("computed %q, want %q", rec.batches, want)
	}
}
