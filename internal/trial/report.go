package trial

import (
	"fmt"
	"strings"
)

// Outcome is what is judged.
type Outcome struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Differing counts answers that are not the first one to the same question.
	Differing int      `json:"differing"`
	Failures  []string `json:"failures,omitempty"` // the first ones
	// Violations are all that must not be.
	Violations []string `json:"violations"`
}

// judge fills the violations.
func (o Outcome) judge() Outcome {
	o.Violations = []string{}
	if o.Requests == 0 {
		o.Violations = append(o.Violations, "no request was answered")
	}
	if o.Failed > 0 {
		o.Violations = append(o.Violations, fmt.Sprintf("%d of %d requests failed", o.Failed, o.Requests))
	}
	if o.Differing > 0 {
		o.Violations = append(o.Violations, fmt.Sprintf("%d of %d answers differ from the first one to "+
			"the same question", o.Differing, o.Requests))
	}
	return o
}

func (o Outcome) text(b *strings.Builder) {
	fmt.Fprintf(b, "%d requests, %d failed, %d differing\n", o.Requests, o.Failed, o.Differing)
	for _, f := range o.Failures {
		fmt.Fprintf(b, "failed: %s\n", f)
	}
	for _, v := range o.Violations {
		fmt.Fprintf(b, "VIOLATION: %s\n", v)
	}
}

// Spread is of several values of one kind.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// text shows all three, each with a factor.
func (s Spread) text(digits int, factor float64) string {
	return fmt.Sprintf("%.*f (%.*f to %.*f)", digits, factor*s.Median, digits, factor*s.Min, digits,
		factor*s.Max)
}

// GreyReport is what Grey found.
type GreyReport struct {
	Nodes         int         `json:"nodes"`
	Replicas      int         `json:"replicas"`
	Clients       int         `json:"clients"`
	WindowSeconds float64     `json:"window_seconds"`
	Faults        []GreyFault `json:"faults"`
	LeftOut       []string    `json:"left_out,omitempty"`
	Outcome
}

// GreyFault is one fault's windows: each value's median, smallest and largest.
type GreyFault struct {
	Fault string `json:"fault"`
	What  string `json:"what"`
	// Tokens were timed in faulty windows.
	Tokens int `json:"tokens"`
	// QuietP99 and P99 are the 99th percentiles of ITL in the quiet windows beside faulty ones and
	// in those, Ratio is P99 over QuietP99, and Goal the most that we want, 0 if that is nothing.
	QuietP99 Spread  `json:"quiet_itl_p99_ms"`
	P99      Spread  `json:"itl_p99_ms"`
	Ratio    Spread  `json:"ratio"`
	Goal     float64 `json:"ratio_goal,omitempty"`
	// Pause is the largest gap in a faulty window.
	Pause Spread `json:"largest_gap_ms"`
	// Extra is the part of rows that were sent twice; the goal is at most 0.05.
	Extra Spread `json:"extra_dispatches"`
	// FetchedMBs is the rate of weights sent, where the trial fetches.
	FetchedMBs Spread `json:"fetched_mb_per_second"`
}

// Text is the report for people.
func (r GreyReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes, %d replicas, %d clients, windows of %g s; median (min to max)\n",
		r.Nodes, r.Replicas, r.Clients, r.WindowSeconds)
	const row = "%-10s %-21s %-21s %-20s %-5s %-23s %s\n"
	fmt.Fprintf(&b, row, "fault", "ITL p99, quiet, ms", "ITL p99, ms", "ratio", "goal",
		"largest gap, ms", "sent twice, % (goal 5)")
	for _, f := range r.Faults {
		goal := "-"
		if f.Goal > 0 {
			goal = fmt.Sprintf("%.1f", f.Goal)
		}
		fmt.Fprintf(&b, row, f.Fault, f.QuietP99.text(1, 1), f.P99.text(1, 1), f.Ratio.text(2, 1), goal,
			f.Pause.text(0, 1), f.Extra.text(2, 100))
	}
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "%s: %s; %d tokens", f.Fault, f.What, f.Tokens)
		if f.FetchedMBs.Max > 0 {
			fmt.Fprintf(&b, "; %s MB/s", f.FetchedMBs.text(1, 1))
		}
		b.WriteByte('\n')
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(&b, "left out: %s\n", l)
	}
	r.Outcome.text(&b)
	return b.String()
}

// ElasticReport is what Elastic found.
type ElasticReport struct {
	Replicas      int             `json:"replicas"`
	Clients       int             `json:"clients"`
	WindowSeconds float64         `json:"window_seconds"`
	Changes       []ElasticChange `json:"changes"`
	// Ratio is that of all changes of a round together.
	Ratio Spread `json:"ratio"`
	// Shares counts new nodes, Share is how many seconds after having its weights each carried at
	// least half of its part of the rows, 15 if it did not by then; the goal is at most 5. Its part
	// is by the placement and the load of the experts that it holds. Idle tells of those that did
	// not by then. HalfShare is the same of the node of half the speed, of a quarter of its part;
	// without one, it is zero.
	Shares    int      `json:"new_nodes"`
	Share     Spread   `json:"seconds_to_share"`
	HalfSpeed bool     `json:"half_speed"`
	HalfShare Spread   `json:"half_speed_seconds_to_share"`
	Idle      []string `json:"idle,omitempty"`
	Outcome
}

// ElasticChange is one kind of change: each value's median, smallest and largest.
type ElasticChange struct {
	Change string `json:"change"`
	// Tokens were timed while nodes came and went, for Seconds.
	Tokens  int    `json:"tokens"`
	Seconds Spread `json:"seconds"`
	// QuietP99 and P99 are the 99th percentiles of ITL in the quiet windows before and after, and
	// meanwhile; Ratio is P99 over QuietP99, whose goal is at most 1.2.
	QuietP99 Spread `json:"quiet_itl_p99_ms"`
	P99      Spread `json:"itl_p99_ms"`
	Ratio    Spread `json:"ratio"`
	// Pooled is the ratio of all rounds' tokens together: a change of a second or two has so few
	// that which prompts come then decides a single ratio.
	Pooled float64 `json:"pooled_ratio"`
	// Pause is the largest gap meanwhile, whose goal is at most 100 ms, QuietPause that of the
	// quiet windows.
	Pause      Spread `json:"largest_gap_ms"`
	QuietPause Spread `json:"quiet_largest_gap_ms"`
}

// Text is the report for people.
func (r ElasticReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d replicas, %d clients, quiet windows of %g s; median (min to max) of rounds\n",
		r.Replicas, r.Clients, r.WindowSeconds)
	const row = "%-14s %-20s %-21s %-21s %-20s %-7s %-21s %s\n"
	fmt.Fprintf(&b, row, "change", "seconds", "ITL p99, quiet, ms", "ITL p99, ms", "ratio (goal 1.2)",
		"pooled", "largest gap, quiet", "largest gap, ms (goal 100)")
	for _, c := range r.Changes {
		fmt.Fprintf(&b, row, c.Change, c.Seconds.text(1, 1), c.QuietP99.text(1, 1), c.P99.text(1, 1),
			c.Ratio.text(2, 1), fmt.Sprintf("%.2f", c.Pooled), c.QuietPause.text(0, 1), c.Pause.text(0, 1))
	}
	fmt.Fprintf(&b, "all changes of a round together: ratio %s\n", r.Ratio.text(2, 1))
	fmt.Fprintf(&b, "%d new nodes carried their share %s s after they had their weights (goal 5)",
		r.Shares, r.Share.text(2, 1))
	if r.HalfSpeed {
		fmt.Fprintf(&b, ";\nthe one of half the speed half of it after %s s (15: not by then)\n",
			r.HalfShare.text(2, 1))
	} else {
		b.WriteString(";\nno node of half the speed: that needs a build with -tags faultinject\n")
	}
	for _, n := range r.Idle {
		fmt.Fprintf(&b, "later than 5 s: %s\n", n)
	}
	r.Outcome.text(&b)
	return b.String()
}
