package coordinator

import (
	"cmp"
	"math"
	"slices"

	droverv1 "drover/proto/drover/v1"
)

const (
	maxStops       = 16
	maxStopBytes   = 1024
	maxStopTokens  = 1024
	maxBiases      = 1024
	maxTopLogprobs = 20
)

// newParams joins a request's sampling parameters with the defaults and checks them.
// pick returns the seed of a request without one.
func newParams(
	s *droverv1.Sampling, d Defaults, vocabulary int, pick func() uint64,
) (params, error) {
	p := params{
		temperature: d.Temperature,
		topK:        d.TopK,
		topP:        d.TopP,
		minP:        d.MinP,
		presence:    float64(s.GetPresencePenalty()),
		frequency:   float64(s.GetFrequencyPenalty()),
		repetition:  float64(s.GetRepetitionPenalty()),
	}
	if p.repetition == 0 {
		p.repetition = 1
	}
	if s != nil && s.Temperature != nil {
		p.temperature = float64(*s.Temperature)
	}
	if s != nil && s.TopK != nil {
		p.topK = int(min(*s.TopK, math.MaxInt32))
	}
	if s != nil && s.TopP != nil {
		p.topP = float64(*s.TopP)
	}
	if s != nil && s.MinP != nil {
		p.minP = float64(*s.MinP)
	}
	if err := p.validate(); err != nil {
		return params{}, err
	}
	biases, err := newBiases(s.GetLogitBias(), vocabulary)
	if err != nil {
		return params{}, err
	}
	p.bias = biases
	if s != nil && s.Seed != nil {
		p.seed = *s.Seed
	} else {
		p.seed = pick()
	}
	return p, nil
}

// validate checks the ranges; its comparisons are false for NaN.
func (p *params) validate() error {
	for _, f := range []struct {
		field string
		value float64
		ok    bool
		want  string
	}{
		{"temperature", p.temperature, p.temperature >= 0 && p.temperature <= 100, "0 to 100"},
		{"top_k", float64(p.topK), p.topK >= 0, "0 or more"},
		{"top_p", p.topP, p.topP > 0 && p.topP <= 1, "over 0, at most 1"},
		{"min_p", p.minP, p.minP >= 0 && p.minP < 1, "at least 0, below 1"},
		{"presence_penalty", p.presence, math.Abs(p.presence) <= 2, "-2 to 2"},
		{"frequency_penalty", p.frequency, math.Abs(p.frequency) <= 2, "-2 to 2"},
		{"repetition_penalty", p.repetition, p.repetition > 0 && p.repetition <= 10,
			"over 0, at most 10"},
	} {
		if !f.ok {
			return badField("sampling."+f.field, "is %v, want %s", f.value, f.want)
		}
	}
	return nil
}

func newBiases(m map[int32]float32, vocabulary int) ([]bias, error) {
	if len(m) > maxBiases {
		return nil, badField("sampling.logit_bias", "has %d entries, at most %d are allowed",
			len(m), maxBiases)
	}
	var list []bias
	for token, value := range m {
		list = append(list, bias{token, float64(value)})
	}
	slices.SortFunc(list, func(a, b bias) int { return cmp.Compare(a.token, b.token) })
	for _, b := range list {
		if b.token < 0 || int(b.token) >= vocabulary {
			return nil, badField("sampling.logit_bias", "token %d is not in the vocabulary of %d",
				b.token, vocabulary)
		}
		if !(math.Abs(b.value) <= 100) {
			return nil, badField("sampling.logit_bias", "token %d has %v, want -100 to 100",
				b.token, b.value)
		}
	}
	return list, nil
}

// checkTokens checks that ids are in the vocabulary.
func checkTokens(field string, ids []int32, vocabulary int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= vocabulary {
			return badField(field, "entry %d is token %d, which is not in the vocabulary of %d",
				i, id, vocabulary)
		}
	}
	return nil
}
