package load

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/load/loadtest"
	droverv1 "drover/proto/drover/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// three is an answer of three messages, the second with two tokens.
func three(first time.Duration) []loadtest.Token {
	return []loadtest.Token{{After: first, IDs: []int32{1}, Text: "a"},
		{After: 10 * ms, IDs: []int32{2, 3}, Text: "b"}, {After: 20 * ms, IDs: []int32{4}}}
}

func one() []Question { return []Question{{ID: "q", Request: &droverv1.GenerateRequest{}}} }

// TestRun checks when requests are sent, and the times of one answer.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var sent []time.Duration
		client := loadtest.Client(func(*droverv1.GenerateRequest) ([]loadtest.Token, error) {
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, time.Since(began))
			return three(5 * ms), nil
		})
		arrivals := []time.Duration{0, 7 * ms, 7 * ms, 50 * ms, 900 * ms}
		var records []Record
		sum, err := Run(t.Context(), Options{Client: client, Questions: one(),
			Arrivals: slices.Values(arrivals), Duration: 900 * ms,
			Each: func(r Record) { records = append(records, r) }})
		if err != nil || sum.Arrivals != 4 || sum.Dropped != 0 || len(records) != 4 {
			t.Fatalf("%+v, %v, %d records", sum, err, len(records))
		}
		if !slices.Equal(sent, arrivals[:4]) {
			t.Errorf("sent at %v, due at %v", sent, arrivals)
		}
		if took := sum.Ended.Sub(sum.Began); took != 85*ms {
			t.Errorf("took %v, want 85ms", took)
		}
		r := records[3]
		each, ok := r.PerToken()
		if r.FirstToken() != 5*ms || !ok || each != 10*ms || !slices.Equal(r.Tokens, []int32{1, 2, 3, 4}) {
			t.Errorf("first token after %v, each after %v, tokens %v", r.FirstToken(), each, r.Tokens)
		}
		var gaps []time.Duration
		r.Gaps(func(from, to time.Time) { gaps = append(gaps, to.Sub(from)) })
		if !slices.Equal(gaps, []time.Duration{10 * ms, 0, 20 * ms}) {
			t.Errorf("gaps %v", gaps)
		}
		if r.Answer != records[0].Answer || r.Answer == (Record{}).Answer {
			t.Error("equal answers have other hashes, or none")
		}
	})
}

// TestRunOpen has a server that answers slowly: later requests are sent all the same, up to the
// bound, and what is due beyond it is counted.
func TestRunOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := loadtest.Client(func(*droverv1.GenerateRequest) ([]loadtest.Token, error) {
			return three(10 * time.Second), nil
		})
		arrivals := func(yield func(time.Duration) bool) {
			for at := time.Duration(0); yield(at); at += 100 * ms {
			}
		}
		o := Options{Client: client, Questions: one(), Arrivals: arrivals, Requests: 50,
			Each: func(r Record) {
				if r.Sent != r.Due || r.Err != nil {
					t.Errorf("sent %v after it was due: %v", r.Sent.Sub(r.Due), r.Err)
				}
			}}
		if sum, err := Run(t.Context(), o); err != nil || sum.Arrivals != 50 || sum.Dropped != 0 {
			t.Errorf("%+v, %v", sum, err)
		}
		o.MaxInflight = 20
		if sum, err := Run(t.Context(), o); err != nil || sum.Arrivals != 50 || sum.Dropped != 30 {
			t.Errorf("at most 20 in flight: %+v, %v", sum, err)
		}
	})
}

// TestRunErrors has requests that fail or take too long, and a loop that is interrupted.
func TestRunErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := status.Error(codes.ResourceExhausted, "full")
		client := loadtest.Client(func(req *droverv1.GenerateRequest) ([]loadtest.Token, error) {
			if req.MaxTokens == 1 {
				return three(ms), refused
			}
			return three(time.Hour), nil
		})
		questions := []Question{{"fails", &droverv1.GenerateRequest{MaxTokens: 1}},
			{"hangs", &droverv1.GenerateRequest{}}}
		var records []Record
		o := Options{Client: client, Questions: questions, Timeout: time.Second,
			Arrivals: slices.Values([]time.Duration{0, ms}),
			Each:     func(r Record) { records = append(records, r) }}
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		fails, hangs := records[0], records[1]
		if !errors.Is(fails.Err, refused) || len(fails.Tokens) != 4 || fails.Answer != (Record{}).Answer {
			t.Errorf("%+v, want its four tokens and that it was refused", fails)
		}
		if !errors.Is(hangs.Err, context.DeadlineExceeded) || hangs.Ended.Sub(hangs.Due) != time.Second {
			t.Errorf("%v after %v, want the end of the time", hangs.Err, hangs.Ended.Sub(hangs.Due))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
		defer cancel()
		o.Arrivals = slices.Values([]time.Duration{0, ms, time.Hour})
		if sum, err := Run(ctx, o); !errors.Is(err, context.DeadlineExceeded) || sum.Arrivals != 2 {
			t.Errorf("interrupted: %+v, %v", sum, err)
		}
	})
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no questions": {},
		"in flight":    {Questions: one(), MaxInflight: maxInflight + 1},
		"timeout":      {Questions: one(), Timeout: -1},
	} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestPoisson looks at 100,000 arrivals: their rate, how they scatter, and the seed.
func TestPoisson(t *testing.T) {
	const n, rate = 100_000, 25.0
	var gaps []float64
	last := time.Duration(0)
	for at := range Poisson(7, rate) {
		if at < last {
			t.Fatalf("%v comes after %v", at, last)
		}
		gaps = append(gaps, (at - last).Seconds())
		if last = at; len(gaps) == n {
			break
		}
	}
	mean := last.Seconds() / n
	variance := 0.0
	for _, g := range gaps {
		variance += (g - mean) * (g - mean) / n
	}
	// The mean and the deviation of an exponential distribution are equal; 5 standard errors.
	if math.Abs(mean*rate-1) > 5/math.Sqrt(n) || math.Abs(math.Sqrt(variance)*rate-1) > 0.02 {
		t.Errorf("mean %v, deviation %v, want %v", mean, math.Sqrt(variance), 1/rate)
	}
	first := func(seed uint64) time.Duration {
		for at := range Poisson(seed, rate) {
			return at
		}
		return 0
	}
	if first(7).Seconds() != gaps[0] || first(8) == first(7) {
		t.Error("the seed does not say when requests arrive")
	}
}

func TestReadTrace(t *testing.T) {
	got, err := ReadTrace(strings.NewReader("# seconds\n0\n 0.5 \n\n0.5\n2e1\n"))
	if want := []time.Duration{0, 500 * ms, 500 * ms, 20 * time.Second}; err != nil ||
		!slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for text, want := range map[string]string{
		"1\n0.5": "line 2", "-1": "line 1", "NaN": "line 1", "\n\nsoon": "line 3", "1e300": "line 1",
	} {
		if _, err := ReadTrace(strings.NewReader(text)); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestHistogram compares with sorted times, of several kinds.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() time.Duration{
		"exponential": func() time.Duration { return seconds(random.ExpFloat64() / 100) },
		"wide":        func() time.Duration { return seconds(math.Exp(random.NormFloat64()*4) / 1e3) },
		"equal":       func() time.Duration { return 137 * time.Microsecond },
		"two":         func() time.Duration { return ms + time.Second*time.Duration(random.IntN(2)) },
	} {
		for _, n := range []int{1, 2, 99, 5000} {
			var h Histogram
			var all []time.Duration
			for range n {
				d := draw()
				h.Add(d)
				all = append(all, d)
			}
			slices.Sort(all)
			for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 1} {
				want := all[int(math.Ceil(q*float64(n)))-1]
				got := h.Quantile(q)
				if diff := math.Abs(float64(got - want)); diff > 0.0051*float64(want)+1000 {
					t.Errorf("%s, %d times, quantile %v: %v, want %v", name, n, q, got, want)
				}
			}
			if got := h.Quantiles(); got.Max != Milliseconds(all[n-1]) || got.Count != uint64(n) {
				t.Errorf("%s: largest of %d is %v, want %v of %d", name, got.Count, got.Max, all[n-1], n)
			}
		}
	}
	var h Histogram
	if h.Quantiles() != (Quantiles{}) {
		t.Errorf("of nothing: %+v", h.Quantiles())
	}
	h.Add(0)
	h.Add(1000 * time.Hour)
	if h.Quantile(0.5) != 0 || h.Quantile(0.9) < 5*time.Hour || h.largest != 1000*time.Hour {
		t.Errorf("out of range: %+v", h.Quantiles())
	}
}

func TestQuestions(t *testing.T) {
	questions, err := Mix()
	if err != nil {
		t.Fatal(err)
	}
	tools, sampled := 0, 0
	for _, q := range questions {
		s := q.Request.Sampling
		if s.Seed == nil || s.Temperature == nil {
			t.Errorf("%s has more than one answer", q.ID)
		}
		if s.GetTemperature() > 0 {
			sampled++
		}
		if len(q.Request.GetChat().ToolsJson) > 0 {
			tools++
		}
	}
	if len(questions) < 20 || tools < 4 || sampled < 8 || sampled == len(questions) {
		t.Errorf("%d questions, %d sampled, %d with tools", len(questions), sampled, tools)
	}
	path := filepath.Join(t.TempDir(), "in.jsonl")
	for text, ok := range map[string]bool{"{\"prompt\":\"a\"}\n{\"id\":7,\"prompt\":\"b\",\"seed\":5}": true,
		"": false, "{}": false, "not json": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadQuestions(path)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if ok && (len(got) != 2 || *got[0].Request.Sampling.Seed != 0 || got[1].ID != "7" ||
			*got[1].Request.Sampling.Seed != 5) {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if _, err := ReadQuestions(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no file: no error")
	}
}

func TestAnswers(t *testing.T) {
	a := NewAnswers(2)
	questions := []Question{{ID: "a"}, {ID: "b"}}
	add := func(question int, answer byte) bool {
		r := Record{Question: question}
		r.Answer[0] = answer
		return a.Add(&r)
	}
	first, again := add(0, 1), add(0, 1)
	if !first || !again || a.Known() != 1 || a.Differ != 0 {
		t.Errorf("equal answers: %+v", a)
	}
	before := a.Hash(questions)
	if add(0, 2) || a.Differ != 1 || a.Hash(questions) != before {
		t.Errorf("an answer that differs: %+v", a)
	}
	if !add(1, 1) || a.Hash(questions) == before || a.Known() != 2 {
		t.Error("one more question, the same hash")
	}
}
