package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"drover/checkpoint"
	"drover/internal/answer"
	"drover/model"
	droverv1 "drover/proto/drover/v1"
)

// checkModel compares a model with its recorded numbers, a case for each prompt.
func checkModel(ctx context.Context, v *verifier, f fixture) error {
	if !comparable(v.mode) {
		v.report(Result{Name: f.name, Status: Skipped, Detail: errQuantised(v.mode).Error()})
		return nil
	}
	client, stop, err := v.openModel(ctx, f)
	if client == nil {
		return err
	}
	defer stop()
	e, err := openExpected(f.dir)
	if err != nil {
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil
	}
	m := &modelCheck{v: v, client: client, want: e}
	for _, p := range e.prompts() {
		name := f.name + "/" + p
		if e.images[p] {
			v.report(Result{Name: name, Status: Skipped, Detail: "has images"})
			continue
		}
		c := &check{}
		if err := m.prompt(ctx, c, p); err != nil {
			c.fail("%v", err)
		}
		v.done(name, c)
	}
	err = checkChats(ctx, v, f, client)
	return errors.Join(err, e.close())
}

// openModel serves a checkpoint or finds it served. Without a client the reason has been
// reported.
func (v *verifier) openModel(
	ctx context.Context, f fixture,
) (client droverv1.CoordinatorServiceClient, stop func(), err error) {
	digest, err := v.digest(f.dir)
	switch {
	case errors.Is(err, model.ErrUnsupported):
		v.report(Result{Name: f.name, Status: Unsupported, Detail: err.Error()})
		return nil, nil, nil
	case err != nil:
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil, nil, nil
	}
	v.models++
	switch {
	case v.served == nil:
		client, stop, err := v.opts.Open(ctx, f.dir, v.mode)
		if err != nil {
			v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
			return nil, nil, ctx.Err()
		}
		return client, stop, nil
	case !bytes.Equal(v.served.ModelDigest, digest[:]):
		v.otherModels++
		v.report(Result{Name: f.name, Status: Skipped, Detail: fmt.Sprintf(
			"the coordinator serves another model, %s, digest %.6x; this one's is %.6x",
			v.served.Model, v.served.ModelDigest, digest)})
		return nil, nil, nil
	}
	return v.opts.Client, func() {}, nil
}

// digest identifies the checkpoint in dir, if this build can run it.
func (v *verifier) digest(dir string) ([32]byte, error) {
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return [32]byte{}, err
	}
	defer ck.Close()
	_, err = model.Describe(ck, v.mode)
	return ck.Digest(), err
}

// modelCheck compares one model's prompts.
type modelCheck struct {
	v      *verifier
	client droverv1.CoordinatorServiceClient
	want   *expected
}

// prompt compares everything that is recorded for a prompt. The error is about the recorded
// numbers or a request.
func (m *modelCheck) prompt(ctx context.Context, c *check, p string) error {
	ids, err := m.want.ids("ids." + p)
	if err != nil {
		return err
	}
	got, err := answer.Score(ctx, m.client, ids, true)
	if err != nil {
		return err
	}
	same, err := m.routes(c, p, got)
	if err != nil {
		return err
	}
	want, width, err := m.want.rows("logits."+p, len(ids))
	if err != nil {
		return err
	}
	for i := range same {
		where := fmt.Sprintf("position %d", i)
		c.logits(where, got[i].Logits, want[i*width:(i+1)*width], m.v.tol)
	}
	if same < len(ids) {
		c.note = fmt.Sprintf("compared %d of %d positions: the next has a near tie of two experts",
			same, len(ids))
		return nil
	}
	if !m.want.file.Has("greedy." + p + ".ids") {
		return nil
	}
	return m.greedy(ctx, c, p, ids)
}

// routes compares the experts of every position and says how many positions, from the first, have
// the recorded ones.
func (m *modelCheck) routes(c *check, p string, got []answer.Scored) (same int, err error) {
	layers := m.want.layers(p)
	same = len(got)
	for _, g := range got {
		if len(g.Layers) != len(layers) {
			return 0, fmt.Errorf("%d MoE layers reported, want %d", len(g.Layers), len(layers))
		}
	}
	for at, layer := range layers {
		want, err := m.choices(p, layer, len(got))
		if err != nil {
			return 0, err
		}
		for i, g := range got {
			if int(g.Layers[at].Layer) != layer {
				return 0, fmt.Errorf("MoE layer %d reported, want %d", g.Layers[at].Layer, layer)
			}
			where := fmt.Sprintf("position %d, layer %d", i, layer)
			// Past a near tie a lower layer has already changed what this one sees.
			if i < same && !c.experts(where, g.Layers[at], want[i], m.v.tol) {
				same = i
			}
		}
	}
	return same, nil
}

// choices reads the recorded experts of a layer, for each position.
func (m *modelCheck) choices(p string, layer, positions int) ([]choice, error) {
	key := fmt.Sprintf("router.%s.layer%d.", p, layer)
	ids, k, err := m.want.rows32(key+"indices", positions)
	if err != nil {
		return nil, err
	}
	weights, kw, err := m.want.rows(key+"weights", positions)
	if err != nil {
		return nil, err
	}
	if k == 0 || kw != k {
		return nil, fmt.Errorf("%sweights: %d for %d indices", key, kw, k)
	}
	var logits []float32
	experts := 0
	if m.want.file.Has(key + "logits") {
		if logits, experts, err = m.want.rows(key+"logits", positions); err != nil {
			return nil, err
		}
	}
	all := make([]choice, positions)
	for i := range all {
		all[i] = choice{ids: ids[i*k : (i+1)*k], weights: weights[i*k : (i+1)*k]}
		if logits != nil {
			all[i].logits = logits[i*experts : (i+1)*experts]
		}
	}
	return all, nil
}

// greedy compares the continuation, generated token by token, and the logits that chose it.
func (m *modelCheck) greedy(ctx context.Context, c *check, p string, ids []int32) error {
	key := "greedy." + p + "."
	want, err := m.want.ids(key + "ids")
	if err != nil {
		return err
	}
	rows, width, err := m.want.rows(key+"logits", len(want))
	if err != nil {
		return err
	}
	a, err := answer.Ask(ctx, m.client, greedyRequest(ids, len(want)))
	if err != nil {
		return err
	}
	n := c.tokens(a.Tokens, want, func(at int, got int32) bool {
		row := rows[at*width : (at+1)*width]
		return got >= 0 && int(got) < width &&
			m.v.tol.tied(float64(row[want[at]]), float64(row[got]))
	})
	if n < len(want) {
		c.note = fmt.Sprintf("the continuation leaves the recorded one at token %d, a near tie", n)
	}
	all := append(append([]int32{}, ids...), want[:len(want)-1]...)
	got, err := answer.Score(ctx, m.client, all, false)
	if err != nil {
		return err
	}
	for i := range want {
		where := fmt.Sprintf("continuation %d", i)
		c.logits(where, got[len(ids)-1+i].Logits, rows[i*width:(i+1)*width], m.v.tol)
	}
	return nil
}

// greedyRequest asks for n tokens after ids, past any end token.
func greedyRequest(ids []int32, n int) *droverv1.GenerateRequest {
	zero := float32(0)
	return &droverv1.GenerateRequest{
		Prompt:    &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: ids}},
		Sampling:  &droverv1.Sampling{Temperature: &zero},
		MaxTokens: uint32(n),
		IgnoreEos: true,
	}
}

// tokens compares generated tokens and returns how many are equal. Another one is a failure,
// unless tie says that the mode may prefer it there; after it nothing can be compared.
func (c *check) tokens(got, want []int32, tie func(at int, got int32) bool) int {
	if len(got) != len(want) {
		c.fail("%d tokens generated, want %d", len(got), len(want))
		return 0
	}
	for i, w := range want {
		c.compared++
		if got[i] == w {
			continue
		}
		if !tie(i, got[i]) {
			c.fail("generated token %d is %d, want %d", i, got[i], w)
		}
		return i
	}
	return len(want)
}

// beside names a file in the fixture's folder.
func (f fixture) beside(name string) string { return filepath.Join(f.dir, name) }
