package faultinject_test

import (
	"strings"
	"testing"
	"time"

	"drover/expertnode"
	"drover/internal/faultinject"
	"drover/moe"
	"drover/tensor"
)

func TestParse(t *testing.T) {
	got, err := faultinject.Parse("wrong=0.5,corrupt=1,refuse=0.25,delay=20ms,slow=10,hang=7,seed=3")
	want := faultinject.Faults{Wrong: 0.5, Corrupt: 1, Refuse: 0.25, Delay: 20 * time.Millisecond, Slow: 10,
		Hang: 7, Seed: 3}
	if err != nil || got != want {
		t.Errorf("Parse = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "wrong", "wrong=2", "wrong=NaN", "delay=5", "delay=-1s",
		"slow=-1", "hang=x", "burn=1"} {
		if _, err := faultinject.Parse(bad); err == nil || !strings.Contains(err.Error(), "fault") {
			t.Errorf("Parse(%q): %v, want an error", bad, err)
		}
	}
}

// zeros are replicas whose results are zeros.
type zeros struct{ expertnode.Replicas }

func (zeros) ComputeBatch(b *moe.Batch, errs []error) { clear(b.Y.Data) }

// TestWrong counts the experts with a wrong result.
func TestWrong(t *testing.T) {
	b := &moe.Batch{Experts: []int32{1, 2, 3}, Counts: []int32{2, 1, 3}, Y: tensor.MakeRows(6, 4)}
	for _, tc := range []struct {
		part        float64
		least, most int
	}{{0, 0, 0}, {0.1, 20, 50}, {1, 300, 300}} {
		r := faultinject.Faults{Wrong: tc.part, Seed: 1}.Wrap(zeros{})
		wrong := 0
		for range 100 {
			r.ComputeBatch(b, make([]error, 3))
			for _, rows := range [][2]int{{0, 2}, {2, 3}, {3, 6}} {
				bad := 0
				for _, v := range b.Y.Slice(rows[0], rows[1]).Data {
					if v != 0 {
						bad++
					}
				}
				wrong += min(bad, 1)
				if bad > 1 {
					t.Errorf("%d numbers of an expert are wrong, want one", bad)
				}
			}
		}
		if wrong < tc.least || wrong > tc.most {
			t.Errorf("%d of 300 results are wrong with a part of %v", wrong, tc.part)
		}
	}
}

// TestNoFaultsNoOptions wants a sound node's gRPC server left as it is.
func TestNoFaultsNoOptions(t *testing.T) {
	if o := (faultinject.Faults{}).ServerOptions(); len(o) != 0 {
		t.Errorf("%d options", len(o))
	}
	if o := (faultinject.Faults{Corrupt: 0.1}).ServerOptions(); len(o) != 1 {
		t.Errorf("%d options, want the codec", len(o))
	}
}
