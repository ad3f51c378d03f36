package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

// parseConfig takes from tokenizer_config.json the named special tokens and the chat template.
func parseConfig(text []byte) (map[string]string, string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, "", jsonError("", err)
	}
	tokens := map[string]string{}
	for key, raw := range fields {
		if !strings.HasSuffix(key, "_token") || strings.HasPrefix(key, "add_") {
			continue
		}
		content, ok, err := tokenContent(raw)
		if err != nil {
			return nil, "", jsonError(key, err)
		}
		if ok {
			tokens[key] = content
		}
	}
	if raw, ok := fields["extra_special_tokens"]; ok && isObject(raw) {
		var extra map[string]json.RawMessage
		if err := json.Unmarshal(raw, &extra); err != nil {
			return nil, "", jsonError("extra_special_tokens", err)
		}
		for key, raw := range extra {
			content, ok, err := tokenContent(raw)
			if err != nil {
				return nil, "", jsonError("extra_special_tokens."+key, err)
			}
			if ok {
				tokens[key] = content
			}
		}
	}
	template, err := configTemplate(fields["chat_template"])
	if err != nil {
		return nil, "", jsonError("chat_template", err)
	}
	return tokens, template, nil
}

// tokenContent reads a token written as a string or as an object with its content. Null and
// switches such as add_bos_token are not tokens.
func tokenContent(raw json.RawMessage) (content string, ok bool, err error) {
	switch raw[0] {
	case '"':
		err = json.Unmarshal(raw, &content)
		return content, err == nil, err
	case '{':
		var object struct {
			Content *string `json:"content"`
		}
		if err = json.Unmarshal(raw, &object); err != nil {
			return "", false, err
		}
		if object.Content == nil {
			return "", false, fmt.Errorf("the token has no content")
		}
		return *object.Content, true, nil
	case 'n', 't', 'f':
		return "", false, nil
	default:
		return "", false, fmt.Errorf("want a string or an object with content")
	}
}

// configTemplate reads a template given as a string, or as a list of named ones, of which it
// takes "default".
func configTemplate(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	if raw[0] == '"' {
		var text string
		err := json.Unmarshal(raw, &text)
		return text, err
	}
	var named []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return "", err
	}
	for _, n := range named {
		if n.Name == "default" {
			return n.Template, nil
		}
	}
	return "", fmt.Errorf("none of the %d named templates is called default", len(named))
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }
