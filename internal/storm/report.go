package storm

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"drover/internal/load"
)

// Report is what a storm did and found.
type Report struct {
	Fault Fault `json:"fault"`
	// Nodes is their number. Kills counts the faults, Requests those of the storm alone.
	Nodes    int `json:"nodes"`
	Kills    int `json:"kills"`
	Requests int `json:"requests"`
	// Failed counts the storm's requests that ended with an error, Differing its answers that
	// are not the quiet part's.
	Failed    int     `json:"failed"`
	Differing int     `json:"differing"`
	Seconds   float64 `json:"seconds"`
	// Added is, for each fault after which tokens came, the largest gap between two tokens of a
	// stream in the second after it, less the quiet part's median gap. Calm is the same of the
	// second before it: what this machine adds without any fault.
	Added Worst `json:"added_ms"`
	Calm  Worst `json:"calm_ms"`
	// Between is as Added, of the time from a second after a fault until a second before the next
	// one, in which nodes come back and load.
	Between Worst `json:"between_ms"`
	// First and FirstCalm are as Added and Calm, of the time from a request to its first token.
	First     Worst `json:"added_first_token_ms"`
	FirstCalm Worst `json:"calm_first_token_ms"`
	// Heal is the time from a fault until the cluster was whole.
	Heal Worst `json:"heal_ms"`
	// ITL and TTFT are of all requests.
	ITL  Pair `json:"itl_ms"`
	TTFT Pair `json:"ttft_ms"`
	// TokensPerSecond are of all clients.
	TokensPerSecond struct {
		Quiet float64 `json:"quiet"`
		Storm float64 `json:"storm"`
	} `json:"tokens_per_second"`
	Memory *Memory `json:"memory,omitempty"`
	// Failures and Differences are the first of them, Violations all that must not be.
	Failures    []Failure    `json:"failures,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
	Violations  []string     `json:"violations"`
}

// Worst is a few of sorted values, nearest-rank, in milliseconds.
type Worst struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Pair is of both parts.
type Pair struct {
	Quiet load.Quantiles `json:"quiet"`
	Storm load.Quantiles `json:"storm"`
}

// Failure is a request that ended with an error, so many seconds after it was sent and after
// the last fault.
type Failure struct {
	Question   string  `json:"question"`
	Tokens     int     `json:"tokens"`
	Error      string  `json:"error"`
	Seconds    float64 `json:"seconds"`
	AfterFault float64 `json:"seconds_after_fault"`
}

// Difference is an answer that is not the quiet part's: the first token that is another, and
// some of both around it.
type Difference struct {
	Question   string  `json:"question"`
	Token      int     `json:"token"`
	Got        []int32 `json:"got"`
	Want       []int32 `json:"want"`
	AfterFault float64 `json:"ended_seconds_after_fault"`
}

// worst sorts values.
func worst(values []time.Duration) Worst {
	if len(values) == 0 {
		return Worst{}
	}
	slices.Sort(values)
	at := func(q float64) float64 {
		return load.Milliseconds(values[int(math.Ceil(q*float64(len(values))))-1])
	}
	return Worst{len(values), at(0.5), at(0.9), at(0.99), at(1)}
}

// report is all but the memory and the verdict.
func (s *storm) report(quiet, rough *phase, nodes int) Report {
	r := Report{Fault: s.Fault, Nodes: nodes, Kills: rough.faults,
		Requests: rough.answered, Failed: rough.failed, Differing: rough.differed,
		Seconds: rough.ended.Sub(rough.began).Seconds(), Failures: rough.failures,
		Differences: rough.differences, Violations: []string{}}
	usual := quiet.itl.Quantile(0.5)
	added, calm, between := rough.gaps.worst(usual)
	r.Added, r.Calm, r.Between = worst(added), worst(calm), worst(between)
	added, calm, _ = rough.firsts.worst(quiet.ttft.Quantile(0.5))
	r.First, r.FirstCalm = worst(added), worst(calm)
	r.Heal = worst(s.heals)
	r.ITL = Pair{quiet.itl.Quantiles(), rough.itl.Quantiles()}
	r.TTFT = Pair{quiet.ttft.Quantiles(), rough.ttft.Quantiles()}
	r.TokensPerSecond.Quiet, r.TokensPerSecond.Storm = quiet.rate(), rough.rate()
	if quiet.differed > 0 {
		r.Violations = append(r.Violations, fmt.Sprintf(
			"%d answers of the quiet part differ from the first one to the same question", quiet.differed))
	}
	return r
}

func (p *phase) rate() float64 { return float64(p.tokens) / p.ended.Sub(p.began).Seconds() }

// judge completes the violations.
func (r *Report) judge(maxGrowth float64) {
	add := func(format string, args ...any) {
		r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
	}
	if r.Failed > 0 {
		add("%d of %d requests failed", r.Failed, r.Requests)
	}
	if r.Differing > 0 {
		add("%d of %d answers differ from the quiet part's", r.Differing, r.Requests)
	}
	if m := r.Memory; m != nil && maxGrowth > 0 && r.Seconds >= 300 && m.PerMinute > maxGrowth {
		add("the coordinator's memory grows by %.1f MiB a minute, at most %.1f", m.PerMinute, maxGrowth)
	}
}

// Text is the report for people.
func (r Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d times %s on %d nodes in %.0f s: %d requests, %d failed, %d differing\n",
		r.Kills, r.Fault, r.Nodes, r.Seconds, r.Requests, r.Failed, r.Differing)
	fmt.Fprintf(&b, "%-38s %6s %9s %9s %9s %9s\n", "ms", "of", "p50", "p90", "p99", "max")
	for _, row := range []struct {
		name string
		w    Worst
	}{
		{"added to a gap by a fault", r.Added},
		{"  in the second before, without one", r.Calm},
		{"  while nodes come back", r.Between},
		{"added to a first token by a fault", r.First},
		{"  in the second before, without one", r.FirstCalm},
		{"until the cluster was whole", r.Heal},
	} {
		fmt.Fprintf(&b, "%-38s %6d %9.1f %9.1f %9.1f %9.1f\n", row.name, row.w.Count, row.w.P50,
			row.w.P90, row.w.P99, row.w.Max)
	}
	for _, row := range []struct {
		name string
		q    load.Quantiles
	}{{"ITL, quiet", r.ITL.Quiet}, {"ITL, storm", r.ITL.Storm}, {"TTFT, quiet", r.TTFT.Quiet},
		{"TTFT, storm", r.TTFT.Storm}} {
		fmt.Fprintf(&b, "%-38s %6d %9.2f %9.2f %9.2f %9.2f\n", row.name, row.q.Count, row.q.P50,
			row.q.P90, row.q.P99, row.q.Max)
	}
	fmt.Fprintf(&b, "tokens/s: %.0f quiet, %.0f in the storm\n", r.TokensPerSecond.Quiet,
		r.TokensPerSecond.Storm)
	if m := r.Memory; m != nil {
		fmt.Fprintf(&b, "coordinator: %.1f MiB at first, %.1f at last, %+.2f a minute; %d threads, %d\n",
			m.First, m.Last, m.PerMinute, m.ThreadsFirst, m.ThreadsLast)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "failed: %s after %d tokens and %.3f s, %.3f s after a fault: %s\n", f.Question,
			f.Tokens, f.Seconds, f.AfterFault, f.Error)
	}
	for _, d := range r.Differences {
		fmt.Fprintf(&b, "differs: %s from token %d: %v, want %v; it ended %.3f s after a fault\n",
			d.Question, d.Token, d.Got, d.Want, d.AfterFault)
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "VIOLATION: %s\n", v)
	}
	return b.String()
}
