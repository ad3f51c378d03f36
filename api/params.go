package api

import (
	"encoding/json"
	"math"

	droverv1 "drover/proto/drover/v1"
)

// params are the fields that both kinds of completion have.
type params struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens        *int64             `json:"max_tokens"`
	N                *int               `json:"n"`
	Stop             stringList         `json:"stop"`
	Seed             *seed              `json:"seed"`
	Temperature      *float32           `json:"temperature"`
	TopP             *float32           `json:"top_p"`
	PresencePenalty  float32            `json:"presence_penalty"`
	FrequencyPenalty float32            `json:"frequency_penalty"`
	LogitBias        map[string]float32 `json:"logit_bias"`

	// Beyond OpenAI's, as other servers spell them.
	TopK              *uint32  `json:"top_k"`
	MinP              *float32 `json:"min_p"`
	RepetitionPenalty float32  `json:"repetition_penalty"`
	StopTokenIDs      []int32  `json:"stop_token_ids"`
	IgnoreEOS         bool     `json:"ignore_eos"`

	// begun is called when the coordinator has taken all that was asked.
	begun func()
}

const maxN = 8

// request makes the part of a GenerateRequest that does not depend on the prompt, and the
// number of answers to give.
func (p *params) request() (req *droverv1.GenerateRequest, n int, err error) {
	n = 1
	if p.N != nil {
		n = *p.N
	}
	if n < 1 || n > maxN {
		return nil, 0, badParam("n", "is %d, want 1 to %d", n, maxN)
	}
	maxTokens, err := tokenLimit("max_tokens", p.MaxTokens)
	if err != nil {
		return nil, 0, err
	}
	bias, err := biases(p.LogitBias)
	if err != nil {
		return nil, 0, err
	}
	return &droverv1.GenerateRequest{
		Model:     p.Model,
		MaxTokens: maxTokens,
		Stop:      p.Stop,
		Sampling: &droverv1.Sampling{
			Temperature: p.Temperature, TopK: p.TopK, TopP: p.TopP, MinP: p.MinP,
			PresencePenalty: p.PresencePenalty, FrequencyPenalty: p.FrequencyPenalty,
			RepetitionPenalty: p.RepetitionPenalty, LogitBias: bias,
		},
		StopTokenIds: p.StopTokenIDs,
		IgnoreEos:    p.IgnoreEOS,
	}, n, nil
}

// tokenLimit reads a bound on tokens; without one it is 0, which means no bound.
func tokenLimit(param string, limit *int64) (uint32, error) {
	if limit == nil {
		return 0, nil
	}
	if *limit < 1 {
		return 0, badParam(param, "is %d, want 1 or more", *limit)
	}
	return uint32(min(*limit, math.MaxUint32)), nil
}

// refuseSet refuses fields that were given, which must be in pairs of name and value.
func refuseSet(why string, fields ...field) error {
	for _, f := range fields {
		if isSet(f.value) {
			return unsupported(f.name, "%s", why)
		}
	}
	return nil
}

type field struct {
	name  string
	value json.RawMessage
}
