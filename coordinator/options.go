package coordinator

import (
	"fmt"
	"time"
)

// Options tunes a Coordinator. Only Name has no default.
type Options struct {
	// Name is the model's name, as requests and answers spell it.
	Name string
	// Version, ModelDigest, NumericMode and KernelClass are told by Describe.
	Version     string
	ModelDigest []byte
	NumericMode string
	KernelClass string

	// KVBytes bounds the KV cache. A small cache preempts often and shortens the
	// context. Zero means 1 GiB; no more is taken than MaxSequences can use.
	KVBytes int64
	// MaxSequences bounds the sequences that run at once. Zero means 64.
	MaxSequences int
	// MaxWaiting bounds the sequences that wait; one more is refused with
	// RESOURCE_EXHAUSTED. Zero means 1024.
	MaxWaiting int
	// MaxBatchTokens bounds the tokens of a step: many help prefill and delay decoding
	// sequences. Zero means 512, or MaxSequences if that is more.
	MaxBatchTokens int
	// MaxPrefillTokens bounds one prompt's tokens in a step. Zero means half of
	// MaxBatchTokens.
	MaxPrefillTokens int
	// MaxUnreadTokens bounds the tokens kept for a client that reads slowly; its
	// sequence pauses at the bound. At most 4096; zero means 1024.
	MaxUnreadTokens int
	// MicroBatches is the most micro-batches of a step: while the rows of one are at the
	// experts, the others compute. How many there are is chosen from measurements. Zero
	// means 1, which is right for experts in the same process; at most MaxMicroBatches.
	MicroBatches int
	// Network tells what was measured lately of trips to the experts: one way, and the
	// time there. Nil means that nothing is known of it.
	Network func() (oneWay, there time.Duration)
	// CanaryKey marks the requests with which whoever runs the coordinator tries whether it
	// works: Metrics does not count them as requests. Empty means that there are none.
	CanaryKey string
	// AllowScore permits the Score call, which is costly and meant for verification.
	AllowScore bool
	// Defaults are the model's sampling parameters, for requests that set none.
	Defaults Defaults
	// Events tell what happens.
	Events Events
}

// Events are optional funcs that report from the engine's goroutine: they must be quick.
type Events struct {
	// StepDone is called after each step that went well.
	StepDone func(StepDone)
	// StepFailed is called with the error of a step, or of the recovery from a panic.
	StepFailed func(error)
	// RequestDone is called when a request has left the engine.
	RequestDone func(RequestDone)
}

// StepDone describes a step.
type StepDone struct {
	Sequences     int
	PrefillTokens int
	DecodeTokens  int
	Duration      time.Duration
}

// RequestDone describes a request that has left the engine.
type RequestDone struct {
	ID           string
	PromptTokens int
	// Tokens counts those of the whole answer; ResumedTokens of them were made elsewhere,
	// before the client resumed its answer here.
	Tokens, ResumedTokens int
	// FirstToken and Total run from the request's arrival.
	FirstToken, Total time.Duration
	// Err is nil when the answer is complete.
	Err error
}

func (o *Options) setDefaults() {
	if o.KVBytes == 0 {
		o.KVBytes = 1 << 30
	}
	if o.MaxSequences == 0 {
		o.MaxSequences = 64
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 1024
	}
	if o.MaxBatchTokens == 0 {
		o.MaxBatchTokens = max(512, o.MaxSequences)
	}
	if o.MaxPrefillTokens == 0 {
		o.MaxPrefillTokens = max(1, o.MaxBatchTokens/2)
	}
	if o.MaxUnreadTokens == 0 {
		o.MaxUnreadTokens = 1024
	}
	if o.MicroBatches == 0 {
		o.MicroBatches = 1
	}
	if o.Network == nil {
		o.Network = func() (oneWay, there time.Duration) { return 0, 0 }
	}
	o.Defaults.setDefaults()
}

// validate checks what the scheduler's own options do not.
func (o *Options) validate() error {
	switch {
	case o.Name == "":
		return fmt.Errorf("coordinator: Name is empty")
	case o.KVBytes < 0:
		return fmt.Errorf("coordinator: KVBytes is %d", o.KVBytes)
	case o.MaxUnreadTokens < 1 || o.MaxUnreadTokens > 4096: // more may burst a gRPC message
		return fmt.Errorf("coordinator: MaxUnreadTokens is %d, want 1 to 4096", o.MaxUnreadTokens)
	case o.MicroBatches < 1 || o.MicroBatches > MaxMicroBatches:
		return fmt.Errorf("coordinator: MicroBatches is %d, want 1 to %d", o.MicroBatches,
			MaxMicroBatches)
	case o.MaxSequences < 1 || o.MaxSequences > 1<<20:
		return fmt.Errorf("coordinator: MaxSequences is %d, want 1 to %d", o.MaxSequences, 1<<20)
	case o.MaxPrefillTokens < 1 || o.MaxPrefillTokens > 1<<30:
		return fmt.Errorf("coordinator: MaxPrefillTokens is %d, want 1 to %d",
			o.MaxPrefillTokens, 1<<30)
	}
	return o.Defaults.validate()
}
