package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Limits on what one tokenizer.json may chain and nest.
const (
	maxSteps = 16
	maxDepth = 4
	// maxGrowth bounds how many times longer a normalizer may make the text.
	maxGrowth = 64
)

// step is a part of tokenizer.json that has a type: a normalizer, a pre-tokenizer, a
// post-processor or a decoder. It has the fields of all of them.
type step struct {
	Type           string            `json:"type"`
	Normalizers    []json.RawMessage `json:"normalizers"`
	PreTokenizers  []json.RawMessage `json:"pretokenizers"`
	Processors     []json.RawMessage `json:"processors"`
	Decoders       []json.RawMessage `json:"decoders"`
	Pattern        pattern           `json:"pattern"`
	Content        string            `json:"content"`
	Prepend        string            `json:"prepend"`
	Behavior       string            `json:"behavior"`
	Invert         bool              `json:"invert"`
	AddPrefixSpace bool              `json:"add_prefix_space"`
	UseRegex       *bool             `json:"use_regex"`
	Replacement    string            `json:"replacement"`
	PrependScheme  string            `json:"prepend_scheme"`
	Split          *bool             `json:"split"`
	Start          int               `json:"start"`
	Stop           int               `json:"stop"`
	Single         []templatePart    `json:"single"`
	SpecialTokens  map[string]struct {
		IDs []int64 `json:"ids"`
	} `json:"special_tokens"`
}

// pattern is what a step looks for: one of the two is set.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// flatten turns a step, a Sequence of steps, or null into the list of its steps.
func flatten(field string, raw json.RawMessage, depth int) ([]step, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%s: nested deeper than %d", field, maxDepth)
	}
	var s step
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, jsonError(field, err)
	}
	if s.Type != "Sequence" {
		return []step{s}, nil
	}
	var list []step
	parts := slices.Concat(s.Normalizers, s.PreTokenizers, s.Processors, s.Decoders)
	for _, part := range parts {
		more, err := flatten(field, part, depth+1)
		if err != nil {
			return nil, err
		}
		if list = append(list, more...); len(list) > maxSteps {
			return nil, fmt.Errorf("%s: more than %d steps", field, maxSteps)
		}
	}
	return list, nil
}

// parseNormalizer builds the functions that the normalizer field describes.
func parseNormalizer(raw json.RawMessage) ([]func(string) string, error) {
	steps, err := flatten("normalizer", raw, 0)
	if err != nil {
		return nil, err
	}
	var list []func(string) string
	growth := 1
	for _, s := range steps {
		switch s.Type {
		case "NFC":
			list = append(list, norm.NFC.String)
		case "NFD":
			list = append(list, norm.NFD.String)
		case "NFKC":
			list = append(list, norm.NFKC.String)
		case "NFKD":
			list = append(list, norm.NFKD.String)
		case "Replace":
			replace, err := newReplace(s, &growth)
			if err != nil {
				return nil, fmt.Errorf("normalizer: %w", err)
			}
			list = append(list, replace)
		case "Prepend":
			if len(s.Prepend) > maxGrowth {
				return nil, fmt.Errorf("normalizer: Prepend of more than %d bytes", maxGrowth)
			}
			list = append(list, func(text string) string {
				if text == "" {
					return text
				}
				return s.Prepend + text
			})
		default:
			return nil, fmt.Errorf("normalizer: type %.60q is not supported", s.Type)
		}
	}
	return list, nil
}

// newReplace builds a Replace step. growth is the product over the steps before it of how many
// times longer each can make a text.
func newReplace(s step, growth *int) (func(string) string, error) {
	if s.Pattern.String == nil || *s.Pattern.String == "" {
		return nil, fmt.Errorf("Replace is supported only with a string pattern")
	}
	from, to := *s.Pattern.String, s.Content
	*growth *= 1 + min(max(len(to)-1, 0)/len(from), maxGrowth)
	if *growth > maxGrowth {
		return nil, fmt.Errorf("Replace makes text more than %d times longer", maxGrowth)
	}
	return func(text string) string { return strings.ReplaceAll(text, from, to) }, nil
}
