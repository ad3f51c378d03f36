package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"drover/internal/answer"
	"drover/internal/batch"
	droverv1 "drover/proto/drover/v1"
)

// recording is a conversation with the reference's greedy answer, also past its end.
type recording struct {
	ID          string
	Messages    json.RawMessage
	Tools       json.RawMessage
	Prompt      string
	InputIDs    []int32     `json:"input_ids"`
	OutputIDs   []int32     `json:"output_ids"`
	StopAt      *int        `json:"stop_at"` // of the first end token, null if there is none
	Text        string      // of the tokens before it
	TopIDs      [][]int32   `json:"top5_ids"`
	TopLogprobs [][]float64 `json:"top5_logprobs"`
}

func (r recording) validate() error {
	n := len(r.OutputIDs)
	switch {
	case len(r.InputIDs) == 0 || n == 0:
		return errors.New("has no input_ids or output_ids")
	case len(r.TopIDs) != n || len(r.TopLogprobs) != n:
		return errors.New("top5_ids and top5_logprobs must have an entry for each of output_ids")
	case r.StopAt != nil && (*r.StopAt < 0 || *r.StopAt >= n):
		return errors.New("stop_at is outside output_ids")
	}
	for i := range r.TopIDs {
		if len(r.TopIDs[i]) != len(r.TopLogprobs[i]) || len(r.TopIDs[i]) == 0 {
			return fmt.Errorf("top5_ids[%d] and top5_logprobs[%d] differ in length", i, i)
		}
	}
	return nil
}

// Recorded replays a file of recorded prompts, one JSON object a line, a case for each. Dir is
// the model's folder; with opts.Client it may be empty, and then the chat template and the
// tokenizer are checked only through the coordinator.
func Recorded(ctx context.Context, file, dir string, opts Options) (Summary, error) {
	v, err := newVerifier(ctx, opts)
	if err != nil {
		return Summary{}, err
	}
	if !comparable(v.mode) {
		return Summary{}, errQuantised(v.mode)
	}
	f, err := os.Open(file)
	if err != nil {
		return Summary{}, err
	}
	defer f.Close()
	p := (*Prompter)(nil)
	if dir != "" {
		if p, err = NewPrompter(dir, time.Time{}); err != nil {
			return Summary{}, err
		}
	}
	client := opts.Client
	if client == nil {
		var stop func()
		if client, stop, err = opts.Open(ctx, dir, v.mode); err != nil {
			return Summary{}, err
		}
		defer stop()
	} else if err := v.mustServe(dir); err != nil {
		return Summary{}, err
	}
	err = v.recordings(ctx, batch.NewLines(f), file, func(c *check, r recording) error {
		return v.replay(ctx, c, client, p, r)
	})
	return v.summary, err
}

// mustServe checks that the coordinator serves the model in dir, if that is given.
func (v *verifier) mustServe(dir string) error {
	if dir == "" {
		return nil
	}
	digest, err := v.digest(dir)
	if err == nil && !slices.Equal(digest[:], v.served.ModelDigest) {
		err = fmt.Errorf("the coordinator serves another model than %s: %s, digest %.6x, not %.6x",
			dir, v.served.Model, v.served.ModelDigest, digest)
	}
	return err
}

// recordings runs replay for each line without images.
func (v *verifier) recordings(
	ctx context.Context, lines *batch.Lines, file string, replay func(*check, recording) error,
) error {
	for {
		l, ok, err := lines.Next()
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if !ok {
			return nil
		}
		var r recording
		if err := json.Unmarshal(l.Text, &r); err != nil {
			return fmt.Errorf("%s: line %d: %w", file, l.Number, err)
		}
		if _, err := batch.ParseChat(r.Messages, nil); errors.Is(err, batch.ErrImage) {
			v.report(Result{Name: "golden/" + r.ID, Status: Skipped, Detail: "has images"})
			continue
		}
		if err := r.validate(); err != nil {
			return fmt.Errorf("%s: line %d: %w", file, l.Number, err)
		}
		c := &check{}
		if err := replay(c, r); err != nil {
			c.fail("%v", err)
		}
		v.done("golden/"+r.ID, c)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// replay compares one recording.
func (v *verifier) replay(
	ctx context.Context, c *check, client droverv1.CoordinatorServiceClient, p *Prompter,
	r recording,
) error {
	if p != nil {
		text, ids, err := p.prompt(ctx, conversation{Messages: r.Messages, Tools: r.Tools})
		if err != nil {
			return err
		}
		c.text("prompt", text, r.Prompt)
		c.ids("prompt ids", ids, r.InputIDs)
	}
	top := uint32(len(r.TopIDs[0]))
	req := greedyRequest(r.InputIDs, len(r.OutputIDs))
	req.TopLogprobs = &top
	a, err := answer.Ask(ctx, client, req)
	if err != nil {
		return err
	}
	n := c.tokens(a.Tokens, r.OutputIDs, func(at int, got int32) bool {
		i := slices.Index(r.TopIDs[at], got)
		return i >= 0 && v.tol.tied(r.TopLogprobs[at][0], r.TopLogprobs[at][i])
	})
	if len(a.Logprobs) != len(a.Tokens) {
		return fmt.Errorf("%d log-probabilities for %d tokens", len(a.Logprobs), len(a.Tokens))
	}
	for i := range n {
		c.logprobs(fmt.Sprintf("token %d", i), a.Logprobs[i].Alternatives,
			r.TopIDs[i], r.TopLogprobs[i], v.tol)
	}
	if n < len(r.OutputIDs) {
		c.note = fmt.Sprintf("the answer leaves the recorded one at token %d, a near tie", n)
	}
	if r.StopAt == nil && n < len(r.OutputIDs) || r.StopAt != nil && n <= *r.StopAt {
		return nil
	}
	return r.askText(ctx, c, client)
}

// askText asks the conversation as a user would, and compares the answer's text.
func (r recording) askText(
	ctx context.Context, c *check, client droverv1.CoordinatorServiceClient,
) error {
	chat, err := batch.ParseChat(r.Messages, r.Tools)
	if err != nil {
		return err
	}
	req := greedyRequest(nil, len(r.OutputIDs))
	req.Prompt = &droverv1.GenerateRequest_Chat{Chat: chat}
	req.IgnoreEos = false
	a, err := answer.Ask(ctx, client, req)
	if err != nil {
		return err
	}
	c.compared++
	if n := int(a.Finished.PromptTokenCount); n != len(r.InputIDs) {
		c.fail("the conversation has %d tokens, want %d", n, len(r.InputIDs))
	}
	c.text("text", a.Text, r.Text)
	return nil
}

// logprobs compares the most probable tokens of one position. Their order may differ where the
// numbers are closer than the tolerance, and so may the last of them.
func (c *check) logprobs(
	where string, got []*droverv1.Alternative, ids []int32, want []float64, tol tolerance,
) {
	if len(got) != len(ids) {
		c.fail("%s: %d alternatives, want %d", where, len(got), len(ids))
		return
	}
	for i, g := range got {
		logprob := float64(g.Logprob)
		if !c.number(tol.scaled(logprob), tol.scaled(want[i]), tol.logprob) {
			c.fail("%s: alternative %d has log-probability %v, want %v",
				where, i, logprob, want[i])
		}
		// A token that is not among the recorded must be as improbable as their last.
		at := slices.Index(ids, g.TokenId)
		if at < 0 {
			at = len(ids) - 1
		}
		if !(math.Abs(tol.scaled(logprob)-tol.scaled(want[at])) <= tol.logprob) {
			c.fail("%s: alternative %d is token %d, want %d", where, i, g.TokenId, ids[i])
		}
	}
}
