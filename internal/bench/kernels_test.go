package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/limits"
	"drover/kernel"
)

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Abs(want) }

func TestKernelResult(t *testing.T) {
	product := KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: 1}
	cached := product
	cached.Cached = true
	for name, tc := range map[string]struct {
		work         KernelWork
		bytes, flops float64
		samples      []sample
		limit        string
		want         [3]float64 // of the fraction: smallest, median, largest
		gbps, gflops float64
	}{
		// 2 GB at 10 GB/s take 0.2 s, so 5 calls a second are the limit.
		"reading": {product, 2e9, 1e9, []sample{{10, 100, 4}}, "read", [3]float64{0.8, 0.8, 0.8}, 8, 4},
		// 50 GFLOP at 100 GFLOP/s take 0.5 s.
		"computing": {product, 2e9, 50e9, []sample{{10, 100, 1}}, "fma",
			[3]float64{0.5, 0.5, 0.5}, 2, 50},
		"in cache": {cached, 2e9, 1e9, []sample{{10, 100, 50}}, "fma", [3]float64{0.5, 0.5, 0.5}, 100, 50},
		// Each burst is compared with the limit beside it: 4/5, 2/2.5, 3/5.
		"pairs": {product, 2e9, 1e9, []sample{{10, 100, 4}, {5, 100, 2}, {10, 100, 3}}, "read",
			[3]float64{0.6, 0.8, 0.8}, 6, 3},
	} {
		t.Run(name, func(t *testing.T) {
			j := job{KernelWork: tc.work, bytes: tc.bytes, flops: tc.flops}
			r, err := j.result(tc.samples)
			if err != nil {
				t.Fatal(err)
			}
			if r.Limit != tc.limit || !near(r.Fraction, tc.want[1]) ||
				!near(r.Min, tc.want[0]) || !near(r.Max, tc.want[2]) {
				t.Errorf("%+v, want %s %v", r, tc.limit, tc.want)
			}
			if !near(r.GBps, tc.gbps) || !near(r.GFlops, tc.gflops) {
				t.Errorf("%v GB/s, %v GFLOP/s, want %v and %v", r.GBps, r.GFlops, tc.gbps, tc.gflops)
			}
		})
	}
	j := job{KernelWork: product, bytes: 1, flops: 1}
	for _, s := range []sample{{0, 1, 1}, {1, 0, 1}, {1, 1, 0}, {1, 1, math.Inf(1)},
		{math.NaN(), 1, 1}} {
		if _, err := j.result([]sample{s}); err == nil {
			t.Errorf("sample %v: no error", s)
		}
	}
}

func TestKernelGoals(t *testing.T) {
	for name, tc := range map[string]struct {
		w    KernelWork
		goal float64
	}{
		"decode":    {KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: 2}, 0.9},
		"between":   {KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: 16}, 0.8},
		"prefill":   {KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: 64}, 0.8},
		"float32":   {KernelWork{Kernel: kernelMatmul, Mode: "exact", M: 64}, 0},
		"in cache":  {KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: 1, Cached: true}, 0},
		"attention": {KernelWork{Kernel: kernelPrefill, Mode: "exact", M: 64}, 0.75},
		"norm":      {KernelWork{Kernel: kernelRMSNorm, Mode: "exact", M: 1}, 0},
	} {
		if got := tc.w.goal(); got != tc.goal {
			t.Errorf("%s: goal %v, want %v", name, got, tc.goal)
		}
	}
}

// fake is a machine whose clock moves only when something is measured, and that writes down what.
type fake struct {
	kernelBench
	clock time.Time
	log   []string
}

func newFake() *fake {
	f := &fake{clock: time.Unix(0, 0)}
	f.kernelBench = kernelBench{
		budget:   budget{job: 10 * time.Millisecond, call: 400 * time.Millisecond},
		now:      func() time.Time { return f.clock },
		deadline: f.clock.Add(time.Hour), rep: &KernelReport{},
		burst: func(kind limits.Kind, _ int) float64 {
			f.clock = f.clock.Add(3 * time.Millisecond)
			f.log = append(f.log, map[limits.Kind]string{limits.Read: "read", limits.FMA: "fma"}[kind])
			return 10
		},
		together: func(threads int, call func(int)) float64 {
			before := f.clock
			call(0)
			f.log = append(f.log, "kernel")
			return float64(threads) / f.clock.Sub(before).Seconds()
		},
	}
	return f
}

// job takes 1 ms for each row of a call.
func (f *fake) job(rows, threads int) job {
	w := KernelWork{Kernel: kernelMatmul, Mode: "bf16", N: 8, K: 4, M: rows, Threads: threads}
	return job{w, 5e6, 10 * float64(rows), func(int) {
		f.clock = f.clock.Add(time.Duration(rows) * time.Millisecond)
	}}
}

func (f *fake) subject(rows ...int) subjectKernel {
	return subjectKernel{KernelWork{Kernel: kernelMatmul, Mode: "bf16", N: 8, K: 4}, rows,
		func() (func(rows, threads int) job, error) { return f.job, nil }}
}

func TestKernelTurns(t *testing.T) {
	f := newFake()
	took, err := f.measure(t.Context(), f.job(4, 2))
	if err != nil {
		t.Fatal(err)
	}
	if took != time.Millisecond {
		t.Errorf("a row takes %v, want 1ms on each of two threads", took)
	}
	want := []string{"kernel"} // the one that does not count
	for range minPairs {
		want = append(want, "read", "fma", "kernel")
	}
	if !slices.Equal(f.log, want) {
		t.Errorf("turns %q, want %q", f.log, want)
	}
	// 500 calls a second of 5 MB are a quarter of 10 GB/s.
	if r := f.rep.Results[0]; !near(r.Fraction, 0.25) || r.Limit != "read" || !near(r.GBps, 2.5) {
		t.Errorf("result %+v", r)
	}
	f.budget.job = time.Hour
	f.log = nil
	if _, err := f.measure(t.Context(), f.job(1, 1)); err != nil || len(f.log) != 1+3*maxPairs {
		t.Errorf("with much time: %d turns, error %v", len(f.log), err)
	}
}

func TestKernelSkips(t *testing.T) {
	f := newFake()
	var dones []int
	f.opts.Progress = func(done, total int) {
		if total != 8 {
			t.Errorf("total %d, want 8", total)
		}
		dones = append(dones, done)
	}
	plan := []subjectKernel{f.subject(1, 400, 512, 600)}
	if err := f.run(t.Context(), plan, []int{1, 2}); err != nil {
		t.Fatal(err)
	}
	var measured, skipped []int
	for _, r := range f.rep.Results {
		measured = append(measured, r.M)
	}
	for _, r := range f.rep.Skipped {
		skipped = append(skipped, r.M)
	}
	// A call of 512 rows would take 512 ms, more than 400.
	if !slices.Equal(measured, []int{1, 400, 1, 400}) ||
		!slices.Equal(skipped, []int{512, 600, 512, 600}) {
		t.Errorf("measured %v, skipped %v", measured, skipped)
	}
	if !slices.Equal(dones, []int{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("progress %v", dones)
	}
	if why := f.rep.Skipped[0].Why; why != "a call would take about 0.5 s" {
		t.Errorf("skipped because %q", why)
	}
	if text := f.rep.Text(); strings.Count(text, "not measured") != 2 ||
		!strings.Contains(text, "k 4, n 8, 1 thread, m from 512: a call") {
		t.Errorf("text:\n%s", text)
	}

	f = newFake()
	f.deadline = f.clock
	if err := f.run(t.Context(), []subjectKernel{f.subject(1)}, []int{1}); err != nil {
		t.Fatal(err)
	}
	if len(f.rep.Results) != 0 || len(f.rep.Skipped) != 1 || f.rep.Skipped[0].Why != "the time is up" {
		t.Errorf("after the deadline: %+v", f.rep)
	}
}

func TestKernelErrors(t *testing.T) {
	f := newFake()
	broken := errors.New("broken")
	k := subjectKernel{KernelWork{Kernel: kernelMatmul}, []int{1},
		func() (func(rows, threads int) job, error) { return nil, broken }}
	if err := f.run(t.Context(), []subjectKernel{k}, []int{1}); !errors.Is(err, broken) {
		t.Errorf("error %v, want broken", err)
	}
	f.burst = func(limits.Kind, int) float64 { return 0 }
	if err := f.run(t.Context(), []subjectKernel{f.subject(1)}, []int{1}); err == nil {
		t.Error("a limit of 0: no error")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := f.run(ctx, []subjectKernel{f.subject(1)}, []int{1}); !errors.Is(err, broken) {
		t.Errorf("interrupted: error %v", err)
	}
	if _, err := f.measure(ctx, f.job(1, 1)); !errors.Is(err, broken) {
		t.Errorf("interrupted in a measurement: error %v", err)
	}
}

// TestShortfalls checks the lines about goals.
func TestShortfalls(t *testing.T) {
	product := func(m int, fraction float64) KernelResult {
		w := KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: m}
		return KernelResult{KernelWork: w, Fraction: fraction, Goal: w.goal()}
	}
	text := KernelReport{Results: []KernelResult{
		product(1, 0.95), product(2, 0.5), product(8, 0.8), product(64, 0.7), product(512, 0.6),
		{KernelWork: KernelWork{Kernel: kernelDecode, M: 1}, Fraction: 0.76, Goal: 0.75},
		{KernelWork: KernelWork{Kernel: kernelRMSNorm, M: 1}, Fraction: 0.1},
	}}.Text()
	want := `bf16 decode, m up to 2: 1 of 2 below the goal of 90%, the lowest 50%
bf16 products between, m 4 to 32: 0 of 1 below the goal of 80%, the lowest 80%
bf16 prefill, m from 64: 2 of 2 below the goal of 80%, the lowest 60%
attention: 0 of 1 below the goal of 75%, the lowest 76%
`
	if !strings.HasSuffix(text, want) || strings.Count(text, ", below ") != 3 {
		t.Errorf("text:\n%s\nwant at its end:\n%s", text, want)
	}
}

// TestKernelsTiny measures small shapes for real.
func TestKernelsTiny(t *testing.T) {
	begun := time.Now()
	rep, err := Kernels(t.Context(), KernelOptions{Quick: true, tiny: true})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if len(rep.Results) == 0 {
		t.Fatal("no results")
	}
	for _, r := range rep.Results {
		if !(0 < r.Min && r.Min <= r.Fraction && r.Fraction <= r.Max) || !(r.GBps > 0) ||
			!(r.GFlops > 0) || math.IsInf(r.Max, 0) || r.Limit == "" {
			t.Errorf("result %+v", r)
		}
	}
	text, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	has(t, doc, "cpu", "flags", "threads", "load", "limits", "results", "skipped")
	of := doc["limits"].(map[string]any)
	has(t, of, "read_gbps", "fma_gflops")
	has(t, of["read_gbps"].([]any)[0].(map[string]any), "threads", "class", "way", "min", "median",
		"max")
	has(t, doc["results"].([]any)[0].(map[string]any), "kernel", "mode", "class", "m", "n", "k",
		"threads", "gbps", "gflops", "limit", "fraction", "min", "max")
}

func has(t *testing.T, doc map[string]any, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if _, ok := doc[k]; !ok {
			t.Errorf("%s is not in %v", k, doc)
		}
	}
}

// TestKernelPlan checks what is measured, and that it fits the memory.
func TestKernelPlan(t *testing.T) {
	for name, tc := range map[string]struct {
		opts    KernelOptions
		threads int
		kernels int
	}{
		"quick":        {KernelOptions{Quick: true}, 2, 2*5 + 2*2 + 3},
		"all":          {KernelOptions{}, 2, 2*8 + 2*3 + 3},
		"many threads": {KernelOptions{}, 128, 2*8 + 2*3 + 3},
	} {
		p := planner{tc.opts, tc.threads, memory{0, mostWeights}}
		if got := len(kernelPlan(tc.opts, tc.threads, p.memory)); got != tc.kernels {
			t.Errorf("%s: %d kernels, want %d", name, got, tc.kernels)
		}
		for _, d := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsF32} {
			s := shape{hidden, 202048, false}
			n := p.outputs(s, d)
			size := kernel.MatrixBytes(n, s.k, d)
			if all := size * p.copies(size); n < 64 || all > mostWeights || all < p.walked()/2 {
				t.Errorf("%s: the head in %s: %d outputs, %d bytes", name, d, n, all)
			}
		}
		if w := p.attention(kernelDecode, 65536, 1); w.N < 128 ||
			w.N*2*kvHeads*headDim*4*tc.threads > mostWeights {
			t.Errorf("%s: context of %d", name, w.N)
		}
	}
}

func TestWalk(t *testing.T) {
	for threads, want := range map[int][]int{1: {0, 1, 2, 3, 4, 5, 0}, 2: {0, 2, 4, 0}, 6: {0, 0}} {
		w := newWalk(6, threads)
		for thread := range threads {
			for i, x := range want {
				if got := w.next(thread); got != x+thread {
					t.Fatalf("%d threads, thread %d, turn %d: piece %d, want %d", threads, thread, i,
						got, x+thread)
				}
			}
		}
	}
}
