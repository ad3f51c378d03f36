package bench

import (
	"fmt"
	"strings"

	"drover/internal/limits"
)

// Text is the report as a table for people.
func (r KernelReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, load %.1f, instructions %s of %s\n", r.CPU, threadsText(r.Threads),
		r.Load, r.Instructions, strings.Join(r.Flags, " "))
	for _, l := range []struct {
		name, unit string
		limits     []limits.Limit
	}{{"read", "GB/s", r.Limits.Read}, {"fma", "GFLOP/s", r.Limits.FMA},
		{"int8", "GOP/s", r.Limits.Int8}, {"int4", "GOP/s", r.Limits.Int4}} {
		for _, x := range l.limits {
			fmt.Fprintf(&b, "limit %-4s %-11s %7.1f %s (%.1f to %.1f), %s %s\n", l.name,
				threadsText(x.Threads), x.Median, l.unit, x.Min, x.Max, x.Class, x.Way)
		}
	}
	fmt.Fprintf(&b, "%-18s %-5s %4s %6s %6s %7s %8s %8s %-5s %8s  %s\n", "kernel", "mode", "m",
		"k", "n", "threads", "GB/s", "GFLOP/s", "limit", "fraction", "(min to max)")
	for _, x := range r.Results {
		fmt.Fprintf(&b, "%-18s %-5s %4d %6d %6d %7d %8s %8s %-5s %7.0f%%  (%.0f%% to %.0f%%)%s\n",
			x.Kernel, x.Mode, x.M, x.K, x.N, x.Threads, rateText(x.GBps), rateText(x.GFlops), x.Limit,
			100*x.Fraction, 100*x.Min, 100*x.Max, remarks(x))
	}
	var before KernelWork
	for _, x := range r.Skipped {
		before.M = x.M
		if x.KernelWork != before {
			fmt.Fprintf(&b, "not measured: %s %s, k %d, n %d, %s, m from %d: %s\n", x.Kernel,
				x.Mode, x.K, x.N, threadsText(x.Threads), x.M, x.Why)
		}
		before = x.KernelWork
	}
	for _, x := range r.Steps {
		fmt.Fprintf(&b, "a decode step of Llama 4 Maverick in %s on %s: %.0f ms, %.1f%% of it in small "+
			"kernels\n", x.Mode, threadsText(x.Threads), x.Milliseconds, 100*x.Small)
	}
	r.shortfalls(&b)
	return b.String()
}

func threadsText(n int) string {
	if n == 1 {
		return "1 thread"
	}
	return fmt.Sprintf("%d threads", n)
}

// rateText has two digits or more that matter, for rates from 0.01 on.
func rateText(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.2f", rate)
	}
	return fmt.Sprintf("%.1f", rate)
}

// remarks says what is special about a result.
func remarks(x KernelResult) string {
	var s string
	if x.Outputs > 0 {
		s += fmt.Sprintf(", %d outputs at a time", x.Outputs)
	}
	if x.Experts > 0 {
		s += fmt.Sprintf(", %d experts", x.Experts)
	}
	if x.Cached {
		s += ", in cache"
	}
	if x.below() {
		s += fmt.Sprintf(", below %.0f%%", 100*x.Goal)
	}
	return s
}

// below tells whether a goal is missed.
func (x KernelResult) below() bool { return x.Fraction < x.Goal }

// shortfalls writes a line for each kind of goal: how many are missed, and the worst.
func (r KernelReport) shortfalls(b *strings.Builder) {
	product := func(mode string, from, to int) func(KernelResult) bool {
		return func(x KernelResult) bool {
			return x.Kernel == kernelMatmul && x.Mode == mode && from <= x.M && x.M <= to
		}
	}
	for _, mode := range []string{"bf16", "fp8", "int8", "int4"} {
		r.shortfall(b, mode+" decode, m up to 2", product(mode, 1, 2))
		r.shortfall(b, mode+" products between, m 4 to 32", product(mode, 3, 63))
		r.shortfall(b, mode+" prefill, m from 64", product(mode, 64, 1<<30))
	}
	r.shortfall(b, "experts of a layer", func(x KernelResult) bool {
		return x.Kernel == kernelExperts
	})
	r.shortfall(b, "attention", func(x KernelResult) bool {
		return x.Kernel == kernelDecode || x.Kernel == kernelPrefill
	})
}

func (r KernelReport) shortfall(b *strings.Builder, name string, of func(KernelResult) bool) {
	var all, missed int
	var worst KernelResult
	for _, x := range r.Results {
		if x.Goal == 0 || !of(x) {
			continue
		}
		all++
		if x.below() {
			missed++
		}
		if all == 1 || x.Fraction < worst.Fraction {
			worst = x
		}
	}
	if all > 0 {
		fmt.Fprintf(b, "%s: %d of %d below the goal of %.0f%%, the lowest %.0f%%\n", name,
			missed, all, 100*worst.Goal, 100*worst.Fraction)
	}
}
