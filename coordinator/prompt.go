package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
	"drover/tokenizer"
	"drover/tokenizer/jinja"
)

// prompter turns the prompts of requests into tokens. Many goroutines may use it.
type prompter struct {
	tok         *tokenizer.Tokenizer // nil when the checkpoint has none
	template    *jinja.Template      // nil when there is none, or a bad one
	templateErr error
	special     map[string]string
	bos         int32
	vocabulary  int
	turns       chan struct{} // holds one for each long prompt that is being turned into tokens
}

// While text becomes tokens it takes up to 30 times its size in memory. So long prompts wait for
// one of a few turns, and many of them at a time cannot take all of it; short ones do not wait
// for long ones.
const (
	longPrompt      = 64 << 10 // bytes of the request
	longPromptTurns = 2
)

func newPrompter(tok *tokenizer.Tokenizer, bos int32, vocabulary int) *prompter {
	p := &prompter{tok: tok, bos: bos, vocabulary: vocabulary,
		turns: make(chan struct{}, longPromptTurns)}
	if tok == nil {
		return p
	}
	p.special = tok.SpecialTokens()
	if source := tok.ChatTemplate(); source != "" {
		p.template, p.templateErr = jinja.Parse("chat_template", source)
	}
	return p
}

// tokens returns the prompt's tokens.
func (p *prompter) tokens(ctx context.Context, req *droverv1.GenerateRequest) ([]int32, error) {
	var ids []int32
	var field string
	var err error
	if req.GetTokens() == nil && proto.Size(req) >= longPrompt {
		select {
		case p.turns <- struct{}{}:
			defer func() { <-p.turns }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch prompt := req.GetPrompt().(type) {
	case *droverv1.GenerateRequest_Chat:
		field = "chat"
		ids, err = p.chat(ctx, prompt.Chat)
	case *droverv1.GenerateRequest_Text:
		field = "text"
		ids, err = p.text(prompt.Text)
	case *droverv1.GenerateRequest_Tokens:
		field = "tokens.ids"
		ids = prompt.Tokens.GetIds()
	default:
		return nil, badField("prompt", "is missing; give chat, text or tokens")
	}
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, badField(field, "the prompt is empty")
	}
	return ids, checkTokens(field, ids, p.vocabulary)
}

func (p *prompter) text(text string) ([]int32, error) {
	switch {
	case p.tok == nil:
		return nil, &preconditionError{"text: this model has no tokenizer; give tokens.ids"}
	case text == "":
		return nil, badField("text", "the prompt is empty")
	case !utf8.ValidString(text):
		return nil, badField("text", "is not valid UTF-8")
	}
	var ids []int32
	if p.bos >= 0 {
		ids = append(ids, p.bos)
	}
	return append(ids, p.tok.Encode(text)...), nil
}

func (p *prompter) chat(ctx context.Context, c *droverv1.Chat) ([]int32, error) {
	switch {
	case p.tok == nil:
		return nil, &preconditionError{"chat: this model has no tokenizer; give tokens.ids"}
	case p.templateErr != nil:
		return nil, &preconditionError{fmt.Sprintf(
			"chat: this model's chat template is not usable: %v; give text or tokens", p.templateErr)}
	case p.template == nil:
		return nil, &preconditionError{"chat: this model has no chat template; give text or tokens"}
	case len(c.GetMessages()) == 0:
		return nil, badField("chat.messages", "is empty")
	case !slices.ContainsFunc(c.Messages, says):
		return nil, badField("chat.messages", "no message has content")
	}
	vars, err := chatVariables(c)
	if err != nil {
		return nil, err
	}
	rendered, err := p.template.Render(ctx, vars, p.special, jinja.Options{})
	if err != nil {
		return nil, templateError(ctx, err)
	}
	spans := make([]tokenizer.Span, len(rendered))
	for i, s := range rendered {
		spans[i] = tokenizer.Span(s)
	}
	return p.tok.EncodeSpans(spans), nil
}

// templateError is what the user hears about a template that ended with an error.
func templateError(ctx context.Context, err error) error {
	var raised *jinja.RaiseError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &raised):
		return badField("chat", "the chat template refuses it: %s", raised.Message)
	}
	return badField("chat", "render the chat template: %v", err)
}

// says reports whether a message has anything for the model to read.
func says(m *droverv1.ChatMessage) bool {
	return m.GetContent() != "" || len(m.GetParts()) > 0 || len(m.GetToolCalls()) > 0
}

// chatVariables are the template's variables, in the form that published templates expect.
func chatVariables(c *droverv1.Chat) (*jinja.Dict, error) {
	vars := jinja.NewDict()
	if text := c.GetTemplateVariablesJson(); text != "" {
		var err error
		if vars, err = parseObject("chat.template_variables_json", text); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"messages", "tools", "documents", "add_generation_prompt"} {
		if _, taken := vars.Get(name); taken {
			return nil, badField("chat.template_variables_json", "%q is set by the request itself", name)
		}
	}
	var messages []jinja.Value
	for i, m := range c.GetMessages() {
		v, err := messageValue(fmt.Sprintf("chat.messages[%d]", i), m)
		if err != nil {
			return nil, err
		}
		messages = append(messages, v)
	}
	tools := jinja.None()
	if len(c.GetToolsJson()) > 0 {
		var list []jinja.Value
		for i, text := range c.GetToolsJson() {
			v, err := parseObject(fmt.Sprintf("chat.tools_json[%d]", i), text)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		tools = jinja.List(list...)
	}
	vars.Set("messages", jinja.List(messages...))
	vars.Set("tools", tools)
	vars.Set("documents", jinja.None())
	vars.Set("add_generation_prompt", jinja.Bool(!c.GetNoGenerationPrompt()))
	return vars, nil
}

func messageValue(field string, m *droverv1.ChatMessage) (jinja.Value, error) {
	if m.GetRole() == "" {
		return nil, badField(field+".role", "is empty")
	}
	d := jinja.NewDict()
	for _, f := range []struct{ name, text string }{
		{"role", m.GetRole()}, {"content", m.GetContent()},
		{"tool_call_id", m.GetToolCallId()}, {"name", m.GetName()},
	} {
		if !utf8.ValidString(f.text) {
			return nil, badField(field+"."+f.name, "is not valid UTF-8")
		}
		if f.text != "" || f.name == "content" {
			d.Set(f.name, jinja.String(f.text))
		}
	}
	if len(m.GetParts()) > 0 {
		parts, err := partsValue(field, m.GetParts())
		if err != nil {
			return nil, err
		}
		d.Set("content", parts)
	}
	if len(m.GetToolCalls()) > 0 {
		calls, err := callsValue(field, m.GetToolCalls())
		if err != nil {
			return nil, err
		}
		d.Set("tool_calls", calls)
	}
	return d, nil
}

func partsValue(field string, parts []*droverv1.ContentPart) (jinja.Value, error) {
	var list []jinja.Value
	for i, part := range parts {
		at := fmt.Sprintf("%s.parts[%d]", field, i)
		switch kind := part.GetKind().(type) {
		case *droverv1.ContentPart_Text:
			if !utf8.ValidString(kind.Text) {
				return nil, badField(at+".text", "is not valid UTF-8")
			}
			d := jinja.NewDict()
			d.Set("type", jinja.String("text"))
			d.Set("text", jinja.String(kind.Text))
			list = append(list, d)
		case *droverv1.ContentPart_Image:
			return nil, badField(at+".image", "this model does not take images")
		default:
			return nil, badField(at, "is empty; give text")
		}
	}
	return jinja.List(list...), nil
}

func callsValue(field string, calls []*droverv1.ToolCall) (jinja.Value, error) {
	var list []jinja.Value
	for i, call := range calls {
		at := fmt.Sprintf("%s.tool_calls[%d]", field, i)
		if call.GetName() == "" || !utf8.ValidString(call.GetName()+call.GetId()) {
			return nil, badField(at+".name", "is empty, or it or the id is not valid UTF-8")
		}
		arguments := jinja.NewDict()
		if text := call.GetArgumentsJson(); text != "" {
			var err error
			if arguments, err = parseObject(at+".arguments_json", text); err != nil {
				return nil, err
			}
		}
		function, d := jinja.NewDict(), jinja.NewDict()
		function.Set("name", jinja.String(call.GetName()))
		function.Set("arguments", arguments)
		if call.GetId() != "" {
			d.Set("id", jinja.String(call.GetId()))
		}
		d.Set("type", jinja.String("function"))
		d.Set("function", function)
		list = append(list, d)
	}
	return jinja.List(list...), nil
}

// parseObject parses one JSON object of a request.
func parseObject(field, text string) (*jinja.Dict, error) {
	v, err := jinja.ParseJSON([]byte(text))
	if err != nil {
		return nil, badField(field, "is not valid JSON: %v", err)
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, badField(field, "is not a JSON object")
	}
	return d, nil
}
