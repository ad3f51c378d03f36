package verify

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"drover/internal/answer"
	droverv1 "drover/proto/drover/v1"
	"drover/tokenizer"
	"drover/tokenizer/jinja"
)

// chatCase is a conversation all the way: to text, to ids, to generated ids, to their text.
type chatCase struct {
	Conversation   string
	Messages       json.RawMessage
	Tools          json.RawMessage
	PromptText     string  `json:"prompt_text"`
	PromptIDs      []int32 `json:"prompt_ids"`
	GreedyIDs      []int32 `json:"greedy_ids"`
	GreedyText     string  `json:"greedy_text"`
	GreedyTextSkip string  `json:"greedy_text_skip_special"`
	GreedyMargin   float64 `json:"greedy_margin"`
	RouterMargin   float64 `json:"router_margin"`
}

// checkChats runs the conversations of e2e_chat.json, if the fixture has it.
func checkChats(
	ctx context.Context, v *verifier, f fixture, client droverv1.CoordinatorServiceClient,
) error {
	var list struct {
		Now   string
		Cases []chatCase
	}
	err := readJSON(f.beside("e2e_chat.json"), &list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var now time.Time
	if err == nil {
		now, err = parseClock(list.Now)
	}
	var p *Prompter
	if err == nil {
		p, err = NewPrompter(f.dir, now)
	}
	if err != nil {
		v.report(Result{Name: f.name + "/chat", Status: Failed, Detail: err.Error()})
		return nil
	}
	for _, cc := range list.Cases {
		c := &check{}
		if err := v.chat(ctx, c, p, client, cc); err != nil {
			c.fail("%v", err)
		}
		v.done(f.name+"/chat/"+cc.Conversation, c)
	}
	return nil
}

func (v *verifier) chat(
	ctx context.Context, c *check, p *Prompter, client droverv1.CoordinatorServiceClient,
	cc chatCase,
) error {
	text, ids, err := p.prompt(ctx, conversation{Messages: cc.Messages, Tools: cc.Tools})
	if err != nil {
		return err
	}
	c.text("prompt", text, cc.PromptText)
	c.ids("prompt ids", ids, cc.PromptIDs)
	a, err := answer.Ask(ctx, client, greedyRequest(cc.PromptIDs, len(cc.GreedyIDs)))
	if err != nil {
		return err
	}
	c.tokens(a.Tokens, cc.GreedyIDs, func(int, int32) bool {
		c.note = "the continuation leaves the recorded one, which has a near tie"
		return v.tol.tied(min(cc.GreedyMargin, cc.RouterMargin), 0)
	})
	c.text("text", p.t.Decode(cc.GreedyIDs, false), cc.GreedyText)
	c.text("text without special tokens", p.t.Decode(cc.GreedyIDs, true), cc.GreedyTextSkip)
	return nil
}

// Prompter renders and encodes conversations as the model in a folder wants them.
type Prompter struct {
	t        *tokenizer.Tokenizer
	template *jinja.Template
	now      time.Time
}

// NewPrompter reads the tokenizer and the chat template in dir. Templates see the time now.
func NewPrompter(dir string, now time.Time) (*Prompter, error) {
	t, err := tokenizer.Load(dir)
	if err != nil {
		return nil, err
	}
	if t.ChatTemplate() == "" {
		return nil, &os.PathError{Op: "find chat template", Path: dir, Err: fs.ErrNotExist}
	}
	template, err := jinja.Parse("chat_template.jinja", t.ChatTemplate())
	return &Prompter{t, template, now}, err
}

// prompt is a conversation's text and tokens.
func (p *Prompter) prompt(ctx context.Context, cv conversation) (string, []int32, error) {
	spans, err := cv.render(ctx, p.template, nil, p.t.SpecialTokens(), p.now)
	if err != nil {
		return "", nil, err
	}
	return joined(spans), encode(p.t, spans), nil
}

// Dialogue is a conversation with its answer as tokens, without the token that ends the answer.
func (p *Prompter) Dialogue(
	ctx context.Context, messages, tools json.RawMessage, answer string,
) ([]int32, error) {
	_, ids, err := p.prompt(ctx, conversation{Messages: messages, Tools: tools})
	if err != nil {
		return nil, err
	}
	return append(ids, p.t.Encode(answer)...), nil
}
