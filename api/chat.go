package api

import (
	"encoding/json"
	"net/http"
	"slices"

	droverv1 "drover/proto/drover/v1"
)

// chatRequest is the body of POST /v1/chat/completions.
type chatRequest struct {
	params
	Messages            []chatMessage     `json:"messages"`
	Tools               []json.RawMessage `json:"tools"`
	ToolChoice          json.RawMessage   `json:"tool_choice"`
	ResponseFormat      json.RawMessage   `json:"response_format"`
	MaxCompletionTokens *int64            `json:"max_completion_tokens"`
	Logprobs            bool              `json:"logprobs"`
	TopLogprobs         *int              `json:"top_logprobs"`
	ParallelToolCalls   *bool             `json:"parallel_tool_calls"`

	Functions    json.RawMessage `json:"functions"`
	FunctionCall json.RawMessage `json:"function_call"`
	Audio        json.RawMessage `json:"audio"`
	WebSearch    json.RawMessage `json:"web_search_options"`
	Modalities   []string        `json:"modalities"`
}

type chatMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	ToolCallID string          `json:"tool_call_id"`
	ToolCalls  []toolCall      `json:"tool_calls"`
}

type contentPart struct {
	Type string  `json:"type"`
	Text *string `json:"text"`
}

const maxTopLogprobs = 20

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	var body chatRequest
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
	shape := chatShape{logprobs: body.Logprobs,
		oneCall: body.ParallelToolCalls != nil && !*body.ParallelToolCalls}
	if body.usesTools() {
		shape.tools = toolNames(body.Tools)
	}
	s.serve(w, r, &body.params, requests, shape)
}

// requests makes one GenerateRequest for each choice.
func (c *chatRequest) requests() ([]*droverv1.GenerateRequest, error) {
	if err := c.refuse(); err != nil {
		return nil, err
	}
	if c.MaxTokens == nil {
		c.MaxTokens = c.MaxCompletionTokens
	} else if c.MaxCompletionTokens != nil && *c.MaxCompletionTokens != *c.MaxTokens {
		return nil, badParam("max_tokens", "differs from max_completion_tokens; give one of them")
	}
	base, n, err := c.params.request()
	if err != nil {
		return nil, err
	}
	chat, err := c.conversation()
	if err != nil {
		return nil, err
	}
	if c.Logprobs {
		top := uint32(0)
		if c.TopLogprobs != nil {
			top = uint32(*c.TopLogprobs)
		}
		base.TopLogprobs = &top
	}
	base.Prompt = &droverv1.GenerateRequest_Chat{Chat: chat}
	return c.choices(nil, base, n), nil
}

// refuse refuses what would change the meaning of the answer and is not supported.
func (c *chatRequest) refuse() error {
	err := refuseSet("is not supported; use tools", field{"functions", c.Functions},
		field{"function_call", c.FunctionCall})
	if err == nil {
		err = refuseSet("is not supported", field{"audio", c.Audio},
			field{"web_search_options", c.WebSearch})
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(c.Modalities, func(m string) bool { return m != "text" }) {
		return unsupported("modalities", "only text is supported")
	}
	var format struct {
		Type string `json:"type"`
	}
	if isSet(c.ResponseFormat) && (json.Unmarshal(c.ResponseFormat, &format) != nil ||
		format.Type != "text") {
		return unsupported("response_format", "only the type text is supported")
	}
	if choice := string(c.ToolChoice); isSet(c.ToolChoice) && choice != `"auto"` &&
		choice != `"none"` {
		return unsupported("tool_choice", "only auto and none are supported")
	}
	if c.TopLogprobs == nil {
		return nil
	}
	if *c.TopLogprobs < 0 || *c.TopLogprobs > maxTopLogprobs {
		return badParam("top_logprobs", "is %d, want 0 to %d", *c.TopLogprobs, maxTopLogprobs)
	}
	if !c.Logprobs && *c.TopLogprobs > 0 {
		return badParam("top_logprobs", "needs logprobs to be true")
	}
	return nil
}

// usesTools tells whether the model gets to know tools.
func (c *chatRequest) usesTools() bool {
	return len(c.Tools) > 0 && string(c.ToolChoice) != `"none"`
}

func (c *chatRequest) conversation() (*droverv1.Chat, error) {
	chat := &droverv1.Chat{}
	if len(c.Messages) == 0 {
		return nil, badParam("messages", "is missing or empty")
	}
	for i, m := range c.Messages {
		out, err := m.message(at("messages", i))
		if err != nil {
			return nil, err
		}
		chat.Messages = append(chat.Messages, out)
	}
	if err := checkTools(c.Tools); err != nil {
		return nil, err
	}
	if c.usesTools() {
		for _, t := range c.Tools {
			chat.ToolsJson = append(chat.ToolsJson, string(t))
		}
	}
	return chat, nil
}

func (m *chatMessage) message(param string) (*droverv1.ChatMessage, error) {
	out := &droverv1.ChatMessage{Role: m.Role, Name: m.Name, ToolCallId: m.ToolCallID}
	switch m.Role {
	case "system", "user", "assistant", "tool":
	case "developer": // the newer name of the same thing; templates know the old one
		out.Role = "system"
	default:
		return nil, badParam(param+".role",
			"is %.40q, want system, developer, user, assistant or tool", m.Role)
	}
	for i, c := range m.ToolCalls {
		call := at(param+".tool_calls", i)
		if c.Type != "" && c.Type != "function" {
			return nil, unsupported(call+".type", "is %.40q, want function", c.Type)
		}
		if c.Function.Name == "" {
			return nil, badParam(call+".function.name", "is empty")
		}
		out.ToolCalls = append(out.ToolCalls, &droverv1.ToolCall{
			Id: c.ID, Name: c.Function.Name, ArgumentsJson: c.Function.Arguments})
	}
	if !isSet(m.Content) {
		if m.Role != "assistant" {
			return nil, badParam(param+".content", "is missing")
		}
		return out, nil
	}
	if json.Unmarshal(m.Content, &out.Content) == nil {
		return out, nil
	}
	var parts []contentPart
	if err := json.Unmarshal(m.Content, &parts); err != nil || len(parts) == 0 {
		return nil, badParam(param+".content", "want a string or an array of parts")
	}
	for i, p := range parts {
		part, err := p.part(at(param+".content", i))
		if err != nil {
			return nil, err
		}
		out.Parts = append(out.Parts, part)
	}
	return out, nil
}

func (p *contentPart) part(param string) (*droverv1.ContentPart, error) {
	switch {
	case p.Type == "image_url":
		return nil, unsupported(param+".type", "images are not supported; send text")
	case p.Type != "text":
		return nil, unsupported(param+".type", "is %.40q, want text", p.Type)
	case p.Text == nil:
		return nil, badParam(param+".text", "is missing")
	}
	return &droverv1.ContentPart{Kind: &droverv1.ContentPart_Text{Text: *p.Text}}, nil
}
