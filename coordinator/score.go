package coordinator

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc"

	droverv1 "drover/proto/drover/v1"
)

// Score streams the logits of every position. The engine runs a few positions, and the
// next ones only when these have been taken.
func (c *Coordinator) Score(
	req *droverv1.ScoreRequest, out grpc.ServerStreamingServer[droverv1.ScoreResponse],
) (err error) {
	arrival := time.Now()
	r, err := c.newScoring(req)
	defer func() {
		err = toStatus(err)
		c.recorder.record(OperationScore, r, arrival, err)
	}()
	if err != nil {
		return err
	}
	if err := c.submit(r); err != nil {
		return err
	}
	err = c.follow(out.Context(), r, func(o *results) error {
		for i := range o.score.count {
			if err := out.Send(c.scoreResponse(&o.score, i)); err != nil {
				return err
			}
		}
		return nil
	}, func(ending) error { return nil })
	if err != nil {
		c.post(verbCancel, r)
	}
	return err
}

func (c *Coordinator) newScoring(req *droverv1.ScoreRequest) (*request, error) {
	if err := checkSize(req); err != nil {
		return nil, err
	}
	ids := req.GetTokenIds()
	switch {
	case !c.opts.AllowScore:
		return nil, errScoreForbidden
	case len(ids) == 0:
		return nil, badField("token_ids", "is empty")
	case len(ids) > c.context:
		return nil, badField("token_ids", "has %d tokens, the context has room for %d",
			len(ids), c.context)
	}
	if err := c.checkModel(req.GetModel()); err != nil {
		return nil, err
	}
	if err := checkTokens("token_ids", ids, c.spec.Vocabulary); err != nil {
		return nil, err
	}
	s := &scoring{withExperts: req.GetWithExperts(), topK: c.spec.MoE.TopK}
	return c.newRequest(request{prompt: ids, limit: len(ids), scoring: s}), nil
}

// scoreResponse is the message for the i-th position of some.
func (c *Coordinator) scoreResponse(s *scores, i int) *droverv1.ScoreResponse {
	vocabulary := c.spec.Vocabulary
	m := &droverv1.ScoreResponse{
		Position: uint32(s.start + i),
		Logits:   make([]byte, 0, 4*vocabulary),
	}
	for _, l := range s.logits[i*vocabulary : (i+1)*vocabulary] {
		m.Logits = binary.LittleEndian.AppendUint32(m.Logits, math.Float32bits(l))
	}
	topK := c.spec.MoE.TopK
	for _, l := range s.layers {
		at := len(l.experts) - (s.count-i)*topK // the scored positions come last
		layer := &droverv1.LayerExperts{
			Layer:   uint32(l.layer),
			Weights: slices.Clone(l.weights[at : at+topK]),
		}
		for _, e := range l.experts[at : at+topK] {
			layer.ExpertIds = append(layer.ExpertIds, uint32(e))
		}
		m.Layers = append(m.Layers, layer)
	}
	return m
}

// Describe tells what is served.
func (c *Coordinator) Describe(
	_ context.Context, _ *droverv1.DescribeRequest,
) (*droverv1.DescribeResponse, error) {
	st := c.Stats()
	m := &droverv1.DescribeResponse{
		Model:            c.opts.Name,
		Architecture:     c.spec.Architecture,
		ModelDigest:      slices.Clone(c.opts.ModelDigest),
		NumericMode:      c.opts.NumericMode,
		KernelClass:      c.opts.KernelClass,
		VocabularySize:   uint32(c.spec.Vocabulary),
		ContextTokens:    uint32(min(c.context, math.MaxUint32)),
		LayerCount:       uint32(c.spec.Layers),
		ExpertsPerLayer:  uint32(c.spec.MoE.Experts),
		ExpertsPerToken:  uint32(c.spec.MoE.TopK),
		HasChatTemplate:  c.prompts.template != nil,
		Version:          c.opts.Version,
		RunningSequences: uint32(st.Running),
		WaitingSequences: uint32(st.Waiting),
		KvBlocksUsed:     uint32(min(st.BlocksUsed, math.MaxUint32)),
		KvBlocks:         uint32(min(st.Blocks, math.MaxUint32)),
	}
	for _, l := range c.spec.MoE.Layers {
		m.MoeLayers = append(m.MoeLayers, uint32(l))
	}
	return m, nil
}
