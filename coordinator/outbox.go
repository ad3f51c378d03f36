package coordinator

import (
	"sync"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// outbox carries results from the engine to the goroutine that serves the request. The
// engine never waits for it: what is not taken yet piles up, and at a bound the engine
// holds the sequence until it has been taken.
type outbox struct {
	// ready gets a value when there is something to take.
	ready chan struct{}

	mu   sync.Mutex // guards the fields below
	next results
	full bool // the engine holds the sequence
}

// results are what the engine has for a request.
type results struct {
	text []byte
	ids  []int32

	// With log-probabilities: of each of ids, and alternatives of each, as many.
	logprobs     []float32
	alternatives []candidate

	score scores

	done   bool
	err    error // of a request that is done
	ending ending
}

// ending says how an answer ended.
type ending struct {
	reason            droverv1.FinishReason
	stop              string
	tokens            int
	firstToken, total time.Duration
}

// scores are consecutive positions of a scored sequence.
type scores struct {
	start, count int
	logits       []float32     // (count, vocabulary)
	layers       []layerScores // ascending, when asked for
}

// layerScores are one MoE layer's experts for all tokens of a step; those of the scored
// positions are the last ones.
type layerScores struct {
	layer   int
	experts []int32 // (tokens, TopK)
	weights []float32
}

func (r *results) reset() {
	*r = results{
		text:         r.text[:0],
		ids:          r.ids[:0],
		logprobs:     r.logprobs[:0],
		alternatives: r.alternatives[:0],
		score:        scores{logits: r.score.logits[:0], layers: r.score.layers[:0]},
	}
}

func newOutbox() *outbox { return &outbox{ready: make(chan struct{}, 1)} }

// put changes what there is to take. It returns with full set when the engine must hold
// the sequence.
func (b *outbox) put(change func(*results), full func(*results) bool) bool {
	b.mu.Lock()
	change(&b.next)
	b.full = b.full || full(&b.next)
	held := b.full
	b.mu.Unlock()
	b.wake()
	return held
}

func (b *outbox) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// take swaps what there is with r, which is reset. It reports whether the engine holds
// the sequence and must be told to release it.
func (b *outbox) take(r *results) (release bool) {
	r.reset()
	b.mu.Lock()
	defer b.mu.Unlock()
	*r, b.next = b.next, *r
	release, b.full = b.full, false
	return release && !r.done
}
