package coordinator

import (
	"context"
	"math"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	droverv1 "drover/proto/drover/v1"
)

// Generate streams an answer. The token that ended it by being an end or stop token is
// neither sent nor counted; the tokens that spell a stop string are, though their text
// is not sent from the stop string on.
func (c *Coordinator) Generate(
	req *droverv1.GenerateRequest, out grpc.ServerStreamingServer[droverv1.GenerateResponse],
) (err error) {
	arrival := time.Now()
	r, err := c.newGeneration(out.Context(), req)
	defer func() {
		err = toStatus(err)
		c.recorder.record(operationOf(req), r, arrival, err)
	}()
	if err != nil {
		return err
	}
	r.arrival, r.canary = arrival, c.isCanary(out.Context())
	over := r.generation.reason != 0 // a resumed answer that lacks only its end
	if !over {
		if err := c.submit(r); err != nil {
			return err
		}
	}
	if err = c.stream(r, over, out); err != nil && !over {
		c.post(verbCancel, r)
	}
	return err
}

// stream sends a request's messages: all that the engine makes or, if the answer is over,
// what is left of it.
func (c *Coordinator) stream(
	r *request, over bool, out grpc.ServerStreamingServer[droverv1.GenerateResponse],
) error {
	g := r.generation
	err := out.Send(&droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Started{
		Started: &droverv1.Started{
			RequestId:        r.name,
			Model:            c.opts.Name,
			PromptTokenCount: uint32(len(r.prompt)),
			Seed:             g.params.seed,
			Fingerprint:      c.print,
		},
	}})
	if err != nil {
		return err
	}
	send := func(o *results) error {
		if delta := c.delta(o, g.logprobs); delta != nil {
			return out.Send(delta)
		}
		return nil
	}
	end := func(e ending) error {
		r.ended = e
		return out.Send(finished(r, e))
	}
	if !over {
		return c.follow(out.Context(), r, send, end)
	}
	var o results
	r.box.take(&o)
	if err := send(&o); err != nil {
		return err
	}
	return end(ending{reason: g.reason, stop: g.stop, tokens: g.count})
}

// follow takes a request's results until it is done, and hands each to send; end is for
// the last thing of a request that went well.
func (c *Coordinator) follow(
	ctx context.Context, r *request, send func(*results) error, end func(ending) error,
) error {
	var o results
	for {
		select {
		case <-r.box.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.box.take(&o) {
			c.post(verbRelease, r)
		}
		if err := send(&o); err != nil {
			return err
		}
		if o.done && o.err != nil {
			return o.err
		}
		if o.done {
			return end(o.ending)
		}
	}
}

// newGeneration checks a request and makes the engine's form of it.
func (c *Coordinator) newGeneration(
	ctx context.Context, req *droverv1.GenerateRequest,
) (*request, error) {
	if err := checkSize(req); err != nil {
		return nil, err
	}
	if err := c.checkModel(req.GetModel()); err != nil {
		return nil, err
	}
	if err := c.checkResume(req); err != nil {
		return nil, err
	}
	g, err := c.newState(req)
	if err != nil {
		return nil, err
	}
	prompt, err := c.prompts.tokens(ctx, req)
	if err != nil {
		return nil, err
	}
	room := c.context - len(prompt)
	if room < 1 {
		return nil, badField("prompt", "has %d tokens; with an answer it must fit into a context "+
			"of %d tokens", len(prompt), c.context)
	}
	if g.maxTokens = room; req.GetMaxTokens() > 0 {
		g.maxTokens = min(room, int(min(req.GetMaxTokens(), math.MaxInt32)))
	}
	if g.params.penalises() {
		g.seen = map[int32]int{}
		for _, id := range prompt {
			g.seen[id] = 0
		}
	}
	text, err := g.resume(req.GetResume())
	if err != nil {
		return nil, err
	}
	r := c.newRequest(request{prompt: prompt, resumed: req.GetResume().GetTokenIds(),
		limit: len(prompt) + g.maxTokens - 1, // the last token is not fed any more
		name:  req.GetResume().GetRequestId(), generation: g})
	if len(text) > 0 {
		r.box.put(func(o *results) { o.text = append(o.text, text...) },
			func(*results) bool { return false })
	}
	return r, nil
}

// newState is the state of an answer to a request before its prompt is known.
func (c *Coordinator) newState(req *droverv1.GenerateRequest) (*generation, error) {
	p, err := newParams(req.GetSampling(), c.opts.Defaults, c.spec.Vocabulary, rand.Uint64)
	if err != nil {
		return nil, err
	}
	if p.seed, err = resumedSeed(req, &p); err != nil {
		return nil, err
	}
	g := &generation{params: p, logprobs: -1, maxUnread: c.opts.MaxUnreadTokens}
	if req.TopLogprobs != nil {
		if *req.TopLogprobs > maxTopLogprobs {
			return nil, badField("top_logprobs", "is %d, want 0 to %d", *req.TopLogprobs, maxTopLogprobs)
		}
		g.logprobs = min(int(*req.TopLogprobs), c.spec.Vocabulary)
	}
	if c.prompts.tok != nil {
		g.tokenizer, g.stream = c.prompts.tok, c.prompts.tok.NewStream(true)
	}
	return g, c.setStops(g, req)
}

func (c *Coordinator) newRequest(r request) *request {
	r.id = c.lastID.Add(1)
	if r.name == "" {
		r.name = requestName()
	}
	r.arrival = time.Now()
	r.box = newOutbox()
	return &r
}

func (c *Coordinator) checkModel(name string) error {
	if name != "" && name != c.opts.Name {
		return badField("model", "%q is not served here; %q is", name, c.opts.Name)
	}
	return nil
}

// setStops checks and sets what ends an answer.
func (c *Coordinator) setStops(g *generation, req *droverv1.GenerateRequest) error {
	switch {
	case len(req.GetStop()) > maxStops:
		return badField("stop", "has %d strings, at most %d are allowed", len(req.GetStop()), maxStops)
	case len(req.GetStop()) > 0 && c.prompts.tok == nil:
		return &preconditionError{"stop: this model has no tokenizer; give stop_token_ids"}
	case len(req.GetStopTokenIds()) > maxStopTokens:
		return badField("stop_token_ids", "has %d entries, at most %d are allowed",
			len(req.GetStopTokenIds()), maxStopTokens)
	}
	for i, s := range req.GetStop() {
		if s == "" || len(s) > maxStopBytes || !utf8.ValidString(s) {
			return badField("stop", "entry %d has %d bytes; want 1 to %d of valid UTF-8",
				i, len(s), maxStopBytes)
		}
	}
	if err := checkTokens("stop_token_ids", req.GetStopTokenIds(), c.spec.Vocabulary); err != nil {
		return err
	}
	g.stopper.stops = req.GetStop()
	g.stops = map[int32]bool{}
	for _, id := range req.GetStopTokenIds() {
		g.stops[id] = true
	}
	if !req.GetIgnoreEos() {
		for id := range c.eos {
			g.stops[id] = true
		}
	}
	return nil
}

// delta is the message for new tokens and text, or nil when there are none. The message
// owns its slices: gRPC may still read them after Send.
func (c *Coordinator) delta(o *results, logprobs int) *droverv1.GenerateResponse {
	if len(o.ids) == 0 && len(o.text) == 0 {
		return nil
	}
	d := &droverv1.Delta{TokenIds: append([]int32(nil), o.ids...), Text: string(o.text)}
	for i, lp := range o.logprobs {
		t := &droverv1.TokenLogprobs{TokenId: o.ids[i], Logprob: lp, Token: c.tokenBytes(o.ids[i])}
		for _, a := range o.alternatives[i*logprobs : (i+1)*logprobs] {
			t.Alternatives = append(t.Alternatives, &droverv1.Alternative{
				TokenId: a.token, Logprob: float32(a.logit), Token: c.tokenBytes(a.token)})
		}
		d.Logprobs = append(d.Logprobs, t)
	}
	return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Delta{Delta: d}}
}

func (c *Coordinator) tokenBytes(id int32) []byte {
	if c.prompts.tok == nil {
		return nil
	}
	return c.prompts.tok.Bytes(id)
}

func finished(r *request, e ending) *droverv1.GenerateResponse {
	return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Finished{
		Finished: &droverv1.Finished{
			Reason:           e.reason,
			PromptTokenCount: uint32(len(r.prompt)),
			TokenCount:       uint32(e.tokens),
			FirstTokenMicros: uint64(e.firstToken.Microseconds()),
			TotalMicros:      uint64(e.total.Microseconds()),
			Stop:             e.stop,
		},
	}}
}
