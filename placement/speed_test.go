package placement

import (
	"maps"
	"math"
	"testing"
)

func TestSpeeds(t *testing.T) {
	got := Speeds(map[string]float64{"a": 100, "b": 110, "c": 95, "d": 50, "e": 1e9, "f": 0,
		"g": math.NaN(), "h": math.Inf(1), "i": 0.001})
	want := map[string]float64{"a": 1, "b": 1, "c": 1, "d": 0.5, "e": 16, "i": 1.0 / 16}
	if !maps.Equal(got, want) {
		t.Errorf("Speeds = %v, want %v", got, want)
	}
	if got := Speeds(map[string]float64{"a": 0}); got != nil {
		t.Errorf("Speeds of nothing = %v", got)
	}
}

func TestImbalance(t *testing.T) {
	p := &Plan{Layers: []int{1, 3}, Experts: 2, NodeIDs: []string{"a", "b"},
		Replicas: [][][]uint16{{{0}, {1}}, {{0, 1}, {1}}}}
	got := p.Imbalance([][]float64{{3, 1}, {2, 2}}, map[string]float64{"b": 2})
	for l, want := range []float64{2.25, 1.125} {
		if math.Abs(got[l]-want) > 1e-9 {
			t.Errorf("layer %d: %v, want %v", l, got[l], want)
		}
	}
	if got := p.Imbalance(nil, nil); got[0] != 0 || got[1] != 0 {
		t.Errorf("without load: %v", got)
	}
}
