package api

import (
	"encoding/json"
	"net/http"

	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
)

// completionRequest is the body of POST /v1/completions.
type completionRequest struct {
	params
	Prompt   prompts         `json:"prompt"`
	Logprobs *int            `json:"logprobs"`
	Echo     bool            `json:"echo"`
	BestOf   *int            `json:"best_of"`
	Suffix   json.RawMessage `json:"suffix"`
}

const maxPrompts = 16

func (s *server) completions(w http.ResponseWriter, r *http.Request) {
	var body completionRequest
	begun, err := s.readInTurn(w, r, &body)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer begun()
	body.begun = begun
	requests, err := body.requests()
	if err != nil {
		s.fail(w, err)
		return
	}
	s.serve(w, r, &body.params, requests, textShape{logprobs: body.Logprobs != nil})
}

// requests makes one GenerateRequest for each choice: n for the first prompt, and so on.
func (c *completionRequest) requests() ([]*droverv1.GenerateRequest, error) {
	base, n, err := c.params.request()
	switch {
	case err != nil:
		return nil, err
	case len(c.Prompt) == 0:
		return nil, badParam("prompt", "is missing or empty")
	case len(c.Prompt) > maxPrompts:
		return nil, badParam("prompt", "has %d prompts, at most %d are allowed", len(c.Prompt),
			maxPrompts)
	case len(c.Prompt)*n > maxChoices:
		return nil, badParam("prompt", "%d prompts times n of %d are more than %d answers",
			len(c.Prompt), n, maxChoices)
	case c.Echo:
		return nil, unsupported("echo", "is not supported")
	case c.BestOf != nil && *c.BestOf != n:
		return nil, unsupported("best_of", "is not supported; use n")
	case c.Logprobs != nil && (*c.Logprobs < 0 || *c.Logprobs > maxTopLogprobs):
		return nil, badParam("logprobs", "is %d, want 0 to %d", *c.Logprobs, maxTopLogprobs)
	}
	if err := refuseSet("is not supported", field{"suffix", c.Suffix}); err != nil {
		return nil, err
	}
	if c.Logprobs != nil {
		top := uint32(*c.Logprobs)
		base.TopLogprobs = &top
	}
	if c.MaxTokens == nil {
		base.MaxTokens = 16 // OpenAI's default here
	}
	var out []*droverv1.GenerateRequest
	for _, p := range c.Prompt {
		base.Prompt = &droverv1.GenerateRequest_Text{Text: p.text}
		if p.tokens != nil {
			base.Prompt = &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: p.tokens}}
		}
		out = c.choices(out, base, n)
	}
	return out, nil
}

// choices appends n copies of a request, which differ in their seeds: that of the i-th is
// the request's plus i, so that it can be had again alone. Without a seed the coordinator
// chooses one for each.
func (p *params) choices(
	out []*droverv1.GenerateRequest, base *droverv1.GenerateRequest, n int,
) []*droverv1.GenerateRequest {
	for i := range n {
		req := proto.CloneOf(base)
		if p.Seed != nil {
			req.Sampling.Seed = proto.Uint64(uint64(*p.Seed) + uint64(i))
		}
		out = append(out, req)
	}
	return out
}
