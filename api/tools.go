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

// mayBeCall tells whether an answer that begins like this may be calls: Llama 4 writes
// them as JSON objects, one after another, and nothing else.
func mayBeCall(text string) bool {
	text = strings.TrimLeft(text, " \t\r\n")
	return text == "" || text[0] == '{'
}

// parseCalls reads an answer that is nothing but {"name": …, "parameters": {…}}, once or
// several times, each name a tool's. Any other answer is text: nil.
func parseCalls(text string, tools map[string]bool) []functionCall {
	var out []functionCall
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	for {
		var call struct {
			Type       string          `json:"type"`
			Name       string          `json:"name"`
			Parameters json.RawMessage `json:"parameters"`
		}
		switch err := d.Decode(&call); {
		case err == io.EOF:
			return out
		case err != nil:
			return nil
		}
		arguments := bytes.TrimSpace(call.Parameters)
		if !tools[call.Name] || len(arguments) == 0 || arguments[0] != '{' ||
			(call.Type != "" && call.Type != "function") {
			return nil
		}
		out = append(out, functionCall{Name: call.Name, Arguments: string(arguments)})
	}
}
