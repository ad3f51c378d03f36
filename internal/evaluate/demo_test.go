package evaluate

import (
	"testing"

	"drover/internal/testcluster"
	"drover/kernel"
)

// TestDemoModel reaches the accuracy on text that the demo model's MODEL_CARD.md states, task by
// task, in every mode.
func TestDemoModel(t *testing.T) {
	modes := []kernel.Mode{kernel.Exact, kernel.BF16}
	if testing.Short() { // for the race detector
		modes = modes[1:]
	}
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			res, err := Run(t.Context(), testcluster.Start(t, testcluster.Options{Mode: mode}),
				Options{File: testcluster.Path("models/tiny-maverick/eval.jsonl")})
			if err != nil {
				t.Fatal(err)
			}
			if res.Correct != 158 || res.N != 162 || res.Skipped != 38 {
				t.Errorf("%d of %d exact, %d skipped, want 158 of 162 and 38: %+v",
					res.Correct, res.N, res.Skipped, res.Missed)
			}
			if got := res.Tasks["repeat"]; got.Correct != 2 || got.N != 6 {
				t.Errorf("task repeat: %+v, want 2 of 6", got)
			}
		})
	}
}
