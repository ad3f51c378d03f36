package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
			j := job{KernelWork: tc.work, parts: []part{{tc.bytes, tc.flops}}, arithmetic: limits.FMA}
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
	// Two parts, one of them bound by reading 4 GB, the other by 20 GOP: 0.4 and 0.2 s.
	both := job{KernelWork: product, parts: []part{{4e9, 1e9}, {1e9, 20e9}}, arithmetic: limits.Int8}
	r, err := both.result([]sample{{10, 100, 1}})
	if err != nil || !near(r.Fraction, 0.6) || r.Limit != "read" || !near(r.GBps, 5) {
		t.Errorf("two parts: %+v, error %v", r, err)
	}
	j := job{KernelWork: product, parts: []part{{1, 1}}, arithmetic: limits.FMA}
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
		"float32":   {KernelWork{Kernel: kernelMatmul, Mode: "f32", M: 64}, 0},
		"int8":      {KernelWork{Kernel: kernelMatmul, Mode: "int8", M: 1}, 0.88},
		"fp8":       {KernelWork{Kernel: kernelMatmul, Mode: "fp8", M: 2}, 0.88},
		"fp8 more":  {KernelWork{Kernel: kernelMatmul, Mode: "fp8", M: 64}, 0.75},
		"int4":      {KernelWork{Kernel: kernelMatmul, Mode: "int4", M: 2}, 0.85},
		"int4 more": {KernelWork{Kernel: kernelMatmul, Mode: "int4", M: 256}, 0.75},
		"experts":   {KernelWork{Kernel: kernelExperts, Mode: "int4", M: 64}, 0.8},
		"in cache":  {KernelWork{Kernel: kernelMatmul, Mode: "bf16", M: 1, Cached: true}, 0},
		"attention": {KernelWork{Kernel: kernelPrefill, Mode: "f32", M: 64}, 0.75},
		"norm":      {KernelWork{Kernel: kernelRMSNorm, Mode: "f32", M: 1}, 0},
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
	return job{w, []part{{5e6, 10 * float64(rows)}}, limits.FMA, func(int) {
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
	rep, err := Kernels(t.Context(), KernelOptions{Quick: true, tiny: true})
	if err != nil {
		t.Fatal(err)
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
	has(t, doc, "cpu", "flags", "threads", "load", "instructions", "limits", "results", "skipped",
		"steps")
	of := doc["limits"].(map[string]any)
	has(t, of, "read_gbps", "fma_gflops", "int8_gops", "int4_gops")
	has(t, of["read_gbps"].([]any)[0].(map[string]any), "threads", "class", "way", "min", "median",
		"max")
	has(t, doc["results"].([]any)[0].(map[string]any), "kernel", "mode", "class", "instructions", "m", "n", "k",
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
	for name, opts := range map[string]KernelOptions{"quick": {Quick: true}, "all": {}} {
		for _, threads := range []int{2, 128} {
			p := planner{opts, threads, memory{0, mostWeights}}
			measured := map[string]bool{}
			for _, k := range kernelPlan(opts, threads, p.memory) {
				measured[fmt.Sprintf("%s %s %d×%d", k.Kernel, k.Mode, k.K, k.N)] = true
			}
			for _, want := range []string{"matmul f32 5120×16384", "matmul bf16 5120×16384",
				"matmul int8 8192×5120", "matmul int4 5120×5120", "matmul int4 5120×1024",
				"matmul fp8 5120×16384", "matmul int8 2048×1024", "matmul bf16 5120×202048", "experts int4 2048×2048",
				"experts int8 5120×16384", "topk f32 128×128",
				"attention_prefill int8 5120×512", "attention_decode bf16 5120×512"} {
				if !measured[want] {
					t.Errorf("%s, %d threads: %s is not measured", name, threads, want)
				}
			}
			for _, f := range []kernel.Format{kernel.WeightsF32, kernel.WeightsInt4} {
				s := shape{hidden, 202048, false}
				n := p.outputs(s, f)
				size := kernel.MatrixBytes(n, s.k, f)
				if all := size * p.copies(size); n < 64 || all > mostWeights || all < p.walked()/2 {
					t.Errorf("%s: the head in %v: %d outputs, %d bytes", name, f, n, all)
				}
			}
			if w := p.attention(kernelDecode, kernel.WeightsF32, 65536, 1); w.N < 128 ||
				w.N*2*kvHeads*headDim*4*threads > mostWeights {
				t.Errorf("%s: context of %d", name, w.N)
			}
		}
	}
}

// TestStepShares computes a step of which all rates are known.
func TestStepShares(t *testing.T) {
	const rate = 1e-9 // GFLOP/s: an operation a second
	results := []KernelResult{
		{KernelWork: KernelWork{Kernel: kernelMatmul, Mode: "int4", M: 1, Threads: 2, K: hidden,
			N: 2 * expertWidth}, GFlops: 1e3 * rate},
		{KernelWork: KernelWork{Kernel: kernelDecode, Mode: "bf16", M: 1, Threads: 2, K: 5120,
			N: stepContext}, GFlops: rate},
	}
	small := 0.0
	for name, outputs := range smallOutputs {
		small += outputs * float64(newSmallKernel(name).flops)
		results = append(results, KernelResult{KernelWork: KernelWork{Kernel: name, Mode: "f32",
			M: 1, Threads: 1}, GFlops: rate})
	}
	all := small + 2*stepWeights/1e3 + layers*4*stepContext*heads*headDim
	got := stepShares(results)
	if len(got) != 1 || got[0].Mode != "int4" || got[0].Threads != 2 ||
		!near(got[0].Small, small/all) || !near(got[0].Milliseconds, 1000*all) {
		t.Errorf("%+v, want %v of %v s", got, small/all, all)
	}
	if got := stepShares(results[:3]); len(got) != 0 {
		t.Errorf("without all rates: %+v", got)
	}
}

// TestKernelInstructions measures a lower set of instructions, and leaves all as it was.
func TestKernelInstructions(t *testing.T) {
	before := kernel.Instructions()
	rep, err := Kernels(t.Context(), KernelOptions{Quick: true, tiny: true, Instructions: "go"})
	if err != nil {
		t.Fatal(err)
	}
	if now := kernel.Instructions(); now != before {
		t.Errorf("instructions %s, before %s", now, before)
	}
	if rep.Instructions != "go" || rep.Limits.Int8[0].Class != "go" ||
		rep.Results[0].Instructions != "go" {
		t.Errorf("report %+v", rep)
	}
	if _, err := Kernels(t.Context(), KernelOptions{Instructions: "sse9"}); err == nil {
		t.Error("unknown instructions: no error")
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
