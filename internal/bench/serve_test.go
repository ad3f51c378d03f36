package bench

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/load"
	"drover/internal/load/loadtest"
	droverv1 "drover/proto/drover/v1"
)

const ms = time.Millisecond

func questions(n int) []load.Question {
	var all []load.Question
	for i := range n {
		all = append(all, load.Question{ID: string(rune('a' + i)),
			Request: &droverv1.GenerateRequest{MaxTokens: uint32(i)}})
	}
	return all
}

// steady answers with a first token after 10 ms and ten more, 4 ms apart; tokens tell questions
// apart.
func steady(req *droverv1.GenerateRequest) ([]loadtest.Token, error) {
	tokens := []loadtest.Token{{After: 10 * ms, IDs: []int32{int32(req.MaxTokens)}}}
	for range 10 {
		tokens = append(tokens, loadtest.Token{After: 4 * ms, IDs: []int32{1}})
	}
	return tokens, nil
}

func about(got, want float64) bool { return math.Abs(got-want) <= 0.006*want }

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, total := 0, 0
		rep, err := Serve(t.Context(), loadtest.Client(steady), ServeOptions{Questions: questions(3),
			Rates: []float64{5, 50}, Requests: 100, Seed: 3, TTFT: 10 * ms, TPOT: 4 * ms,
			Progress: func(d, of int) { done, total = d, of }})
		if err != nil {
			t.Fatal(err)
		}
		if done != total || total != 200 {
			t.Errorf("progress ended at %d of %d", done, total)
		}
		for _, r := range rep.Runs {
			if r.Requests != 100 || r.Answered != 100 || r.Dropped != 0 || len(r.Errors) > 0 ||
				r.Tokens != 1100 || r.Late.Max != 0 {
				t.Errorf("%+v", r)
			}
			if !about(r.TTFT.P99, 10) || !about(r.TPOT.P50, 4) || !about(r.ITL.P90, 4) || r.ITL.Max != 4 ||
				r.TTFT.Count != 100 || r.ITL.Count != 1000 {
				t.Errorf("TTFT %+v, TPOT %+v, ITL %+v", r.TTFT, r.TPOT, r.ITL)
			}
			// The time is random, so that the rate is within 4 deviations of 100 requests' sum.
			if math.Abs(100/r.Seconds/r.Rate-1) > 0.4 || math.Abs(*r.Goodput*r.Seconds-100) > 1e-6 {
				t.Errorf("%v s, goodput %v", r.Seconds, *r.Goodput)
			}
		}
		if rep.Answered != 3 || rep.Differing != 0 || len(rep.Answers) != 64 {
			t.Errorf("%+v", rep)
		}
		text := rep.Text()
		if !strings.Contains(text, "50 requests/s: 100 requests") || strings.Count(text, "TTFT") != 2 {
			t.Error(text)
		}
	})
}

// TestServeGoodput has one answer in four miss a target.
func TestServeGoodput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := func(req *droverv1.GenerateRequest) ([]loadtest.Token, error) {
			tokens, _ := steady(req)
			if req.MaxTokens == 1 {
				tokens[0].After *= 2
			}
			return tokens, nil
		}
		trace := slices.Repeat([]time.Duration{0}, 40)
		rep, err := Serve(t.Context(), loadtest.Client(client), ServeOptions{Questions: questions(4),
			Trace: trace, TTFT: 15 * ms})
		if err != nil {
			t.Fatal(err)
		}
		if r := rep.Runs[0]; math.Abs(*r.Goodput*r.Seconds-30) > 1e-6 || r.Rate != 0 {
			t.Errorf("%v good of %d", *r.Goodput*r.Seconds, r.Answered)
		}
	})
}

// TestServeStall has a server that stands still for one second of ten. A loop that waits for
// answers would see a few slow requests; this one sees all that were due meanwhile.
func TestServeStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		client := func(req *droverv1.GenerateRequest) ([]loadtest.Token, error) {
			tokens, _ := steady(req)
			if at := time.Since(began); at >= 5*time.Second && at < 6*time.Second {
				tokens[0].After += 6*time.Second - at
			}
			return tokens, nil
		}
		rep, err := Serve(t.Context(), loadtest.Client(client), ServeOptions{Questions: questions(1),
			Rates: []float64{100}, Duration: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		r := rep.Runs[0]
		if r.TTFT.Max < 900 || r.TTFT.P99 < 700 || !about(r.TTFT.P50, 10) || r.TTFT.P90 > 300 {
			t.Errorf("TTFT %+v, want a tenth of the requests up to a second late", r.TTFT)
		}
		if r.Dropped != 0 || r.Late.Max != 0 {
			t.Errorf("dropped %d, sent %v ms late", r.Dropped, r.Late.Max)
		}
	})
}

// TestServeErrors has refused, slow and differing answers, and too many at once.
func TestServeErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		client := func(req *droverv1.GenerateRequest) ([]loadtest.Token, error) {
			switch req.MaxTokens {
			case 0:
				return nil, status.Error(codes.ResourceExhausted, "full")
			case 1:
				return []loadtest.Token{{After: time.Hour}}, nil
			}
			return []loadtest.Token{{After: ms / 2, IDs: []int32{calls.Add(1)}}}, nil
		}
		trace := []time.Duration{0, ms, 2 * ms, 3 * ms, 4 * ms, 5 * ms, 6 * ms}
		rep, err := Serve(t.Context(), loadtest.Client(client), ServeOptions{Questions: questions(3),
			Trace: trace, Timeout: time.Minute, MaxInflight: 2})
		if err != nil {
			t.Fatal(err)
		}
		// The hanging ones take both places: the last question and what follows is dropped.
		r := rep.Runs[0]
		if r.Answered != 1 || r.Errors["ResourceExhausted"] != 2 || r.Errors["DeadlineExceeded"] != 2 ||
			r.Dropped != 2 || r.Requests != 7 {
			t.Errorf("%+v", r)
		}
		rep, err = Serve(t.Context(), loadtest.Client(client), ServeOptions{Questions: questions(3)[2:],
			Trace: trace})
		if err != nil || rep.Differing != 6 || !strings.Contains(rep.Text(), "NOT") {
			t.Errorf("%v, %d differ, want 6", err, rep.Differing)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Serve(ctx, loadtest.Client(client), ServeOptions{Rates: []float64{1}}); err == nil {
			t.Error("interrupted: no error")
		}
	})
}

func TestServeOptions(t *testing.T) {
	for name, o := range map[string]ServeOptions{
		"no rate":        {},
		"rate and trace": {Rates: []float64{1}, Trace: []time.Duration{0}},
		"rate of 0":      {Rates: []float64{1, 0}},
		"rate of NaN":    {Rates: []float64{math.NaN()}},
		"target":         {Rates: []float64{1}, TTFT: -1},
		"in flight":      {Rates: []float64{1}, MaxInflight: -1},
	} {
		if _, err := Serve(t.Context(), loadtest.Client(steady), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestServeJSON holds the names of fields that programs read.
func TestServeJSON(t *testing.T) {
	text, err := json.Marshal(ServeReport{Runs: []ServeRun{{Errors: map[string]int{}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"model", "mode", "where", "seed", "questions", "runs", "rate",
		"requests", "answered", "dropped", "errors", "seconds", "tokens", "tokens_per_second",
		"ttft_ms", "tpot_ms", "itl_ms", "late_ms", "p50", "p90", "p99", "max", "mean", "count",
		"answers", "questions_answered", "differing"} {
		if !strings.Contains(string(text), `"`+name+`":`) {
			t.Errorf("no field %q in %s", name, text)
		}
	}
}
