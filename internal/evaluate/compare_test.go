package evaluate

import (
	"context"
	"math"
	"os"
	"strings"
	"testing"

	"drover/coordinator"
	"drover/internal/role"
	"drover/internal/testcluster"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

func TestDistances(t *testing.T) {
	var d distances
	// Probabilities 1/2, 1/2 and 1/4, 3/4: KL is ln(2)/2 + ln(2/3)/2.
	d.add([]float32{5, 5}, []float32{0, float32(math.Log(3))})
	want := math.Ln2/2 + math.Log(2.0/3)/2
	if got := d.distance(); math.Abs(got.MeanKL-want) > 1e-7 || got.SameTop != 0 {
		t.Errorf("%+v, want a KL of %v", got, want)
	}
	d.add([]float32{1, 2, 3}, []float32{101, 102, 103}) // the same distribution
	d.add([]float32{0, float32(math.Inf(-1))}, []float32{0, float32(math.Inf(-1))})
	got := d.distance()
	if math.Abs(got.MeanKL-want/3) > 1e-7 || math.Abs(got.LargestKL-want) > 1e-7 ||
		math.Abs(got.SameTop-2.0/3) > 1e-12 {
		t.Errorf("%+v, want a mean KL of %v, a largest of %v", got, want/3, want)
	}
	if got := (&distances{}).distance(); got != (Distance{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func openModel(ctx context.Context, dir string, mode kernel.Mode) (
	droverv1.CoordinatorServiceClient, func(), error,
) {
	conn, stop, err := role.InProcess(ctx, dir, role.InProcessOptions{Mode: mode,
		Engine: coordinator.Options{KVBytes: 64 << 20}})
	if err != nil {
		return nil, nil, err
	}
	return droverv1.NewCoordinatorServiceClient(conn), stop, nil
}

// TestCompare compares a mode with itself and with one that rounds.
func TestCompare(t *testing.T) {
	text, err := os.ReadFile(testcluster.Path("models/tiny-maverick/eval.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	some := strings.Join(strings.SplitAfter(string(text), "\n")[:4], "")
	opts := CompareOptions{
		Options: Options{File: file(t, some)}, Dir: testcluster.Path("models/tiny-maverick"),
		Against: kernel.Exact, Modes: []kernel.Mode{kernel.Exact, kernel.BF16}, Open: openModel,
	}
	rep, err := Compare(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Against.N != 4 || rep.Against.Correct != 4 || rep.Positions < 40 || len(rep.Modes) != 2 {
		t.Errorf("%+v", rep)
	}
	if same := rep.Modes[0]; same.Distance != (Distance{SameTop: 1}) || same.Correct != 4 {
		t.Errorf("a mode against itself: %+v", same)
	}
	if d := rep.Modes[1].Distance; !(d.MeanKL > 1e-7 && d.MeanKL < 1e-2) || d.SameTop < 0.9 ||
		d.LargestKL < d.MeanKL {
		t.Errorf("bf16 against exact: %+v", d)
	}
	opts.Modes = nil
	if _, err := Compare(t.Context(), opts); err == nil {
		t.Error("without modes: no error")
	}
}
