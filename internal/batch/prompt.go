package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	droverv1 "drover/proto/drover/v1"
)

// prompt is a line of the prompts. Fields that it does not know are ignored, so that files made
// for other purposes (a set of questions with answers) can be asked as they are.
type prompt struct {
	id json.RawMessage

	ID          json.RawMessage   `json:"id"`
	Messages    json.RawMessage   `json:"messages"`
	Prompt      *string           `json:"prompt"`
	Tools       []json.RawMessage `json:"tools"`
	Seed        *uint64           `json:"seed"`
	Temperature *float32          `json:"temperature"`
	MaxTokens   uint32            `json:"max_tokens"`
	IgnoreEOS   bool              `json:"ignore_eos"`

	chat *droverv1.Chat
}

// parsePrompt reads a line. Its id is set even with an error: the line's number, if it has no
// other. Errors name the line and the field.
func parsePrompt(l Line) (prompt, error) {
	p := prompt{}
	fail := func(err error) (prompt, error) {
		return p, fmt.Errorf("line %d: %w", l.Number, err)
	}
	number, _ := json.Marshal(strconv.Itoa(l.Number))
	p.id = number
	if l.Text == nil {
		return fail(fmt.Errorf("longer than %d MB, refused", maxLineBytes>>20))
	}
	err := json.Unmarshal(l.Text, &p)
	if id, ok := plainID(p.ID); ok {
		p.id = id
	} else {
		return fail(errors.New(`field "id": want a string or a number`))
	}
	if p.id == nil {
		p.id = number
	}
	if err != nil {
		return fail(jsonError(err))
	}
	switch {
	case p.Prompt != nil && p.Messages != nil:
		return fail(errors.New(`has both "prompt" and "messages", want one`))
	case p.Prompt != nil:
		p.chat = &droverv1.Chat{Messages: []*droverv1.ChatMessage{
			{Role: "user", Content: *p.Prompt},
		}}
	case p.Messages != nil:
		if p.chat, err = ParseChat(p.Messages, nil); err != nil {
			return fail(err)
		}
	default:
		return fail(errors.New(`has neither "prompt" nor "messages"`))
	}
	if err := addTools(p.chat, p.Tools); err != nil {
		return fail(err)
	}
	return p, nil
}

// plainID checks and compacts an id; nil stays nil, null counts as none.
func plainID(id json.RawMessage) (json.RawMessage, bool) {
	id = bytes.TrimSpace(id)
	if len(id) == 0 || string(id) == "null" {
		return nil, true
	}
	return id, id[0] == '"' || id[0] == '-' || '0' <= id[0] && id[0] <= '9'
}

// jsonError puts an error of encoding/json in the words of the file's author.
func jsonError(err error) error {
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("want a JSON object, got %s", wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Errorf("field %q: %s does not fit, want %s", wrong.Field, wrong.Value, wrong.Type)
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON: %w, at byte %d", err, syntax.Offset)
	}
	return err
}

// request is what the line asks.
func (p prompt) request(d Defaults) *droverv1.GenerateRequest {
	s := &droverv1.Sampling{Seed: d.Seed, Temperature: d.Temperature}
	if p.Seed != nil {
		s.Seed = p.Seed
	}
	if p.Temperature != nil {
		s.Temperature = p.Temperature
	}
	r := &droverv1.GenerateRequest{
		Prompt:    &droverv1.GenerateRequest_Chat{Chat: p.chat},
		Sampling:  s,
		MaxTokens: d.MaxTokens,
		IgnoreEos: p.IgnoreEOS,
	}
	if p.MaxTokens != 0 {
		r.MaxTokens = p.MaxTokens
	}
	return r
}

// Request is one line of a file of prompts.
type Request struct {
	// ID is the line's own id as text, or its number.
	ID string
	*droverv1.GenerateRequest
}

// Requests reads a file of prompts whole, at most limit of them; lines that cannot be read are
// errors.
func Requests(r io.Reader, d Defaults, limit int) ([]Request, error) {
	var all []Request
	for in := NewLines(r); ; {
		l, ok, err := in.Next()
		if err != nil || !ok {
			return all, err
		}
		if len(all) == limit {
			return nil, fmt.Errorf("line %d: more than %d prompts", l.Number, limit)
		}
		p, err := parsePrompt(l)
		if err != nil {
			return nil, err
		}
		all = append(all, Request{strings.Trim(string(p.id), `"`), p.request(d)})
	}
}
