package api

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
)

// toolCall is a call of a function, as a message spells it.
type toolCall struct {
	// Index is set in streams only.
	Index    *int         `json:"index,omitempty"`
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name string `json:"name"`
	// Arguments is a JSON object in a string.
	Arguments string `json:"arguments"`
}

// tool is what is read of a tool's definition; the template gets all of it.
type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name string `json:"name"`
	} `json:"function"`
}

const maxTools = 128

func checkTools(tools []json.RawMessage) error {
	if len(tools) > maxTools {
		return badParam("tools", "has %d entries, at most %d are allowed", len(tools), maxTools)
	}
	for i, raw := range tools {
		var t tool
		if json.Unmarshal(raw, &t) != nil || t.Function.Name == "" {
			return badParam(at("tools", i), "want an object with type and function.name")
		}
		if t.Type != "function" {
			return unsupported(at("tools", i)+".type", "is %.40q, want function", t.Type)
		}
	}
	return nil
}

// toolNames returns the names of tools that were checked.
func toolNames(tools []json.RawMessage) map[string]bool {
	names := map[string]bool{}
	for _, raw := range tools {
		var t tool
		if json.Unmarshal(raw, &t) == nil {
			names[t.Function.Name] = true
		}
	}
	return names
}

// mayBeCall tells whether an answer that begins like this may be a call: Llama 4 writes
// one as a JSON object and nothing else.
func mayBeCall(text string) bool {
	text = strings.TrimLeft(text, " \t\r\n")
	return text == "" || text[0] == '{'
}

// parseCall reads {"name": …, "parameters": {…}} if that is the whole answer and the name
// is a tool's.
func parseCall(text string, tools map[string]bool) (functionCall, bool) {
	var call struct {
		Type       string          `json:"type"`
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(&call) != nil {
		return functionCall{}, false
	}
	if _, err := d.Token(); err != io.EOF {
		return functionCall{}, false
	}
	arguments := bytes.TrimSpace(call.Parameters)
	if !tools[call.Name] || len(arguments) == 0 || arguments[0] != '{' ||
		(call.Type != "" && call.Type != "function") {
		return functionCall{}, false
	}
	return functionCall{Name: call.Name, Arguments: string(arguments)}, true
}
