// Package verify checks models, tokenizers, chat templates and the refusal of broken files
// against recorded results of a reference implementation.
//
// A fixture is a folder that holds its own expected results; what it is a fixture of shows in its
// files (see find). Whatever needs a model talks to a coordinator, served elsewhere or in this
// process, so that the same checks hold for one process and for a cluster.
package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// Status is the outcome of a case.
type Status string

// A case that could not be run is never Passed: it is Unsupported if this build does not run the
// model's architecture or format, and Skipped if the case needs what is not there or not checked.
const (
	Passed      Status = "passed"
	Failed      Status = "failed"
	Unsupported Status = "unsupported"
	Skipped     Status = "skipped"
)

// Result is the outcome of one case.
type Result struct {
	// Name is the fixture's folder and the case in it.
	Name   string `json:"name"`
	Status Status `json:"status"`
	// LargestError is the largest absolute difference of a number; 0 if none was compared.
	// Tolerance is what it must not exceed.
	LargestError float64 `json:"largest_error"`
	Tolerance    float64 `json:"tolerance"`
	// Compared counts the comparisons: numbers, ids, texts.
	Compared int `json:"compared"`
	// Detail says what failed first, why the case was not run, or what was left out.
	Detail string `json:"detail,omitempty"`
}

// Summary counts results.
type Summary struct {
	Passed      int `json:"passed"`
	Failed      int `json:"failed"`
	Unsupported int `json:"unsupported"`
	Skipped     int `json:"skipped"`
}

func (s *Summary) add(st Status) {
	switch st {
	case Passed:
		s.Passed++
	case Failed:
		s.Failed++
	case Unsupported:
		s.Unsupported++
	case Skipped:
		s.Skipped++
	}
}

// Opener serves the model in dir in this process, in the named numeric mode, until the returned
// function is called.
type Opener func(ctx context.Context, dir string, mode kernel.Mode) (
	client droverv1.CoordinatorServiceClient, stop func(), err error)

// Options says how models are reached. Either Client or Open is required.
type Options struct {
	// Mode is the numeric mode. Empty means exact, or with Client the served one.
	Mode string
	// Client, if not nil, is asked for everything; a fixture whose checkpoint it does not serve
	// is Skipped.
	Client droverv1.CoordinatorServiceClient
	// Open is used for each checkpoint if there is no Client.
	Open Opener
	// Report is called with each result as it comes.
	Report func(Result)
}

// verifier is a Run under way.
type verifier struct {
	opts    Options
	mode    kernel.Mode
	tol     tolerance
	served  *droverv1.DescribeResponse // nil without Client
	summary Summary

	models, otherModels int // models that can be run, and those of them that Client does not serve
}

// Run checks the fixtures that paths hold, each a fixture or a tree of them. The error is about
// the paths or the coordinator; what fails a check is only in the results.
func Run(ctx context.Context, paths []string, opts Options) (Summary, error) {
	v, err := newVerifier(ctx, opts)
	if err != nil {
		return Summary{}, err
	}
	if len(paths) == 0 {
		return Summary{}, errors.New("no fixtures given")
	}
	var found []fixture
	for _, p := range paths {
		f, err := find(p)
		if err != nil {
			return Summary{}, err
		}
		found = append(found, f...)
	}
	for _, f := range found {
		if err := f.check(ctx, v, f); err != nil {
			return v.summary, err
		}
		if err := ctx.Err(); err != nil { // what it cut short has not failed
			return v.summary, err
		}
	}
	if v.served != nil && v.models > 0 && v.models == v.otherModels {
		return v.summary, fmt.Errorf("the coordinator serves %s, digest %.6x: "+
			"none of the given fixtures is of that checkpoint", v.served.Model, v.served.ModelDigest)
	}
	return v.summary, nil
}

func newVerifier(ctx context.Context, opts Options) (*verifier, error) {
	if opts.Report == nil {
		opts.Report = func(Result) {}
	}
	v := &verifier{opts: opts}
	name := opts.Mode
	switch {
	case opts.Client != nil:
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		var err error
		if v.served, err = opts.Client.Describe(ctx, &droverv1.DescribeRequest{}); err != nil {
			return nil, fmt.Errorf("describe the served model: %w", err)
		}
		if name != "" && name != v.served.NumericMode {
			return nil, fmt.Errorf("the coordinator serves in mode %s, not %s",
				v.served.NumericMode, name)
		}
		name = v.served.NumericMode
	case opts.Open == nil:
		return nil, errors.New("neither a coordinator nor a way to open models is given")
	case name == "":
		name = kernel.Exact.String()
	}
	var err error
	if v.mode, err = kernel.ParseMode(name); err != nil {
		return nil, err
	}
	v.tol = tolerances(v.mode)
	return v, nil
}

// report ends a case.
func (v *verifier) report(r Result) {
	v.summary.add(r.Status)
	v.opts.Report(r)
}

// done reports a case by what was compared.
func (v *verifier) done(name string, c *check) {
	r := Result{
		Name: name, Status: Passed, LargestError: c.largest, Tolerance: c.tolerance,
		Compared: c.compared, Detail: c.note,
	}
	switch {
	case c.failure != "":
		r.Status, r.Detail = Failed, c.failure
	case c.compared == 0:
		r.Status, r.Detail = Failed, "nothing was compared"
	}
	v.report(r)
}

// check gathers the comparisons of one case.
type check struct {
	largest   float64
	tolerance float64
	compared  int
	failure   string // what failed first
	note      string // what a reader of a passed case should know
}

// fail records what is wrong, unless something was before.
func (c *check) fail(format string, args ...any) {
	if c.failure == "" {
		c.failure = fmt.Sprintf(format, args...)
	}
}

// number compares one number and says whether it is within tolerance. A number that is not finite
// never is.
func (c *check) number(got, want, tolerance float64) bool {
	c.compared++
	d := math.Abs(got - want)
	if math.IsNaN(d) || math.IsInf(d, 0) {
		return false
	}
	c.largest = max(c.largest, d)
	c.tolerance = max(c.tolerance, tolerance)
	return d <= tolerance
}
