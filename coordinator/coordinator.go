// Package coordinator is the engine: it turns requests into sequences, runs the model on
// what the scheduler chooses, samples, and streams the answers.
//
// Rules that the files rely on:
//
//   - C1, one owner: the goroutine of Coordinator.run alone touches the scheduler, the
//     sampler and the model. The others leave commands in the inbox, and read results
//     from their outbox.
//   - C2, no waiting: that goroutine never waits for a client. A client that reads slowly
//     has its sequence held; one that went away has it cancelled before the next step.
//   - C3, same bytes: a token depends on the request alone, never on its batch mates:
//     random numbers are a function of seed and position, sums run in a fixed order.
//   - C4, it goes on: an error or a panic in a step ends that step's requests and no other.
package coordinator

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"drover/model"
	droverv1 "drover/proto/drover/v1"
	"drover/scheduler"
	"drover/tokenizer"
)

// Coordinator serves one model.
type Coordinator struct {
	droverv1.UnimplementedCoordinatorServiceServer

	opts      Options           // fixed after New
	spec      model.Spec        // fixed after New
	schedOpts scheduler.Options // fixed after New
	context   int               // fixed after New: most tokens of a sequence
	prompts   *prompter         // fixed after New
	eos       map[int32]bool    // fixed after New
	print     string            // fixed after New: the fingerprint
	engine    *engine           // owned by run
	recorder  *recorder         // fixed after New
	lastID    atomic.Uint64

	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	wake   chan struct{} // has a value when the inbox does

	mu     sync.Mutex // guards the fields below
	inbox  []command  // at most a few for each open request
	open   int        // requests that the engine has not forgotten
	scores int        // those of them that score
	closed bool
	stats  Stats
}

// Stats are counters since New, and what the scheduler holds now.
type Stats struct {
	scheduler.Stats
	// Steps counts all steps, FailedSteps those that ended with an error.
	Steps, FailedSteps int
	// PrefillTokens and DecodeTokens count the tokens of steps that went well. A
	// preempted sequence's tokens count as prefill when they run again.
	PrefillTokens, DecodeTokens int
	// StepTime is the time in steps, ForwardTime the model's part of it; IdleTime is the
	// time without anything to run.
	StepTime, ForwardTime, IdleTime time.Duration
	// MicroBatches is how many the last step had. HidingMicroBatches is how many hide the
	// network by the formula, from what was measured lately: OneWay to the experts, and the
	// time for one micro-batch and layer here (Here) and at the experts (There).
	MicroBatches, HidingMicroBatches int
	OneWay, Here, There              time.Duration
}

// command is a message to the engine.
type command struct {
	verb    verb
	request *request
}

type verb int

const (
	verbAdd verb = iota
	verbCancel
	verbRelease
)

// New starts a coordinator for a model. The tokenizer may be nil, for a checkpoint that
// has none: then only prompts of token ids can be served. Close ends it.
func New(m model.Model, tok *tokenizer.Tokenizer, opts Options) (*Coordinator, error) {
	c, err := build(m, tok, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.run(ctx)
	return c, nil
}

// build makes a coordinator whose engine does not run yet.
func build(m model.Model, tok *tokenizer.Tokenizer, opts Options) (*Coordinator, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	spec := m.Spec()
	if spec.Vocabulary < 1 {
		return nil, fmt.Errorf("coordinator: the model has a vocabulary of %d", spec.Vocabulary)
	}
	so := schedulerOptions(spec, opts)
	blocks, err := cacheBlocks(spec, so, opts.KVBytes)
	if err != nil {
		return nil, err
	}
	for i, g := range spec.KV {
		so.Groups = append(so.Groups, scheduler.Group{Blocks: blocks[i], Chunk: g.Chunk})
	}
	sched, err := scheduler.New(so)
	if err != nil {
		return nil, err
	}
	cache, err := m.NewCache(blocks, so.BlockTokens)
	if err != nil {
		return nil, fmt.Errorf("make KV cache: %w", err)
	}
	c := &Coordinator{
		opts:      opts,
		spec:      spec,
		schedOpts: so,
		context:   min(spec.MaxTokens, sched.LongestTokens()),
		prompts:   newPrompter(tok, spec.BOS, spec.Vocabulary),
		eos:       map[int32]bool{},
		done:      make(chan struct{}),
		wake:      make(chan struct{}, 1),
		stats:     Stats{Stats: sched.Stats()},
		recorder:  newRecorder(),
	}
	for _, id := range spec.EOS {
		c.eos[id] = true
	}
	c.print = c.fingerprint()
	c.engine = newEngine(m, cache, sched, c)
	return c, nil
}

const (
	// blockTokens is the number of positions in a KV block. Attention sums block by block,
	// so another number means other bytes: it is no option (P2).
	blockTokens = 16
	// maxScoreBytes bounds the logits of a step of one scored sequence.
	maxScoreBytes = 16 << 20
	// maxScores bounds the scored sequences that run and wait.
	maxScores = 8
)

func schedulerOptions(spec model.Spec, o Options) scheduler.Options {
	return scheduler.Options{
		BlockTokens:      blockTokens,
		MaxSequences:     o.MaxSequences,
		MaxWaiting:       o.MaxWaiting,
		MaxBatchTokens:   o.MaxBatchTokens,
		MaxPrefillTokens: o.MaxPrefillTokens,
		MaxScoreTokens:   min(max(maxScoreBytes/4/spec.Vocabulary, 1), 16),
	}
}

// Close ends the open requests with UNAVAILABLE, stops the engine and waits for it.
func (c *Coordinator) Close() {
	c.cancel()
	<-c.done
}

// Register adds the coordinator's service to a gRPC server.
func (c *Coordinator) Register(s grpc.ServiceRegistrar) {
	droverv1.RegisterCoordinatorServiceServer(s, c)
}

// Stats returns the counters.
func (c *Coordinator) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// submit hands a request to the engine, or refuses it.
func (c *Coordinator) submit(r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case c.open >= c.opts.MaxSequences+c.opts.MaxWaiting,
		r.scoring != nil && c.scores == maxScores:
		return scheduler.ErrFull
	}
	c.open++
	r.queued = time.Now()
	if r.scoring != nil {
		c.scores++
	}
	c.postLocked(verbAdd, r)
	return nil
}

// post leaves a command for the engine and wakes it.
func (c *Coordinator) post(v verb, r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.postLocked(v, r)
}

func (c *Coordinator) postLocked(v verb, r *request) {
	if c.closed {
		return
	}
	c.inbox = append(c.inbox, command{v, r})
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
