package bench

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/testcluster"
	"drover/kernel"
)

// clockwork is a subject whose times are made up.
type clockwork struct {
	context int
	calls   []string
	fail    error
}

func (c *clockwork) limits() (int, int) { return c.context, 100 }

func (c *clockwork) prefill(_ context.Context, prompt []int32) (timing, error) {
	c.calls = append(c.calls, "prefill")
	took := time.Duration(len(c.calls)) * time.Millisecond * time.Duration(len(prompt))
	return timing{len(prompt), took, 2 * took}, c.fail
}

func (c *clockwork) decode(_ context.Context, prompts [][]int32, steps int) ([]timing, error) {
	return slices.Repeat([]timing{{tokens: len(prompts), wall: time.Millisecond}}, steps), c.fail
}

func (c *clockwork) share() *Share { return &Share{Attention: 0.75, Idle: 0.25} }

func TestMeasure(t *testing.T) {
	var rep Report
	last := 0
	opts := Options{Quick: true, Progress: func(done, total int) { last = total - done }}
	opts.setDefaults()
	err := measure(t.Context(), &clockwork{context: 300}, &rep, opts)
	if err != nil {
		t.Fatal(err)
	}
	if last != 0 {
		t.Errorf("progress ended with %d left", last)
	}
	var got []string
	for _, r := range rep.Runs {
		got = append(got, r.Kind)
	}
	// 512 tokens do not fit a context of 300.
	want := []string{"prefill", "prefill", "decode", "decode", "decode"}
	if !slices.Equal(got, want) {
		t.Fatalf("runs %v, want %v", got, want)
	}
	// The first prefill's calls take 1, 2 and 3 ms a token, and the first does not count.
	r := rep.Runs[0].TokensPerSecond
	if math.Abs(r.Max-500) > 1e-6 || math.Abs(r.Min-1000./3) > 1e-6 ||
		math.Abs(r.Median-(r.Min+r.Max)/2) > 1e-6 {
		t.Errorf("spread %+v", r)
	}
	// The CPU time is twice the wall time, and unknown in decode.
	if cpu := rep.Runs[0].TokensPerCPUSecond; cpu == nil || math.Abs(cpu.Max-250) > 1e-6 {
		t.Errorf("by CPU time %+v", cpu)
	}
	if cpu := rep.Runs[4].TokensPerCPUSecond; cpu != nil {
		t.Errorf("decode by CPU time %+v", cpu)
	}
	if r := rep.Runs[4]; r.Batch != 32 || math.Abs(r.TokensPerSecond.Min-32_000) > 1e-6 {
		t.Errorf("decode of 32: %+v", r)
	}
	if text := rep.Text(); !strings.Contains(text, "75%") || strings.Count(text, "\n") != 7 {
		t.Errorf("text:\n%s", text)
	}
}

func TestMeasureErrors(t *testing.T) {
	broken := errors.New("broken")
	var rep Report
	var opts Options
	opts.setDefaults()
	err := measure(t.Context(), &clockwork{context: 300, fail: broken}, &rep, opts)
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want broken", err)
	}
	if err := measure(t.Context(), &clockwork{context: 9}, &rep, opts); err == nil {
		t.Error("a context of 9 tokens: no error")
	}
}

func TestOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"batch of 0":  {Batches: []int{1, 0}},
		"large batch": {Batches: []int{maxBatch + 1}},
		"prompt":      {Prompts: []int{-1}},
		"piece":       {PieceTokens: -1},
		"threads":     {Threads: -1},
	} {
		opts.setDefaults()
		if err := opts.validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	opts := Options{Batches: []int{4, 400}, Prompts: []int{500, 512}, PromptTokens: 20}
	opts.setDefaults()
	want := []cell{{"prefill", 1, 500}, {"decode", 4, 20}, {"decode", 400, 20}}
	if got := opts.plan(512, 8); !slices.Equal(got, want) || opts.validate() != nil {
		t.Errorf("plan %v, want %v", got, want)
	}
}

// TestModels measures the demo model both ways.
func TestModels(t *testing.T) {
	dir := testcluster.Path("models/tiny-maverick")
	rep, err := Local(t.Context(), dir, kernel.BF16, Options{Quick: true})
	check(t, rep, err)
	if rep.Start == nil || !(rep.Start.Seconds > 0) {
		t.Errorf("start %+v", rep.Start)
	}
	for _, r := range rep.Runs {
		if runtime.GOOS == "linux" && r.TokensPerCPUSecond == nil {
			t.Errorf("%s of %d: nothing by CPU time", r.Kind, r.Batch)
		}
		s := r.Share
		if s == nil {
			t.Fatalf("%+v: no share of time", r)
		}
		sum := s.Attention + s.Gate + s.Shared + s.Experts + s.Wire + s.Head + s.Other + s.Idle
		if math.Abs(sum-1) > 0.02 || s.Experts <= 0 || s.Attention <= 0 {
			t.Errorf("shares %+v sum to %v", *s, sum)
		}
	}
	rep, err = Local(t.Context(), dir, kernel.BF16, Options{Quick: true, Nodes: 3})
	check(t, rep, err)
	if want := "3 expert nodes on loopback, mutual TLS"; !strings.Contains(rep.Text(), want) {
		t.Errorf("the table does not say %s:\n%s", want, rep.Text())
	}
	for _, r := range rep.Runs {
		if s := r.Share; s == nil || s.Wire <= 0 || s.Experts <= 0 {
			t.Errorf("on nodes: %+v, shares %+v", r, s)
		}
	}
	c := testcluster.Start(t, testcluster.Options{Mode: kernel.BF16})
	rep, err = Remote(t.Context(), c, "in a test", Options{Quick: true})
	check(t, rep, err)
}

func check(t *testing.T, rep Report, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Runs) != 6 {
		t.Errorf("%d runs, want 6", len(rep.Runs))
	}
	for _, r := range rep.Runs {
		s := r.TokensPerSecond
		if !(0 < s.Min && s.Min <= s.Median && s.Median <= s.Max) {
			t.Errorf("%+v", r)
		}
	}
	t.Log("\n" + rep.Text())
}

func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meter{}
		m.compute(1) // before the coordinator waits
		time.Sleep(time.Second)
		m.wait(true)
		time.Sleep(2 * time.Second)
		m.compute(1) // a second node
		m.compute(-1)
		time.Sleep(4 * time.Second)
		m.compute(-1)
		time.Sleep(8 * time.Second) // the wire
		m.wait(false)
		if got := m.taken(); got != 6*time.Second {
			t.Errorf("nodes computed for %v of the waiting, want 6s", got)
		}
		if got := m.taken(); got != 0 {
			t.Errorf("taken again: %v", got)
		}
	})
}

func TestTogether(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	// From 4 to 10: half of the first run's 12 tokens after its first, all of the second's 6.
	n, window, err := together([]run{{at(0), at(12), 13}, {at(4), at(10), 7}})
	if n != 12 || window != 6*time.Second || err != nil {
		t.Errorf("%d tokens in %v, %v; want 12 in 6s", n, window, err)
	}
	if _, _, err := together([]run{{at(0), at(3), 4}, {at(3), at(6), 4}}); err == nil {
		t.Error("runs one after the other ran together")
	}
}
