package expertnode_test

import (
	"testing"

	"drover/wire"
)

// TestMetrics computes and refuses frames: each is counted once.
func TestMetrics(t *testing.T) {
	s := serve(t, nil)
	l := s.greeted(t)
	l.send(frame(1, 0, 2))
	l.wantCombine(1, 2)
	l.send(frame(2, 5))
	l.wantCombine(2, 0, wire.StatusNotHosted)
	l.send(frame(2, 1)) // a replay
	l.wantCombine(2, 0, wire.StatusBadShape)
	m := s.server.Metrics()
	if m.Streams != 1 || m.Waiting != 0 || m.Frames != 2 || m.Batches != 2 || m.Queue.Count != 2 ||
		m.Compute.Count != 2 || m.BatchRows.Sum != 3 || m.Panics != 0 || m.Draining {
		t.Errorf("counted %+v", m)
	}
	for status, n := range m.Refused {
		want := uint64(0)
		if status == wire.StatusNotHosted || status == wire.StatusBadShape {
			want = 1
		}
		if n != want {
			t.Errorf("%v: %d, want %d", status, n, want)
		}
	}
}
