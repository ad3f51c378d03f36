package bench

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"drover/internal/load"
	droverv1 "drover/proto/drover/v1"
)

// ServeOptions says how a coordinator is asked. Rates or Trace is required.
type ServeOptions struct {
	// Where names the coordinator in the report.
	Where string
	// Questions are asked in turn. Nil means the built-in mix.
	Questions []load.Question
	// Rates are the mean numbers of requests each second, one run for each. Too high a rate
	// measures the queue, and at last what is refused or dropped.
	Rates []float64
	// Trace are the times of one run's requests, in the place of Rates.
	Trace []time.Duration
	// Seed is of the times at which requests arrive.
	Seed uint64
	// Requests and Duration end each run's arrivals, whichever comes first. If both are zero,
	// they end after 30 seconds, or with the trace.
	Requests int
	Duration time.Duration
	// MaxInflight and Timeout are as in load.Options.
	MaxInflight int
	Timeout     time.Duration
	// TTFT and TPOT are the targets of goodput. Zero is no target; without any there is none.
	TTFT, TPOT time.Duration
	// Progress, if not nil, is called after each request with how many are done, of all that
	// are expected.
	Progress func(done, total int)
}

// ServeReport is what was measured.
type ServeReport struct {
	Model string `json:"model"`
	Mode  string `json:"mode"`
	Where string `json:"where"`
	Seed  uint64 `json:"seed"`
	// Questions is the number of questions that are asked in turn.
	Questions int        `json:"questions"`
	Runs      []ServeRun `json:"runs"`
	// Answers is a hash over the first answer to each question, Answered how many have one, and
	// Differing counts later answers that were not the same, which must not happen.
	Answers   string `json:"answers"`
	Answered  int    `json:"questions_answered"`
	Differing int    `json:"differing"`
}

// ServeRun is one rate, or the trace.
type ServeRun struct {
	// Rate is requests each second as asked for, 0 for a trace.
	Rate float64 `json:"rate"`
	// Requests is how many were due. Each was answered, dropped because too many were in flight,
	// or is among the errors, by their code.
	Requests int            `json:"requests"`
	Answered int            `json:"answered"`
	Dropped  int            `json:"dropped"`
	Errors   map[string]int `json:"errors"`
	// Seconds is the time from the start to the end of the last answer.
	Seconds           float64 `json:"seconds"`
	Tokens            int     `json:"tokens"`
	TokensPerSecond   float64 `json:"tokens_per_second"`
	RequestsPerSecond float64 `json:"requests_per_second"`
	// TTFT and TPOT have one value for each answered request, ITL one for each of its tokens
	// after the first. TTFT counts from when the request was due.
	TTFT load.Quantiles `json:"ttft_ms"`
	TPOT load.Quantiles `json:"tpot_ms"`
	ITL  load.Quantiles `json:"itl_ms"`
	// Late is how long after they were due requests were sent: the measuring program's fault.
	Late load.Quantiles `json:"late_ms"`
	// Goodput is the answered requests each second that met the targets.
	Goodput *float64 `json:"goodput,omitempty"`
}

const (
	usualServeDuration = 30 * time.Second
	maxRate            = 1e5
)

func (o *ServeOptions) setDefaults() (err error) {
	if o.Requests == 0 && o.Duration == 0 && o.Trace == nil {
		o.Duration = usualServeDuration
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Questions == nil {
		o.Questions, err = load.Mix()
	}
	return err
}

func (o *ServeOptions) validate() error {
	switch {
	case (len(o.Rates) == 0) == (o.Trace == nil):
		return errors.New("want rates or a trace of arrivals")
	case o.TTFT < 0 || o.TPOT < 0:
		return errors.New("a negative target")
	}
	for _, rate := range o.Rates {
		if !(rate > 0 && rate <= maxRate) {
			return fmt.Errorf("%v requests each second: must be over 0 and at most %v", rate, maxRate)
		}
	}
	return nil
}

// Serve asks a coordinator that runs at given rates and measures what its clients see. One run
// ends before the next begins.
func Serve(
	ctx context.Context, client droverv1.CoordinatorServiceClient, o ServeOptions,
) (ServeReport, error) {
	if err := o.setDefaults(); err != nil {
		return ServeReport{}, err
	}
	if err := o.validate(); err != nil {
		return ServeReport{}, err
	}
	d, err := client.Describe(ctx, &droverv1.DescribeRequest{})
	if err != nil {
		return ServeReport{}, err
	}
	rep := ServeReport{Model: d.Model, Mode: d.NumericMode, Where: o.Where, Seed: o.Seed,
		Questions: len(o.Questions)}
	answers := load.NewAnswers(len(o.Questions))
	if o.Trace != nil {
		o.Rates = []float64{0}
	}
	for i, rate := range o.Rates {
		run, err := o.run(ctx, client, i, answers)
		if err != nil {
			return rep, fmt.Errorf("at %v requests/s: %w", rate, err)
		}
		rep.Runs = append(rep.Runs, run)
	}
	rep.Answers, rep.Answered, rep.Differing = answers.Hash(o.Questions), answers.Known(),
		answers.Differ
	return rep, nil
}

// run is the run of one rate.
func (o *ServeOptions) run(
	ctx context.Context, client droverv1.CoordinatorServiceClient, number int,
	answers *load.Answers,
) (ServeRun, error) {
	rate := o.Rates[number]
	t := tally{o: o, answers: answers, run: ServeRun{Rate: rate, Errors: map[string]int{}}}
	done, expected := 0, o.expected(rate)
	sum, err := load.Run(ctx, load.Options{
		Client: client, Questions: o.Questions, Arrivals: o.arrivals(rate), Requests: o.Requests,
		Duration: o.Duration, MaxInflight: o.MaxInflight, Timeout: o.Timeout,
		Each: func(r load.Record) {
			t.add(&r)
			done++
			o.Progress(number*expected+min(done, expected), len(o.Rates)*expected)
		},
	})
	if err != nil {
		return ServeRun{}, err
	}
	o.Progress((number+1)*expected, len(o.Rates)*expected)
	return t.finish(sum), nil
}

func (o *ServeOptions) arrivals(rate float64) iter.Seq[time.Duration] {
	if o.Trace != nil {
		return slices.Values(o.Trace)
	}
	return load.Poisson(o.Seed, rate)
}

// expected is about how many requests a run has.
func (o *ServeOptions) expected(rate float64) int {
	n := max(len(o.Trace), o.Requests)
	if o.Trace == nil && o.Duration > 0 {
		if most := int(rate*o.Duration.Seconds()) + 1; o.Requests == 0 || most < n {
			n = most
		}
	}
	return n
}

// tally adds up one run's records.
type tally struct {
	o                     *ServeOptions
	answers               *load.Answers
	run                   ServeRun
	ttft, tpot, itl, late load.Histogram
	good                  int
}

func (t *tally) add(r *load.Record) {
	t.late.Add(r.Sent.Sub(r.Due))
	if r.Err != nil {
		t.run.Errors[load.Code(r.Err).String()]++
		return
	}
	t.run.Answered++
	t.run.Tokens += len(r.Tokens)
	t.answers.Add(r)
	first := r.FirstToken()
	t.ttft.Add(first)
	good := t.o.TTFT == 0 || first <= t.o.TTFT
	if each, ok := r.PerToken(); ok {
		t.tpot.Add(each)
		good = good && (t.o.TPOT == 0 || each <= t.o.TPOT)
	}
	r.Gaps(func(from, to time.Time) { t.itl.Add(to.Sub(from)) })
	if good {
		t.good++
	}
}

func (t *tally) finish(sum load.Summary) ServeRun {
	r := t.run
	r.Requests, r.Dropped = sum.Arrivals, sum.Dropped
	r.TTFT, r.TPOT, r.ITL, r.Late = t.ttft.Quantiles(), t.tpot.Quantiles(), t.itl.Quantiles(),
		t.late.Quantiles()
	if r.Seconds = sum.Ended.Sub(sum.Began).Seconds(); r.Seconds > 0 {
		r.TokensPerSecond = float64(r.Tokens) / r.Seconds
		r.RequestsPerSecond = float64(r.Answered) / r.Seconds
		if t.o.TTFT > 0 || t.o.TPOT > 0 {
			goodput := float64(t.good) / r.Seconds
			r.Goodput = &goodput
		}
	}
	return r
}

// Text is the report as a table for people.
func (r ServeReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, mode %s, %s; %d questions in turn, arrivals of seed %d\n", r.Model, r.Mode,
		r.Where, r.Questions, r.Seed)
	for _, run := range r.Runs {
		run.text(&b)
	}
	fmt.Fprintf(&b, "\nanswers to %d questions: %s\n", r.Answered, r.Answers)
	if r.Differing > 0 {
		fmt.Fprintf(&b, "%d answers are NOT as the first one to the same question\n", r.Differing)
	}
	return b.String()
}

func (r ServeRun) text(b *strings.Builder) {
	asked := "a trace"
	if r.Rate > 0 {
		asked = fmt.Sprintf("%g requests/s", r.Rate)
	}
	fmt.Fprintf(b, "\n%s: %d requests in %.1f s, %d answered (%.1f/s), %d dropped", asked, r.Requests,
		r.Seconds, r.Answered, r.RequestsPerSecond, r.Dropped)
	for _, code := range sortedKeys(r.Errors) {
		fmt.Fprintf(b, ", %d %s", r.Errors[code], code)
	}
	fmt.Fprintf(b, "; %.0f tokens/s", r.TokensPerSecond)
	if r.Goodput != nil {
		fmt.Fprintf(b, "; goodput %.1f/s", *r.Goodput)
	}
	fmt.Fprintf(b, "\n%-10s %10s %10s %10s %10s %10s\n", "ms", "p50", "p90", "p99", "max", "of")
	for _, row := range []struct {
		name string
		q    load.Quantiles
	}{{"TTFT", r.TTFT}, {"TPOT", r.TPOT}, {"ITL", r.ITL}, {"sent late", r.Late}} {
		fmt.Fprintf(b, "%-10s %10.2f %10.2f %10.2f %10.2f %10d\n", row.name, row.q.P50, row.q.P90,
			row.q.P99, row.q.Max, row.q.Count)
	}
}

func sortedKeys(m map[string]int) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
