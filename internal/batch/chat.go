package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	droverv1 "drover/proto/drover/v1"
)

// ErrImage is wrapped by errors about messages that hold an image.
var ErrImage = errors.New("images cannot be sent")

// message is a chat message as people write it in JSON.
type message struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	ToolCalls  []toolCall      `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
	Name       string          `json:"name"`
}

type toolCall struct {
	ID       string       `json:"id"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// ParseChat reads a conversation: a JSON array of messages with "role", "content" (a string, null
// or an array of parts), "tool_calls", "tool_call_id" and "name", and a JSON array of tools or
// nil. The arguments of tool calls, objects or strings that hold one, and the tools keep the
// order of their keys. Errors name the message and its field.
func ParseChat(messages, tools json.RawMessage) (*droverv1.Chat, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(messages, &list); err != nil || len(list) == 0 {
		return nil, errors.New(`field "messages": want an array of at least one message`)
	}
	chat := &droverv1.Chat{}
	for i, raw := range list {
		m, err := parseMessage(raw)
		if err != nil {
			return nil, fmt.Errorf("messages[%d]: %w", i, err)
		}
		chat.Messages = append(chat.Messages, m)
	}
	if len(tools) == 0 {
		return chat, nil
	}
	if err := json.Unmarshal(tools, &list); err != nil {
		return nil, errors.New(`field "tools": want an array of objects`)
	}
	return chat, addTools(chat, list)
}

func addTools(chat *droverv1.Chat, tools []json.RawMessage) error {
	for i, t := range tools {
		if t = bytes.TrimSpace(t); t[0] != '{' {
			return fmt.Errorf("tools[%d]: want an object", i)
		}
		chat.ToolsJson = append(chat.ToolsJson, string(t))
	}
	return nil
}

func parseMessage(raw json.RawMessage) (*droverv1.ChatMessage, error) {
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, jsonError(err)
	}
	if m.Role == "" {
		return nil, errors.New(`field "role": missing`)
	}
	out := &droverv1.ChatMessage{Role: m.Role, ToolCallId: m.ToolCallID, Name: m.Name}
	if err := setContent(out, bytes.TrimSpace(m.Content)); err != nil {
		return nil, err
	}
	for i, c := range m.ToolCalls {
		arguments, err := objectText(c.Function.Arguments)
		if err != nil {
			return nil, fmt.Errorf("tool_calls[%d].function.arguments: %w", i, err)
		}
		if c.Function.Name == "" {
			return nil, fmt.Errorf("tool_calls[%d].function.name: missing", i)
		}
		out.ToolCalls = append(out.ToolCalls, &droverv1.ToolCall{
			Id: c.ID, Name: c.Function.Name, ArgumentsJson: arguments,
		})
	}
	return out, nil
}

// setContent takes a string, null or an array of parts.
func setContent(m *droverv1.ChatMessage, raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if raw[0] == '"' {
		return json.Unmarshal(raw, &m.Content)
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return errors.New(`field "content": want a string, null or an array of parts`)
	}
	for i, p := range parts {
		switch {
		case p.Type == "image" || p.Type == "image_url":
			return fmt.Errorf("content[%d]: %w", i, ErrImage)
		case p.Type != "text":
			return fmt.Errorf("content[%d].type: %q is not known, want \"text\"", i, p.Type)
		case p.Text == nil:
			return fmt.Errorf("content[%d].text: missing", i)
		}
		m.Parts = append(m.Parts, &droverv1.ContentPart{
			Kind: &droverv1.ContentPart_Text{Text: *p.Text},
		})
	}
	return nil
}

// objectText takes a JSON object, or a string that holds one, as some programs write it.
func objectText(raw json.RawMessage) (string, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) > 0 && raw[0] == '"' {
		var inner string
		if err := json.Unmarshal(raw, &inner); err != nil {
			return "", err
		}
		raw = bytes.TrimSpace([]byte(inner))
	}
	if len(raw) == 0 || raw[0] != '{' || !json.Valid(raw) {
		return "", errors.New("want a JSON object")
	}
	return string(raw), nil
}
