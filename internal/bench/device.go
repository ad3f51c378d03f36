package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"drover/internal/limits"
	"drover/kernel"
	"drover/kernel/cuda"
	"drover/tensor"
)

// DeviceOptions says what to measure of a GPU's kernels.
type DeviceOptions struct {
	// Kind is the kind of device, as cuda.OpenDevice takes it; GPU is its number in cuda.List.
	Kind string
	GPU  int
	// Small has small matrices and few rows, to see that everything works: its rates tell
	// nothing.
	Small bool
	// Within bounds the time after which no further measurement begins. Zero means 2 minutes.
	Within time.Duration
	// Progress, if not nil, is called after each measurement with how many are done.
	Progress func(done, total int)
}

// DeviceReport is what was measured of a GPU's kernels.
type DeviceReport struct {
	Device cuda.GPU `json:"device"`
	// Kind is the kind of device that it computed as.
	Kind   string `json:"kind"`
	Driver string `json:"driver,omitempty"`
	CUDA   string `json:"cuda"`
	// Rounding tells GPUs of cuda-tensor apart whose tensor cores round in other ways.
	Rounding string `json:"rounding,omitempty"`
	// Distrusted names the kernels that the GPU does without, since they computed wrongly.
	Distrusted []string `json:"distrusted,omitempty"`
	Small      bool     `json:"small,omitempty"`
	// Limits are in billions a second: bytes, or operations.
	Limits  []DeviceLimit  `json:"limits"`
	Results []DeviceResult `json:"results"`
	Skipped []DeviceSkip   `json:"skipped"`
}

// DeviceLimit is what the GPU did at most, at the beginning and at the end.
type DeviceLimit struct {
	Limit cuda.Limit `json:"limit"`
	limits.Spread
}

// DeviceWork says what a kernel was measured with.
type DeviceWork struct {
	Kernel string `json:"kernel"`
	// Mode is the format of the weights, or of the keys and values.
	Mode string `json:"mode"`
	// M is the number of rows, or of sequences. Of experts, K is the width of a row and N that
	// of an expert's inside; of attention, K is the width of a query and N the positions.
	M int `json:"m"`
	K int `json:"k"`
	N int `json:"n"`
}

// DeviceResult is the speed of a kernel by the GPU's own clock.
type DeviceResult struct {
	DeviceWork
	// By names the kernel that multiplies experts' weights.
	By string `json:"by,omitempty"`
	// Micros is the time of a call.
	Micros limits.Spread `json:"micros"`
	// GBps counts bytes of weights, or of keys and values, read once; GFlops counts operations.
	GBps   float64 `json:"gbps"`
	GFlops float64 `json:"gflops"`
	// Limit is what bounds this work, and Fraction the part of it that is reached: the bound's
	// time over the median time of a call.
	Limit    cuda.Limit `json:"limit"`
	Fraction float64    `json:"fraction"`
	// Goal is what the fraction should be, 0 where there is no goal.
	Goal float64 `json:"goal,omitempty"`
	// Differs is how far results of experts are from a CPU's, relative to the largest: 0 means the
	// same bytes. Wrong tells that they are further than devices of this kind may be.
	Differs *float64 `json:"differs,omitempty"`
	Wrong   bool     `json:"wrong,omitempty"`
}

// DeviceSkip is what was not measured.
type DeviceSkip struct {
	DeviceWork
	Why string `json:"why"`
}

// deviceJob is work to measure in several sizes, with memory of its own.
type deviceJob struct {
	kernel string
	format kernel.Format
	k, n   int
	rows   []int
	// open makes the memory, and returns the calls for a number of rows.
	open func(d cuda.Accelerator) (func(m int) (deviceCall, error), error)
}

// deviceCall is a call that is measured.
type deviceCall struct {
	bytes, flops float64
	by           string // the kernel that multiplies, if one does
	do           func()
	// check returns how far results are from a CPU's, nil if nothing compares them.
	check func() (float64, error)
}

// deviceBench measures jobs.
type deviceBench struct {
	opts     DeviceOptions
	device   cuda.Accelerator
	deadline time.Time
	rates    map[cuda.Limit][]float64
	rep      *DeviceReport
	done     int
	total    int
}

// Device measures what a GPU can do, and the kernels as fractions of it.
func Device(ctx context.Context, opts DeviceOptions) (DeviceReport, error) {
	if opts.Within <= 0 {
		opts.Within = 2 * time.Minute
	}
	rep := DeviceReport{Small: opts.Small, Results: []DeviceResult{}, Skipped: []DeviceSkip{}}
	list, err := cuda.List()
	if err != nil {
		return rep, err
	}
	d, err := cuda.OpenDevice(opts.Kind, opts.GPU)
	if err != nil {
		return rep, err
	}
	defer d.Close()
	rep.Distrusted = d.Distrusted()
	if r := d.Rounding(); r != 0 {
		rep.Rounding = fmt.Sprintf("%08x", r)
	}
	rep.Driver, rep.CUDA, rep.Device, rep.Kind = list.Driver, list.CUDA, list.GPUs[opts.GPU], opts.Kind
	b := &deviceBench{opts: opts, device: d, deadline: time.Now().Add(opts.Within),
		rates: map[cuda.Limit][]float64{}, rep: &rep}
	return rep, b.run(ctx, devicePlan(opts.Kind, opts.Small))
}

// run measures limits, then jobs, then limits again, which may have become lower since the
// GPU is warm.
func (b *deviceBench) run(ctx context.Context, plan []deviceJob) error {
	for _, j := range plan {
		b.total += len(j.rows)
	}
	if err := b.measureLimits(); err != nil {
		return err
	}
	for _, j := range plan {
		if err := b.job(ctx, j); err != nil {
			return fmt.Errorf("measure %s of %v: %w", j.kernel, j.format, err)
		}
		runtime.GC() // gives back the memory before the next job takes its own
	}
	if err := b.measureLimits(); err != nil {
		return err
	}
	b.rep.Limits = nil
	for _, l := range cuda.Limits {
		b.rep.Limits = append(b.rep.Limits, DeviceLimit{l, limits.SpreadOf(b.rates[l])})
	}
	for i := range b.rep.Results {
		b.compare(&b.rep.Results[i])
	}
	return nil
}

// limitSamples is how often each limit is measured at each end.
const limitSamples = 5

// measureLimits adds samples of all limits, in billions a second.
func (b *deviceBench) measureLimits() error {
	for range limitSamples {
		for _, l := range cuda.Limits {
			rate, err := b.device.Measure(l, b.opts.Small)
			if err != nil {
				return err
			}
			b.rates[l] = append(b.rates[l], rate/1e9)
		}
	}
	return nil
}

// job measures a job in all sizes that time and memory allow.
func (b *deviceBench) job(ctx context.Context, j deviceJob) error {
	var calls func(m int) (deviceCall, error)
	for _, m := range j.rows {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w := DeviceWork{j.kernel, j.format.String(), m, j.k, j.n}
		if !time.Now().Before(b.deadline) {
			b.skip(w, "the time is up")
			continue
		}
		var call deviceCall
		var err error
		if calls == nil {
			calls, err = j.open(b.device)
		}
		if err == nil {
			call, err = calls(m)
		}
		if errors.Is(err, errNoRoom) {
			b.skip(w, err.Error())
			continue
		}
		if err != nil {
			return err
		}
		r, err := b.measure(w, call)
		if err != nil {
			return err
		}
		if call.check != nil {
			differs, err := call.check()
			if err != nil {
				return err
			}
			r.Differs, r.Wrong = &differs, !(differs <= allowedDifference(b.opts.Kind, j.format))
		}
		b.rep.Results = append(b.rep.Results, r)
		b.progress()
	}
	return nil
}

// errNoRoom means that the GPU's memory does not suffice.
var errNoRoom = errors.New("the GPU's memory does not suffice")

// noRoom makes an error of an allocation an errNoRoom, unless the device is lost.
func noRoom(err error) error {
	if err == nil || errors.Is(err, kernel.ErrLost) {
		return err
	}
	return fmt.Errorf("%w: %w", errNoRoom, err)
}

func (b *deviceBench) skip(w DeviceWork, why string) {
	b.rep.Skipped = append(b.rep.Skipped, DeviceSkip{w, why})
	b.progress()
}

func (b *deviceBench) progress() {
	b.done++
	if b.opts.Progress != nil {
		b.opts.Progress(b.done, b.total)
	}
}

const (
	// deviceSamples of deviceSample each are taken of a call, with deviceCalls of it at most: far
	// more than the host takes to queue the first of them, while the GPU waits.
	deviceSamples = 7
	deviceSample  = 10 * time.Millisecond
	deviceCalls   = 1024
)

// measure takes the time of a call, many in a row, after some that do not count.
func (b *deviceBench) measure(w DeviceWork, c deviceCall) (DeviceResult, error) {
	r := DeviceResult{DeviceWork: w, By: c.by}
	timed := func(n int) (time.Duration, error) {
		return b.device.Time(func() {
			for range n {
				c.do()
			}
		})
	}
	once, err := timed(1)
	if err == nil && !b.opts.Small {
		once, err = timed(1) // warm
	}
	if err != nil {
		return r, err
	}
	calls, samples := 1, 1
	if !b.opts.Small {
		calls = max(1, min(deviceCalls, int(deviceSample/max(once, time.Microsecond))))
		samples = deviceSamples
	}
	var micros []float64
	for range samples {
		took, err := timed(calls)
		if err != nil {
			return r, err
		}
		if took <= 0 {
			return r, errors.New("it took no time that could be measured")
		}
		micros = append(micros, float64(took)/float64(calls)/float64(time.Microsecond))
	}
	r.Micros = limits.SpreadOf(micros)
	r.GBps, r.GFlops = c.bytes/r.Micros.Median/1e3, c.flops/r.Micros.Median/1e3
	return r, nil
}

// compare says which of two limits bounds a result, and how much of it is reached. The limit of
// arithmetic is that of tensor cores for matrices, whether or not kernels use them: of integers
// where both operands are.
func (b *deviceBench) compare(r *DeviceResult) {
	arithmetic := cuda.LimitBF16
	switch {
	case r.Kernel == kernelDecode || r.Mode == kernel.WeightsF32.String():
		arithmetic = cuda.LimitFMA
	case r.Mode == kernel.WeightsInt8.String() || r.Mode == kernel.WeightsInt4.String():
		arithmetic = cuda.LimitTensorInt8
	}
	read := r.GBps / limits.SpreadOf(b.rates[cuda.LimitRead]).Median
	compute := r.GFlops / limits.SpreadOf(b.rates[arithmetic]).Median
	r.Limit, r.Fraction, r.Goal = cuda.LimitRead, read, 0.8
	if compute > read {
		r.Limit, r.Fraction, r.Goal = arithmetic, compute, 0
		if r.M >= 512 {
			r.Goal = 0.7
		}
	}
}

// devicePlan lists the jobs: of a kind that multiplies some formats in a way of its own, those.
func devicePlan(kind string, small bool) []deviceJob {
	s, rows := maverickExpert, []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
	context, sequences := 8192, []int{1, 16, 64}
	if small {
		s, rows, context, sequences = expertShape{128, 256}, []int{1, 4, 512}, 256, []int{1, 2}
	}
	if kind == cuda.TensorKind {
		return []deviceJob{deviceExpert(s, kernel.WeightsBF16, rows),
			deviceExpert(s, kernel.WeightsFP8, rows),
			deviceAttention(kernel.WeightsBF16, context, sequences)}
	}
	var plan []deviceJob
	for _, f := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsFP8, kernel.WeightsInt8,
		kernel.WeightsInt4} {
		plan = append(plan, deviceExpert(s, f, rows))
	}
	for _, f := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsInt8} {
		plan = append(plan, deviceAttention(f, context, sequences))
	}
	return plan
}

// expertCopies is how many experts take turns, so that a GPU's cache has forgotten the first
// when the last was used.
const expertCopies = 4

// deviceExpert is rows through one expert of a shape.
func deviceExpert(s expertShape, f kernel.Format, rows []int) deviceJob {
	open := func(d cuda.Accelerator) (func(int) (deviceCall, error), error) {
		parts, check, err := uploadExperts(d, s, f)
		if err != nil {
			return nil, noRoom(err)
		}
		return func(m int) (deviceCall, error) {
			x, y, err := deviceRows(d, m, s.hidden)
			if err != nil {
				return deviceCall{}, noRoom(err)
			}
			up, down := productPart(m, 2*s.width, s.hidden, f), productPart(m, s.hidden, s.width, f)
			c := deviceCall{bytes: up.bytes + down.bytes, flops: up.flops + down.flops,
				by: d.Multiplier(f, m)}
			next := 0
			c.do = func() {
				p := parts[next%len(parts)]
				next++
				p.To = m
				d.FeedForward(y, x, []kernel.FeedForwardPart{p})
			}
			c.check = func() (float64, error) { return check.differs(y, x, m) }
			return c, nil
		}, nil
	}
	return deviceJob{kernelExperts, f, s.hidden, s.width, rows, open}
}

// uploadExperts makes experts on the device, all of the same weights.
func uploadExperts(d cuda.Accelerator, s expertShape, f kernel.Format) (
	[]kernel.FeedForwardPart, *expertCheck, error) {
	up, err := makeMatrices(1, 2*s.width, s.hidden, f)
	if err != nil {
		return nil, nil, err
	}
	down, err := makeMatrices(1, s.hidden, s.width, f)
	if err != nil {
		return nil, nil, err
	}
	parts := make([]kernel.FeedForwardPart, expertCopies)
	for i := range parts {
		if parts[i].GateUp, err = d.Upload(up[0]); err == nil {
			parts[i].Down, err = d.Upload(down[0])
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return parts, &expertCheck{d, parts[0], up[0], down[0]}, nil
}

// deviceRows makes rows of random numbers and others for what comes out.
func deviceRows(d cuda.Accelerator, n, dim int) (x, y kernel.Rows, err error) {
	if x, err = d.Allocate(n, dim); err == nil {
		y, err = d.Allocate(n, dim)
	}
	if err != nil {
		return x, y, err
	}
	host := tensor.MakeRows(n, dim)
	fillRandom(host.Data, uint64(n))
	d.Write(x, host)
	return x, y, d.Sync()
}

// deviceAttention is a decode step's attention of sequences with so many positions, in
// Maverick's shape.
func deviceAttention(f kernel.Format, context int, sequences []int) deviceJob {
	open := func(d cuda.Accelerator) (func(int) (deviceCall, error), error) {
		return func(m int) (deviceCall, error) { return attentionCall(d, f, context, m) }, nil
	}
	return deviceJob{kernelDecode, f, heads * headDim, context, sequences, open}
}

// attentionCall fills keys and values for m sequences and returns a step of all of them.
func attentionCall(d cuda.Accelerator, f kernel.Format, context, m int) (deviceCall, error) {
	layout := kernel.KVLayout{Heads: kvHeads, HeadDim: headDim, Precision: precisions[f]}
	each := context / kernel.KVTokens
	memory, err := d.AllocateKV(layout, m*each)
	if err != nil {
		return deviceCall{}, noRoom(err)
	}
	kv := func(s ...kernel.AttentionSequence) *kernel.KV {
		return &kernel.KV{Memory: memory, BlockTiles: 1, Tiles: 1, Sequences: s}
	}
	// Queries of the filling see only their own tile, so that it takes no time worth speaking of.
	fill := kernel.Attention{Heads: heads, KV: layout, Scale: 0.088, Chunk: kernel.KVTokens}
	q, out, err := deviceRows(d, kernel.KVTokens, heads*headDim)
	if err != nil {
		return deviceCall{}, noRoom(err)
	}
	k, v, err := deviceRows(d, max(m, kernel.KVTokens), kvHeads*headDim)
	if err != nil {
		return deviceCall{}, noRoom(err)
	}
	fillRows := func(r kernel.Rows) kernel.Rows { return r.Slice(0, kernel.KVTokens) }
	d.Write(v, randomRows(v.N, v.Dim))
	var all []kernel.AttentionSequence
	for s := range m {
		table := make([]int32, each)
		for i := range table {
			table[i] = int32(s*each + i)
		}
		for i := range table {
			d.Attend(&fill, out, q, fillRows(k), fillRows(v),
				kv(kernel.AttentionSequence{Start: i * kernel.KVTokens, Count: kernel.KVTokens, Table: table}))
		}
		all = append(all, kernel.AttentionSequence{Start: context - 1, Count: 1, Table: table})
	}
	dq, dout, err := deviceRows(d, m, heads*headDim)
	if err != nil {
		return deviceCall{}, noRoom(err)
	}
	step, decode := kv(all...), kernel.Attention{Heads: heads, KV: layout, Scale: 0.088}
	return deviceCall{bytes: float64(m * each * layout.TileBytes()),
		flops: 4 * float64(m) * float64(context) * heads * headDim,
		do:    func() { d.Attend(&decode, dout, dq, k.Slice(0, m), v.Slice(0, m), step) }}, d.Sync()
}

func randomRows(n, dim int) tensor.Rows {
	r := tensor.MakeRows(n, dim)
	fillRandom(r.Data, 3)
	return r
}
