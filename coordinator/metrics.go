package coordinator

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"drover/internal/measure"
	droverv1 "drover/proto/drover/v1"
)

// Operation is what a request asks for.
type Operation int

// The operations.
const (
	OperationChat Operation = iota
	OperationCompletion
	OperationScore
	operations
)

// String names an operation as OpenTelemetry's conventions do, where these have a name.
func (o Operation) String() string {
	return [operations]string{"chat", "text_completion", "score"}[o]
}

// Metrics are what a Coordinator has counted since New. The coordinator's own canary tokens
// are not among the requests.
type Metrics struct {
	Stats
	// Requests are those that ended, by operation and how they did.
	Requests []RequestMetrics
	// FirstToken is the time to the first token of answers that are complete, PerToken the
	// time for each of their others, Input and Output their numbers of tokens.
	FirstToken, PerToken, Input, Output [operations]measure.Counts
	// Gap is the time between two tokens of an answer; Wait that from a request's arrival in
	// the queue to its first step.
	Gap, Wait measure.Counts
	// StepTime is that of steps that went well, BatchSequences and BatchTokens their sizes.
	StepTime, BatchSequences, BatchTokens measure.Counts
	// Resumed counts answers that were begun elsewhere.
	Resumed uint64
	// Canaries and FailedCanaries count the coordinator's own requests.
	Canaries, FailedCanaries uint64
	// MaxSequences bounds the sequences that run at once, MaxWaiting those that wait.
	MaxSequences, MaxWaiting int
}

// RequestMetrics are the requests of one operation that ended in one way.
type RequestMetrics struct {
	Operation Operation
	Code      codes.Code
	// Time is that from arrival to the end.
	Time measure.Counts
}

// lastCode is the largest of gRPC's codes.
const lastCode = codes.Unauthenticated

// recorder is a Coordinator's Metrics in the making. It takes no lock and allocates nothing.
type recorder struct {
	requests                            [operations][lastCode + 1]*measure.Histogram
	firstToken, perToken, input, output [operations]*measure.Histogram
	gap, wait, step, sequences, tokens  *measure.Histogram
	resumed, canaries, failedCanaries   atomic.Uint64
}

// newRecorder has the bounds that OpenTelemetry's conventions for generative models advise,
// where they do. A gap between tokens and a step may take a tenth of a millisecond with a
// small model and seconds when a node is lost, so theirs double from 0.5 ms to 16 s. Batches
// have at most a few thousand tokens.
func newRecorder() *recorder {
	times := func() *measure.Histogram { return measure.New(measure.Powers(0.0005, 2, 16)...) }
	r := &recorder{gap: times(), wait: times(), step: times(),
		sequences: measure.New(measure.Powers(1, 2, 11)...),
		tokens:    measure.New(measure.Powers(1, 2, 14)...)}
	for o := range operations {
		for code := range r.requests[o] {
			r.requests[o][code] = measure.New(measure.Powers(0.01, 2, 14)...)
		}
		r.firstToken[o] = measure.New(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
			0.75, 1, 2.5, 5, 7.5, 10)
		r.perToken[o] = measure.New(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
			0.3, 0.4, 0.5, 0.75, 1, 2.5)
		r.input[o] = measure.New(measure.Powers(1, 4, 14)...)
		r.output[o] = measure.New(measure.Powers(1, 4, 14)...)
	}
	return r
}

// record counts a request that has ended. The error is gRPC's.
func (r *recorder) record(o Operation, req *request, arrival time.Time, err error) {
	code := min(status.Code(err), lastCode)
	if req != nil && req.canary {
		r.canaries.Add(1)
		if err != nil {
			r.failedCanaries.Add(1)
		}
		return
	}
	r.requests[o][code].ObserveTime(time.Since(arrival))
	if err != nil || req == nil {
		return
	}
	r.input[o].Observe(float64(len(req.prompt)))
	e := req.ended
	made := e.tokens - len(req.resumed)
	if len(req.resumed) > 0 {
		r.resumed.Add(1)
	}
	if req.generation == nil {
		return
	}
	r.output[o].Observe(float64(max(made, 0)))
	if e.firstToken > 0 {
		r.firstToken[o].ObserveTime(e.firstToken)
	}
	if made > 1 {
		r.perToken[o].ObserveTime((e.total - e.firstToken) / time.Duration(made-1))
	}
}

// Metrics returns what was counted so far.
func (c *Coordinator) Metrics() Metrics {
	r := c.recorder
	m := Metrics{Stats: c.Stats(), Gap: r.gap.Counts(), Wait: r.wait.Counts(),
		StepTime: r.step.Counts(), BatchSequences: r.sequences.Counts(),
		BatchTokens: r.tokens.Counts(), Resumed: r.resumed.Load(), Canaries: r.canaries.Load(),
		FailedCanaries: r.failedCanaries.Load(), MaxSequences: c.opts.MaxSequences,
		MaxWaiting: c.opts.MaxWaiting}
	for o := range operations {
		for code, h := range r.requests[o] {
			n := h.Counts()
			if n.Count > 0 || codes.Code(code) == codes.OK {
				m.Requests = append(m.Requests, RequestMetrics{o, codes.Code(code), n})
			}
		}
		m.FirstToken[o], m.PerToken[o] = r.firstToken[o].Counts(), r.perToken[o].Counts()
		m.Input[o], m.Output[o] = r.input[o].Counts(), r.output[o].Counts()
	}
	return m
}

// operationOf is what a request asks for.
func operationOf(req *droverv1.GenerateRequest) Operation {
	if req.GetChat() != nil {
		return OperationChat
	}
	return OperationCompletion
}

// canaryHeader carries Options.CanaryKey.
const canaryHeader = "drover-canary"

// CanaryContext marks what is asked with it as the coordinator's own, for one whose
// Options.CanaryKey is this key.
func CanaryContext(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, canaryHeader, key)
}

// isCanary tells whether a request is the coordinator's own.
func (c *Coordinator) isCanary(ctx context.Context) bool {
	if c.opts.CanaryKey == "" {
		return false
	}
	md, _ := metadata.FromIncomingContext(ctx)
	keys := md.Get(canaryHeader)
	return len(keys) == 1 && keys[0] == c.opts.CanaryKey
}
