package api

import (
	"crypto/rand"
	"encoding/json"
	"math"
	"strings"
	"unicode/utf8"

	droverv1 "drover/proto/drover/v1"
)

// chatShape is the shape of chat completions.
type chatShape struct {
	logprobs bool
	tools    map[string]bool // names of the tools that the model knows
	oneCall  bool            // report only the first of several calls
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      *chatAnswer   `json:"message,omitempty"`
	Delta        *chatDelta    `json:"delta,omitempty"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type chatAnswer struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type chatDelta struct {
	Role      string          `json:"role,omitempty"`
	Content   *string         `json:"content,omitempty"`
	Refusal   json.RawMessage `json:"refusal,omitempty"`
	ToolCalls []toolCall      `json:"tool_calls,omitempty"`
}

type chatLogprobs struct {
	Content []tokenLogprob `json:"content"`
	Refusal []tokenLogprob `json:"refusal"`
}

type tokenLogprob struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	// Bytes are numbers, since a token may be a part of a character.
	Bytes []int          `json:"bytes"`
	Top   []alternatives `json:"top_logprobs"`
}

type alternatives struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

func (chatShape) names(stream bool) (id, object string) {
	if stream {
		return "chatcmpl-", "chat.completion.chunk"
	}
	return "chatcmpl-", "chat.completion"
}

func (s chatShape) whole(c *choice) any {
	text, tokens := c.flush()
	reason := c.finishReason()
	message := &chatAnswer{Role: "assistant", Content: &text}
	if calls := s.calls(c, text); calls != nil {
		reason = "tool_calls"
		message.Content, message.ToolCalls = nil, calls
	}
	return chatChoice{Index: c.index, Message: message, Logprobs: s.probabilities(tokens),
		FinishReason: &reason}
}

func (s chatShape) start(c *choice) any {
	empty := ""
	return chatChoice{Index: c.index, Delta: &chatDelta{Role: "assistant", Content: &empty,
		Refusal: json.RawMessage("null")}}
}

// more holds text back while it may still become a tool call.
func (s chatShape) more(c *choice) any {
	if len(s.tools) > 0 && !c.released && mayBeCall(c.text.String()) {
		return nil
	}
	c.released = true
	text, tokens := c.flush()
	if text == "" && (len(tokens) == 0 || !s.logprobs) {
		return nil
	}
	return chatChoice{Index: c.index, Delta: &chatDelta{Content: &text},
		Logprobs: s.probabilities(tokens)}
}

func (s chatShape) end(c *choice) []any {
	reason := c.finishReason()
	var rest any
	if calls := s.calls(c, c.text.String()); calls != nil {
		_, tokens := c.flush()
		reason = "tool_calls"
		for i := range calls {
			calls[i].Index = &i
		}
		rest = chatChoice{Index: c.index, Delta: &chatDelta{ToolCalls: calls},
			Logprobs: s.probabilities(tokens)}
	} else {
		c.released = true
		rest = s.more(c)
	}
	return []any{rest, chatChoice{Index: c.index, Delta: &chatDelta{}, FinishReason: &reason}}
}

// calls reads a finished answer as tool calls; nil means that it is text.
func (s chatShape) calls(c *choice, text string) []toolCall {
	if len(s.tools) == 0 || c.released || c.finishReason() != "stop" {
		return nil
	}
	functions := parseCalls(text, s.tools)
	if s.oneCall {
		functions = functions[:min(len(functions), 1)]
	}
	var out []toolCall
	for _, f := range functions {
		out = append(out, toolCall{ID: "call_" + strings.ToLower(rand.Text()), Type: "function",
			Function: f})
	}
	return out
}

func (s chatShape) probabilities(tokens []*droverv1.TokenLogprobs) *chatLogprobs {
	if !s.logprobs {
		return nil
	}
	out := &chatLogprobs{Content: []tokenLogprob{}}
	for _, t := range tokens {
		entry := tokenLogprob{Token: tokenText(t.GetToken()), Logprob: finite(t.GetLogprob()),
			Bytes: numbers(t.GetToken()), Top: []alternatives{}}
		for _, a := range t.GetAlternatives() {
			entry.Top = append(entry.Top, alternatives{tokenText(a.GetToken()),
				finite(a.GetLogprob()), numbers(a.GetToken())})
		}
		out.Content = append(out.Content, entry)
	}
	return out
}

// finite replaces what JSON cannot spell: the logarithm of a probability of 0.
func finite(logprob float32) float32 {
	if math.IsInf(float64(logprob), 0) || math.IsNaN(float64(logprob)) {
		return -9999
	}
	return logprob
}

func tokenText(token []byte) string { return strings.ToValidUTF8(string(token), "\ufffd") }

func numbers(token []byte) []int {
	out := make([]int, len(token))
	for i, b := range token {
		out[i] = int(b)
	}
	return out
}

// textShape is the shape of completions.
type textShape struct {
	logprobs bool
}

type textChoice struct {
	Index        int           `json:"index"`
	Text         string        `json:"text"`
	Logprobs     *textLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type textLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []float32            `json:"token_logprobs"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

func (textShape) names(bool) (id, object string) { return "cmpl-", "text_completion" }

func (s textShape) whole(c *choice) any {
	text, tokens := c.flush()
	reason := c.finishReason()
	return textChoice{c.index, text, s.probabilities(c, tokens), &reason}
}

func (textShape) start(*choice) any { return nil }

func (s textShape) more(c *choice) any {
	text, tokens := c.flush()
	if text == "" && (len(tokens) == 0 || !s.logprobs) {
		return nil
	}
	return textChoice{c.index, text, s.probabilities(c, tokens), nil}
}

func (s textShape) end(c *choice) []any {
	reason := c.finishReason()
	text, tokens := c.flush()
	return []any{textChoice{c.index, text, s.probabilities(c, tokens), &reason}}
}

func (s textShape) probabilities(c *choice, tokens []*droverv1.TokenLogprobs) *textLogprobs {
	if !s.logprobs {
		return nil
	}
	out := &textLogprobs{Tokens: []string{}, TokenLogprobs: []float32{},
		TopLogprobs: []map[string]float32{}, TextOffset: []int{}}
	for _, t := range tokens {
		top := map[string]float32{}
		for _, a := range t.GetAlternatives() {
			top[tokenText(a.GetToken())] = finite(a.GetLogprob())
		}
		text := tokenText(t.GetToken())
		out.Tokens = append(out.Tokens, text)
		out.TokenLogprobs = append(out.TokenLogprobs, finite(t.GetLogprob()))
		out.TopLogprobs = append(out.TopLogprobs, top)
		out.TextOffset = append(out.TextOffset, c.offset)
		c.offset += utf8.RuneCountInString(text)
	}
	return out
}
