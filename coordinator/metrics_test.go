package coordinator

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	droverv1 "drover/proto/drover/v1"
)

// outcome is how a request ended.
type outcome struct {
	Operation Operation
	Code      codes.Code
}

// ended returns how many requests ended in each way.
func ended(m Metrics) map[outcome]uint64 {
	out := map[outcome]uint64{}
	for _, r := range m.Requests {
		if r.Time.Count > 0 {
			out[outcome{r.Operation, r.Code}] = r.Time.Count
		}
	}
	return out
}

// TestMetrics asks in several ways: each request is counted once, by how it ended, and the
// canary is not one of them.
func TestMetrics(t *testing.T) {
	c := start(t, newFake(32), nil, Options{CanaryKey: "secret", AllowScore: true})
	req := tokensRequest([]int32{3, 4, 5}, 6)
	req.IgnoreEos = true
	if a := generate(t.Context(), c, req); a.err != nil || len(a.ids) != 6 {
		t.Fatal(a)
	}
	if a := generate(t.Context(), c, tokensRequest(nil, 1)); a.err == nil {
		t.Error("an empty prompt was taken")
	}
	one := tokensRequest([]int32{3}, 1)
	with := func(key string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs(canaryHeader, key))
	}
	if a := generate(with("secret"), c, one); a.err != nil {
		t.Error(a)
	}
	if a := generate(with("guess"), c, one); a.err != nil {
		t.Error(a)
	}
	err := c.Score(&droverv1.ScoreRequest{TokenIds: []int32{1, 2}},
		&client[droverv1.ScoreResponse]{ctx: t.Context()})
	if err != nil {
		t.Error(err)
	}
	m := c.Metrics()
	want := map[outcome]uint64{
		{Operation: OperationCompletion}:                              2,
		{Operation: OperationCompletion, Code: codes.InvalidArgument}: 1,
		{Operation: OperationScore}:                                   1,
	}
	for k, n := range ended(m) {
		if want[k] != n {
			t.Errorf("%v %v: %d, want %d", k.Operation, k.Code, n, want[k])
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Errorf("not counted: %v", want)
	}
	const done = OperationCompletion
	if m.Canaries != 1 || m.FailedCanaries != 0 || m.Gap.Count != 5 || m.Wait.Count != 3 ||
		m.FirstToken[done].Count != 2 || m.PerToken[done].Count != 1 ||
		m.Input[done].Sum != 4 || m.Output[done].Sum != 7 {
		t.Errorf("counted %+v", m)
	}
	if n := uint64(m.Steps - m.FailedSteps); m.StepTime.Count != n || m.BatchTokens.Count != n ||
		m.BatchSequences.Sum < float64(n) {
		t.Errorf("%d steps: %+v", n, m)
	}
}
