package coordinator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	droverv1 "drover/proto/drover/v1"
	"drover/scheduler"
	"drover/tokenizer"
)

// request is one call as the engine sees it. After submit the engine owns it; the
// goroutine that serves the call uses name, prompt and box only.
type request struct {
	id      uint64
	name    string // random, for people and logs
	prompt  []int32
	resumed []int32 // tokens of the answer that the client had at the start
	limit   int     // most tokens that the model will be fed
	arrival time.Time
	queued  time.Time // when the engine was told of it
	begun   bool      // it was part of a step
	canary  bool      // not somebody's
	ended   ending    // of a generation that is complete; its serving goroutine's
	box     *outbox

	generation *generation // one of these two
	scoring    *scoring

	done bool  // the last step ended it
	err  error // with this error
	hold bool  // its client is behind
}

// generation is the state of an answer that grows.
type generation struct {
	params    params
	logprobs  int // alternatives for each token; -1 for no log-probabilities
	maxTokens int
	stops     map[int32]bool // tokens that end it
	maxUnread int
	tokenizer *tokenizer.Tokenizer // nil if there is none
	stream    *tokenizer.Stream    // nil without a tokenizer
	stopper   stopper
	skip      int           // bytes of the text to come that the client has already
	seen      map[int32]int // for penalties; nil when there are none

	count  int
	first  time.Time // of the first token
	last   time.Time
	reason droverv1.FinishReason
	stop   string
}

// scoring is the state of a scored sequence.
type scoring struct {
	withExperts bool
	layers      []layerScores // filled while a step runs
	topK        int
}

// requestName is a random 128-bit number in hexadecimal.
func requestName() string {
	return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
}

// knownCount is the number of tokens that need not be chosen.
func (r *request) knownCount() int { return len(r.prompt) + len(r.resumed) }

// sequence is the request as the scheduler sees it: to prefill what a client has of its
// answer gives the same keys and values as having generated it (C3).
func (r *request) sequence() scheduler.Sequence {
	return scheduler.Sequence{ID: r.id, Prompt: slices.Concat(r.prompt, r.resumed), Limit: r.limit,
		Score: r.scoring != nil}
}

// ending says how the request ended, or how far it came.
func (r *request) ending() ending {
	g := r.generation
	if g == nil {
		return ending{total: time.Since(r.arrival)}
	}
	e := ending{reason: g.reason, stop: g.stop, tokens: g.count}
	if !g.first.IsZero() {
		e.firstToken, e.total = g.first.Sub(r.arrival), g.last.Sub(r.arrival)
	}
	return e
}

// trace is the func that records the experts of count tokens during a step, or nil.
func (r *request) trace(count int) func(int, []int32, []float32) {
	s := r.scoring
	if s == nil || !s.withExperts {
		return nil
	}
	s.layers = s.layers[:0]
	return func(layer int, experts []int32, weights []float32) {
		if len(experts) != count*s.topK || len(weights) != len(experts) {
			panic(fmt.Sprintf("%d experts and %d weights for %d tokens", len(experts), len(weights), count))
		}
		s.layers = append(s.layers, layerScores{layer,
			append([]int32(nil), experts...), append([]float32(nil), weights...)})
	}
}

// deliver takes a step's logits, of at least one position, and puts what follows from
// them into the outbox.
func (r *request) deliver(e *engine, p *scheduler.Part, logits []float32) scheduler.Result {
	vocabulary := e.c.spec.Vocabulary
	last := p.Start + len(p.Tokens) - 1
	if i := notFinite(logits); i >= 0 {
		r.done = true
		r.err = &logitsError{last + 1 - p.Logits + i/vocabulary, i % vocabulary, logits[i]}
		return scheduler.Result{Finish: true}
	}
	if r.scoring != nil {
		r.deliverScores(p, logits)
		r.done = last == len(r.prompt)-1
		return scheduler.Result{}
	}
	was := r.generation.last
	result := r.deliverToken(&e.sampler, logits, last+1)
	if !was.IsZero() {
		e.c.recorder.gap.ObserveTime(r.generation.last.Sub(was))
	}
	return result
}

func (r *request) deliverScores(p *scheduler.Part, logits []float32) {
	s := r.scoring
	r.hold = r.box.put(func(o *results) {
		o.score.start = p.Start + len(p.Tokens) - p.Logits
		o.score.count = p.Logits
		o.score.logits = append(o.score.logits[:0], logits...)
		o.score.layers = append(o.score.layers[:0], s.layers...)
	}, func(*results) bool { return true })
}

// deliverToken chooses the token for a position and says what becomes of the sequence.
// An end token is neither counted nor delivered.
func (r *request) deliverToken(s *sampler, row []float32, position int) scheduler.Result {
	g := r.generation
	token := s.choose(row, &g.params, g.seen, position)
	g.last = time.Now()
	if g.first.IsZero() {
		g.first = g.last
	}
	if g.stops[token] {
		g.reason = droverv1.FinishReason_FINISH_REASON_STOP
		r.end()
		return scheduler.Result{Finish: true}
	}
	if g.skip > 0 { // only the end of an answer sends what is held back
		return r.refuseSkip()
	}
	sure := g.accept(token)
	r.hold = r.box.put(func(o *results) {
		o.ids = append(o.ids, token)
		o.text = append(o.text, sure...)
		if g.logprobs >= 0 {
			o.addLogprobs(s, row, token, g.logprobs)
		}
	}, func(o *results) bool { return len(o.ids) >= g.maxUnread })
	if g.reason != 0 {
		r.end()
	}
	return scheduler.Result{Token: token, Finish: r.done}
}

// accept takes a token that does not end the answer by itself, and returns the text that
// is certain by now, valid until the next call. If the answer ends with it, reason is set.
func (g *generation) accept(token int32) []byte {
	g.count++
	if g.seen != nil {
		g.seen[token]++
	}
	text := ""
	if g.stream != nil {
		text = g.stream.Push(token)
	}
	if g.count == g.maxTokens {
		g.reason = droverv1.FinishReason_FINISH_REASON_LENGTH
	}
	return g.cut(text)
}

// cut returns what is certain of the text after more of it has come. A stop string in it
// ends the answer.
func (g *generation) cut(text string) []byte {
	sure, stop := g.stopper.push(text)
	if stop != "" {
		g.stop, g.reason = stop, droverv1.FinishReason_FINISH_REASON_STOP
	}
	return sure
}

// rest returns the text that was held back, of an answer that has ended. After a stop
// string there is none.
func (g *generation) rest() []byte {
	if g.stream == nil || g.stop != "" {
		return nil
	}
	text := slices.Clone(g.cut(g.stream.Flush()))
	if g.stop == "" {
		text = append(text, g.stopper.flush()...)
	}
	return text
}

// end ends the answer.
func (r *request) end() {
	g := r.generation
	r.done = true
	text := g.rest()
	if g.skip > len(text) {
		r.refuseSkip()
		return
	}
	r.box.put(func(o *results) { o.text = append(o.text, text[g.skip:]...) },
		func(*results) bool { return false })
}

// refuseSkip ends a resumed answer whose client has text that is not this answer's.
func (r *request) refuseSkip() scheduler.Result {
	r.done = true
	r.err = badField("resume.text_bytes", "is %d bytes beyond the text of resume.token_ids, "+
		"after which this answer goes on otherwise", r.generation.skip)
	return scheduler.Result{Finish: true}
}

// addLogprobs appends the token's log-probability and its row's n best alternatives.
func (o *results) addLogprobs(s *sampler, row []float32, token int32, n int) {
	sum := logSum(row)
	o.logprobs = append(o.logprobs, float32(float64(row[token])-sum))
	s.top = bestOf(row, n, s.top)
	for _, c := range s.top {
		c.logit -= sum
		o.alternatives = append(o.alternatives, c)
	}
}

func shapeError(n, dim, wantN, wantDim int) error {
	return fmt.Errorf("the model returned (%d, %d) logits, want (%d, %d)", n, dim, wantN, wantDim)
}
