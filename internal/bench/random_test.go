package bench

import (
	"strings"
	"testing"

	"drover/kernel"
)

// TestRandom measures a small model, alone and on nodes: what a step reads is all but the
// experts, and of these the ones that its tokens go to.
func TestRandom(t *testing.T) {
	shape, err := findShape("small")
	if err != nil {
		t.Fatal(err)
	}
	expert := int64(kernel.MatrixBytes(2*shape.width, shape.hidden, kernel.WeightsBF16) +
		kernel.MatrixBytes(shape.hidden, shape.width, kernel.WeightsBF16))
	for _, nodes := range []int{0, 2} {
		rep, err := Random(t.Context(), kernel.BF16, RandomOptions{Shape: "small", Layers: 3,
			Device: "cpu", Options: Options{Quick: true, Nodes: nodes, Threads: 1, Batches: []int{1, 8},
				Prompts: []int{16}, PromptTokens: 4}})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Layers != 3 || rep.ExpertLayers != 3 || len(rep.Runs) != 3 || len(rep.Bounds) != 2 ||
			rep.ReadGBps != nil || len(rep.LeftOut) != 0 {
			t.Fatalf("%d nodes: %+v", nodes, rep)
		}
		most := rep.WeightBytes - 3*15*expert // a layer's other experts are not read
		one, eight := rep.Bounds[0].Bytes, rep.Bounds[1].Bytes
		if one < most || one > most+expert || eight <= one || eight > rep.WeightBytes {
			t.Errorf("%d nodes: steps read %d and %d bytes of %d, one token about %d", nodes, one, eight,
				rep.WeightBytes, most)
		}
	}
}

// TestRandomFits computes how many layers of real models have room, from headers alone.
func TestRandomFits(t *testing.T) {
	for _, tc := range []struct {
		shape  string
		mode   kernel.Mode
		gib    int64
		layers int
	}{
		{"scout", kernel.BF16, 80, 17}, {"scout", kernel.Int4, 80, 48}, {"scout", kernel.BF16, 140, 30},
		{"maverick", kernel.Int4, 140, 28},
	} {
		shape, err := findShape(tc.shape)
		if err != nil {
			t.Fatal(err)
		}
		n, err := shape.fitting(t.TempDir(), tc.mode, tc.gib<<30, 256*48)
		if err != nil || n != tc.layers {
			t.Errorf("%s in %v has %d layers in %d GiB, want %d; error %v", tc.shape, tc.mode, n, tc.gib,
				tc.layers, err)
		}
	}
	shape, err := findShape("scout")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shape.fitting(t.TempDir(), kernel.BF16, 2<<30, 16); err == nil ||
		!strings.Contains(err.Error(), "not enough for a layer") {
		t.Errorf("scout in 2 GiB: %v", err)
	}
}

func TestRandomRefused(t *testing.T) {
	for what, o := range map[string]RandomOptions{
		"no shape":     {Shape: "huge"},
		"17 layers":    {Shape: "small", Layers: 17},
		"0 to 64":      {Shape: "small", Layers: 1, Options: Options{Nodes: 65}},
		"a multiple":   {Shape: "maverick", Layers: 3},
		"is unknown":   {Shape: "small", Layers: 1, Device: "tpu"},
		"a batch of 0": {Shape: "small", Layers: 1, Options: Options{Batches: []int{0}}},
	} {
		if _, err := Random(t.Context(), kernel.BF16, o); err == nil ||
			!strings.Contains(err.Error(), what) {
			t.Errorf("%+v: %v, want %q", o, err, what)
		}
	}
}
