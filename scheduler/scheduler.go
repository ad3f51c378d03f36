// Package scheduler decides which tokens run in the next step.
//
// A Scheduler holds sequences and the numbers of the KV blocks that they occupy.
// It is a plain value: no clock, no lock, no goroutine, no tensors. Its driver asks
// Next for a Batch, runs it, and hands back what came of it with Commit or Fail.
//
// Rules that the rest relies on:
//
//   - S1, order: sequences are admitted in order of arrival, and when blocks run out the
//     latest arrival loses its blocks. So the oldest sequence always moves on, and each
//     becomes the oldest in time: none starves.
//   - S2, once: each life of a sequence computes its tokens once, in order, from position
//     0. A life ends when the sequence is preempted; what it has generated is kept and is
//     prefilled again in the next life.
//   - S3, fit: a sequence is accepted only if it could reach its limit alone in the cache.
package scheduler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// ErrFull says that as many sequences run and wait as the options allow.
var ErrFull = errors.New("scheduler: too many sequences are running and waiting")

// ErrTooLong says that a sequence would not fit into the KV cache even alone.
var ErrTooLong = errors.New("scheduler: sequence does not fit into the KV cache")

// Sequence describes a sequence that wants to be run.
type Sequence struct {
	// ID names the sequence; it is never used twice.
	ID uint64
	// Prompt holds the first tokens, at least one. The scheduler does not change it.
	Prompt []int32
	// Limit is the most tokens the sequence will ever feed to the model: at least the
	// prompt. A generated token that ends the sequence is not fed any more.
	Limit int
	// Score asks for the logits of every position of the prompt instead of new tokens.
	Score bool
}

// Batch is one step's work. It and its parts are valid until Commit or Fail.
type Batch struct {
	// Parts are the sequences' shares: first those that decode, then those that
	// prefill, each in order of arrival.
	Parts []Part
}

// Part is one sequence's share of a step.
type Part struct {
	// ID names the sequence.
	ID uint64
	// Start is the position of the first of Tokens.
	Start int
	// Tokens are the tokens to run.
	Tokens []int32
	// Tables holds the block table of each KV group; entry i is the block for positions
	// i*BlockTokens and on, or -1 where the group's chunk has passed.
	Tables [][]int32
	// Logits is how many of the last tokens need logits.
	Logits int
}

// Result is what came of one part whose Logits was not 0. That of a scored part or of
// one without logits is ignored.
type Result struct {
	// Token is the sequence's next token.
	Token int32
	// Finish ends the sequence instead of going on with Token.
	Finish bool
}

// Scheduler holds sequences and KV blocks.
type Scheduler struct {
	opts    Options
	pools   []pool
	byID    map[uint64]*sequence
	running []*sequence // hold blocks; ascending arrival
	waiting []*sequence // hold none; ascending arrival
	arrived uint64
	preempt int // count of preemptions so far

	batch    Batch
	inFlight bool        // a batch is out
	budget   int         // tokens left in the batch that Next builds
	order    []*sequence // scratch of Next
}

// sequence is a Sequence and how far it has come.
type sequence struct {
	Sequence
	arrival  uint64
	tokens   []int32   // prompt and what was generated
	computed int       // tokens whose keys and values are in the cache
	scored   int       // positions whose logits have been delivered, when Score
	tables   [][]int32 // per KV group
	passed   []int     // per KV group: leading table entries that are -1
	running  bool
	held     bool
}

// New makes a scheduler without sequences.
func New(opts Options) (*Scheduler, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Scheduler{opts: opts, byID: map[uint64]*sequence{}}
	for _, g := range opts.Groups {
		s.pools = append(s.pools, newPool(g, opts.BlockTokens))
	}
	return s, nil
}

// Add queues a sequence. It returns ErrFull, or ErrTooLong with the numbers.
func (s *Scheduler) Add(q Sequence) error {
	switch {
	case len(q.Prompt) == 0:
		return fmt.Errorf("scheduler: sequence %d has no tokens", q.ID)
	case q.Limit < len(q.Prompt):
		return fmt.Errorf("scheduler: sequence %d: limit %d is below its prompt's %d tokens",
			q.ID, q.Limit, len(q.Prompt))
	case s.byID[q.ID] != nil:
		return fmt.Errorf("scheduler: sequence %d exists already", q.ID)
	case q.Limit > s.LongestTokens():
		return fmt.Errorf("%w: it may grow to %d tokens, the cache has room for %d",
			ErrTooLong, q.Limit, s.LongestTokens())
	case len(s.byID) >= s.opts.MaxSequences+s.opts.MaxWaiting:
		return ErrFull
	}
	s.arrived++
	n := &sequence{
		Sequence: q,
		arrival:  s.arrived,
		tokens:   slices.Clone(q.Prompt),
		tables:   make([][]int32, len(s.pools)),
		passed:   make([]int, len(s.pools)),
	}
	s.byID[q.ID] = n
	s.waiting = append(s.waiting, n)
	return nil
}

// Commit takes the results of the batch that Next returned last, one for each part.
// Sequences that were cancelled meanwhile are passed over.
func (s *Scheduler) Commit(b *Batch, results []Result) {
	s.land(b)
	if len(results) != len(b.Parts) {
		panic(fmt.Sprintf("scheduler: %d results for %d parts", len(results), len(b.Parts)))
	}
	for i := range b.Parts {
		p := &b.Parts[i]
		q := s.byID[p.ID]
		if q == nil {
			continue
		}
		q.computed = p.Start + len(p.Tokens)
		switch {
		case q.Score:
			q.scored = max(q.scored, q.computed)
			if q.computed == len(q.tokens) {
				s.remove(q)
			}
		case p.Logits == 0:
		case results[i].Finish:
			s.remove(q)
		case len(q.tokens) == q.Limit:
			panic(fmt.Sprintf("scheduler: sequence %d grows over its limit", q.ID))
		default:
			q.tokens = append(q.tokens, results[i].Token)
		}
	}
}

// Fail drops the sequences of the batch that Next returned last.
func (s *Scheduler) Fail(b *Batch) {
	s.land(b)
	for i := range b.Parts {
		s.Cancel(b.Parts[i].ID)
	}
}

// land ends the flight of a batch.
func (s *Scheduler) land(b *Batch) {
	if !s.inFlight || b != &s.batch {
		panic("scheduler: this batch is not out")
	}
	s.inFlight = false
}

// Cancel drops a sequence and frees its blocks at once. If a batch is out, it may still
// touch them; no other sequence gets them before the next batch. Cancel reports whether
// there was such a sequence.
func (s *Scheduler) Cancel(id uint64) bool {
	q := s.byID[id]
	if q != nil {
		s.remove(q)
	}
	return q != nil
}

// Hold keeps a sequence out of batches until Release: its consumer is behind. A held
// sequence is the first to lose its blocks.
func (s *Scheduler) Hold(id uint64) {
	if q := s.byID[id]; q != nil {
		q.held = true
	}
}

// Release undoes Hold.
func (s *Scheduler) Release(id uint64) {
	if q := s.byID[id]; q != nil {
		q.held = false
	}
}

// Stats counts what a scheduler holds.
type Stats struct {
	// Running sequences hold blocks; Waiting ones do not.
	Running, Waiting int
	// BlocksUsed and Blocks are summed over the KV groups.
	BlocksUsed, Blocks int
	// Preemptions counts the lives that ended early since New.
	Preemptions int
}

// Stats counts what the scheduler holds now.
func (s *Scheduler) Stats() Stats {
	st := Stats{Running: len(s.running), Waiting: len(s.waiting), Preemptions: s.preempt}
	for i := range s.pools {
		st.Blocks += s.pools[i].blocks
		st.BlocksUsed += s.pools[i].blocks - len(s.pools[i].free)
	}
	return st
}

// remove forgets a sequence.
func (s *Scheduler) remove(q *sequence) {
	s.release(q)
	delete(s.byID, q.ID)
	if q.running {
		s.running = without(s.running, q)
	} else {
		s.waiting = without(s.waiting, q)
	}
	q.running = false
}

func byArrival(a, b *sequence) int { return cmp.Compare(a.arrival, b.arrival) }

// without removes q from a list sorted by arrival.
func without(list []*sequence, q *sequence) []*sequence {
	i, _ := slices.BinarySearchFunc(list, q, byArrival)
	return slices.Delete(list, i, i+1)
}

// with inserts q into a list sorted by arrival.
func with(list []*sequence, q *sequence) []*sequence {
	i, _ := slices.BinarySearchFunc(list, q, byArrival)
	return slices.Insert(list, i, q)
}
