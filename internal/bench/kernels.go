package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"drover/internal/limits"
	"drover/kernel"
)

// KernelOptions says what of the kernels to measure. The zero value measures everything.
type KernelOptions struct {
	// Quick ends within a minute: large matrices are cut, some sizes are left out.
	Quick bool
	// Threads is the number of threads that "all" means. Zero means as many as processors may be
	// used.
	Threads int
	// Instructions is the set of instructions to measure, for kernels and limits alike, one of
	// limits.Classes. Empty means the best that this machine has.
	Instructions string
	// Progress, if not nil, is called after each measurement with how many are done.
	Progress func(done, total int)

	tiny bool // for tests: small shapes and little memory
}

// KernelReport is what was measured of the kernels.
type KernelReport struct {
	CPU   string   `json:"cpu"`
	Flags []string `json:"flags"`
	// Threads is the number of threads that "all" means.
	Threads int `json:"threads"`
	// Load is the load average when the measurement began: what else the machine did.
	Load float64 `json:"load"`
	// Instructions is the set of instructions that kernels and limits use.
	Instructions string          `json:"instructions"`
	Limits       limits.Limits   `json:"limits"`
	Results      []KernelResult  `json:"results"`
	Skipped      []SkippedKernel `json:"skipped"`
	// Steps tell the part of the small kernels in a step.
	Steps []StepShare `json:"steps"`
}

// KernelWork says what a kernel was measured with.
type KernelWork struct {
	// Kernel is one of the names in kernels_plan.go.
	Kernel string `json:"kernel"`
	// Mode is the format of the weights, or of the keys and values: f32, bf16, int8, int4 or fp8.
	Mode string `json:"mode"`
	// Class is the kernel class of the numeric mode with this format.
	Class string `json:"class"`
	// Instructions is the set of instructions in use.
	Instructions string `json:"instructions"`
	// M is the number of rows, N of outputs or positions of context, K of inputs. Of experts, M is
	// the number of rows of all of them together.
	M       int `json:"m"`
	N       int `json:"n"`
	K       int `json:"k"`
	Threads int `json:"threads"`
	// Outputs is how many of the N outputs one call computes, 0 where all.
	Outputs int `json:"outputs,omitempty"`
	// Experts is how many experts a call computes.
	Experts int `json:"experts,omitempty"`
	// Cached says that the weights fit the caches, so that memory is no limit.
	Cached bool `json:"cached,omitempty"`
}

// KernelResult is the speed of a kernel on all its threads. Rates are medians, by the time that
// threads ran.
type KernelResult struct {
	KernelWork
	// GBps counts the bytes of weights, or of keys and values, or of rows, read once.
	GBps float64 `json:"gbps"`
	// GFlops counts operations, those on integers too.
	GFlops float64 `json:"gflops"`
	// Limit is what bounds this work on this machine: read, fma, int8 or int4. Fraction is
	// the part of it that is reached: the median over pairs of one burst of the limit and one of
	// the kernel, with the smallest and largest.
	Limit    string  `json:"limit"`
	Fraction float64 `json:"fraction"`
	Min      float64 `json:"min"`
	Max      float64 `json:"max"`
	// Goal is what the fraction should be, 0 where there is no goal.
	Goal float64 `json:"goal,omitempty"`
}

// SkippedKernel is what was not measured.
type SkippedKernel struct {
	KernelWork
	Why string `json:"why"`
}

// job is a kernel to measure in one size. One call does its parts, one after the other.
type job struct {
	KernelWork
	parts []part
	// arithmetic is the limit of what the parts compute.
	arithmetic limits.Kind
	call       func(thread int)
}

// part is a piece of a call: so many bytes are read, and so many operations done.
type part struct {
	bytes, flops float64
}

// sum adds the parts up.
func (j *job) sum() part {
	var all part
	for _, p := range j.parts {
		all.bytes += p.bytes
		all.flops += p.flops
	}
	return all
}

// kernelBench measures jobs one after the other.
type kernelBench struct {
	opts     KernelOptions
	budget   budget
	now      func() time.Time
	deadline time.Time
	// burst measures a limit once, in billions a second; together measures calls a second.
	burst    func(kind limits.Kind, threads int) float64
	together func(threads int, call func(thread int)) float64
	rep      *KernelReport
	done     int
	total    int
}

// budget is the time for measuring.
type budget struct {
	total time.Duration // all
	job   time.Duration // one job, but for minPairs
	call  time.Duration // longest call of a kernel that is made three times
}

const (
	minPairs   = 3
	maxPairs   = 9
	maxThreads = 1024
	// callsFor is how long each thread calls a kernel again and again in a burst.
	callsFor = 3 * time.Millisecond
)

func (o KernelOptions) budget() budget {
	switch {
	case o.tiny:
		return budget{time.Hour, 0, time.Hour} // a test waits for all of it
	case o.Quick:
		return budget{56 * time.Second, 150 * time.Millisecond, 500 * time.Millisecond}
	}
	return budget{280 * time.Second, 700 * time.Millisecond, 3 * time.Second}
}

// Kernels measures the kernels as fractions of what this machine can do.
func Kernels(ctx context.Context, opts KernelOptions) (KernelReport, error) {
	threads := opts.Threads
	if threads == 0 {
		threads = limits.Processors()
	}
	if threads < 1 || threads > maxThreads {
		return KernelReport{}, fmt.Errorf("%d threads: must be 1 to %d", threads, maxThreads)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(threads, runtime.GOMAXPROCS(0))))
	restore, err := opts.force()
	if err != nil {
		return KernelReport{}, err
	}
	defer restore()
	memory, err := opts.memory(threads)
	if err != nil {
		return KernelReport{}, err
	}
	begun := time.Now()
	rep := KernelReport{CPU: limits.CPU(), Flags: limits.Flags(), Threads: threads,
		Load: limits.Load(), Instructions: kernel.Instructions(),
		Results: []KernelResult{}, Skipped: []SkippedKernel{}}
	machine, err := limits.New(threads, memory.reader, opts.Instructions)
	if err != nil {
		return KernelReport{}, err
	}
	if rep.Limits, err = machine.Measure(); err != nil {
		return KernelReport{}, err
	}
	b := &kernelBench{opts: opts, budget: opts.budget(), now: time.Now, rep: &rep,
		burst: machine.Burst,
		together: func(threads int, call func(int)) float64 {
			return limits.Together(threads, callsFor, func(t int) float64 { call(t); return 1 })
		},
	}
	b.deadline = begun.Add(b.budget.total)
	if err := b.run(ctx, kernelPlan(opts, threads, memory), machine.Threads()); err != nil {
		return KernelReport{}, err
	}
	rep.Steps = stepShares(rep.Results)
	return rep, nil
}

// force makes kernels use the chosen instructions until restore is called.
func (o KernelOptions) force() (restore func(), err error) {
	if o.Instructions == "" {
		return func() {}, nil
	}
	before := kernel.Instructions()
	if err := kernel.SetInstructions(o.Instructions); err != nil {
		return nil, err
	}
	return func() { _ = kernel.SetInstructions(before) }, nil // it was in use
}

// subjectKernel is a kernel with weights or contexts of one shape, for several numbers of rows.
type subjectKernel struct {
	KernelWork       // without M and Threads
	rows       []int // ascending
	// open makes the memory, and returns the job for a number of rows and of threads.
	open func() (func(rows, threads int) job, error)
}

// run measures all kernels, each with all numbers of threads.
func (b *kernelBench) run(ctx context.Context, plan []subjectKernel, threads []int) error {
	for _, k := range plan {
		b.total += len(k.rows) * len(threads)
	}
	for _, k := range plan {
		if err := b.kernel(ctx, k, threads); err != nil {
			return err
		}
		runtime.GC() // gives back the memory before the next kernel takes its own
	}
	return nil
}

// kernel measures one kernel in all sizes. Its memory is made when the first needs it.
func (b *kernelBench) kernel(ctx context.Context, k subjectKernel, threads []int) error {
	var jobs func(rows, threads int) job
	for _, n := range threads {
		var rowTime time.Duration // a row's part of a call, as last measured
		for _, m := range k.rows {
			w := k.KernelWork
			w.M, w.Threads = m, n
			rows := m
			if k.Kernel == kernelExperts {
				rows = k.rows[0] // more rows come mostly to experts that are read anyway
			}
			if why := b.hindrance(time.Duration(rows) * rowTime); why != "" {
				b.rep.Skipped = append(b.rep.Skipped, SkippedKernel{w, why})
				b.progress()
				continue
			}
			var err error
			if jobs == nil {
				jobs, err = k.open()
			}
			if err == nil {
				rowTime, err = b.measure(ctx, jobs(m, n))
			}
			if err != nil {
				return fmt.Errorf("measure %s of %d × %d: %w", k.Kernel, k.K, k.N, err)
			}
			b.progress()
		}
	}
	return nil
}

// hindrance says why something that is expected to take so long a call cannot be measured.
func (b *kernelBench) hindrance(call time.Duration) string {
	switch {
	case !b.now().Before(b.deadline):
		return "the time is up"
	case call > b.budget.call:
		return fmt.Sprintf("a call would take about %.1f s", call.Seconds())
	}
	return ""
}

// progress tells that one more size is done.
func (b *kernelBench) progress() {
	b.done++
	if b.opts.Progress != nil {
		b.opts.Progress(b.done, b.total)
	}
}

// sample is a burst of reading and of the job's arithmetic, in billions a second, and then one of
// the kernel.
type sample struct {
	read, arithmetic, calls float64
}

// measure runs one job, limits and kernel by turns. It returns what a call takes by row.
func (b *kernelBench) measure(ctx context.Context, j job) (time.Duration, error) {
	begun := b.now()
	b.together(j.Threads, j.call) // touches memory; does not count
	var samples []sample
	least := minPairs
	if b.opts.tiny {
		least = 1
	}
	for len(samples) < maxPairs {
		if len(samples) >= least && b.now().Sub(begun) > b.budget.job {
			break
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		samples = append(samples, sample{b.burst(limits.Read, j.Threads),
			b.burst(j.arithmetic, j.Threads), b.together(j.Threads, j.call)})
	}
	r, err := j.result(samples)
	if err != nil {
		return 0, err
	}
	b.rep.Results = append(b.rep.Results, r)
	// Rows a second, of one thread.
	rows := r.GFlops * 1e9 / j.sum().flops / float64(j.Threads) * float64(j.M)
	return time.Duration(float64(time.Second) / rows), nil
}

// result compares a job's samples with its roofline: the sum, over its parts, of what reading the
// bytes at the machine's rate takes, or doing the operations, whichever is longer. What is cached
// has no bytes to read.
func (j *job) result(samples []sample) (KernelResult, error) {
	var calls, fractions []float64
	var reading float64 // part of the roofline that reading takes, summed over the samples
	for _, s := range samples {
		if !(s.read > 0 && s.arithmetic > 0 && s.calls > 0) || math.IsInf(s.calls, 0) {
			return KernelResult{}, errors.New("a burst took no time that could be measured")
		}
		seconds, read := j.roofline(s)
		reading += read / seconds
		calls, fractions = append(calls, s.calls), append(fractions, s.calls*seconds)
	}
	all := j.sum()
	rate, f := limits.SpreadOf(calls).Median, limits.SpreadOf(fractions)
	r := KernelResult{KernelWork: j.KernelWork, GBps: rate * all.bytes / 1e9,
		GFlops: rate * all.flops / 1e9, Limit: arithmeticNames[j.arithmetic], Fraction: f.Median,
		Min: f.Min, Max: f.Max}
	if reading > float64(len(samples))/2 {
		r.Limit = "read"
	}
	r.Goal = j.goal()
	return r, nil
}

// roofline is the time of a call at a sample's limits, and the part of it that is reading.
func (j *job) roofline(s sample) (seconds, reading float64) {
	for _, p := range j.parts {
		read := p.bytes / (s.read * 1e9)
		if j.Cached {
			read = 0
		}
		compute := p.flops / (s.arithmetic * 1e9)
		if read > compute {
			reading += read
		}
		seconds += max(read, compute)
	}
	return seconds, reading
}

var arithmeticNames = map[limits.Kind]string{
	limits.FMA: "fma", limits.Int8: "int8", limits.Int4: "int4",
}

// goal is the fraction that a kernel should reach. Weights of float32, cached ones and small
// kernels have none.
func (w *KernelWork) goal() float64 {
	product := w.Kernel == kernelMatmul && w.Mode != kernel.WeightsF32.String() && !w.Cached
	scaled := w.Mode != kernel.WeightsBF16.String()
	switch {
	case w.Kernel == kernelDecode || w.Kernel == kernelPrefill:
		return 0.75
	case w.Kernel == kernelExperts:
		return 0.80
	case !product:
		return 0
	case w.M <= 2:
		return map[string]float64{"bf16": 0.90, "fp8": 0.88, "int8": 0.88, "int4": 0.85}[w.Mode]
	case w.M >= 64 && scaled:
		return 0.75
	}
	return 0.80
}
