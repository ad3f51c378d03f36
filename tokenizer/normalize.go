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
			list = append(list, canonical(norm.NFC, norm.NFD))
		case "NFD":
			list = append(list, canonical(norm.NFD, norm.NFD))
		case "NFKC":
			list = append(list, canonical(norm.NFKC, norm.NFKD))
		case "NFKD":
			list = append(list, canonical(norm.NFKD, norm.NFKD))
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
		return nil, fmt.Errorf("type Replace is supported only with a string pattern")
	}
	from, to := *s.Pattern.String, s.Content
	*growth *= 1 + min(max(len(to)-1, 0)/len(from), maxGrowth)
	if *growth > maxGrowth {
		return nil, fmt.Errorf("type Replace makes text more than %d times longer", maxGrowth)
	}
	return func(text string) string { return strings.ReplaceAll(text, from, to) }, nil
}

// joiner is what x/text puts into runs of more than 30 combining marks. The reference does not.
const joiner = "\u034f"

// canonical normalises to a form of Unicode. apart is the form with characters taken apart.
func canonical(form, apart norm.Form) func(string) string {
	return func(text string) string {
		out := form.String(text)
		if strings.Count(out, joiner) == strings.Count(text, joiner) {
			return out
		}
		return normalizeLong(text, form, apart)
	}
}

// normalizeLong normalises a text in which runs of combining marks may have any length.
func normalizeLong(text string, form, apart norm.Form) string {
	var chars []rune
	for _, r := range text {
		chars = append(chars, []rune(apart.String(string(r)))...)
	}
	for i := 0; i < len(chars); i++ {
		begin := i
		for i < len(chars) && class(chars[i]) != 0 {
			i++
		}
		slices.SortStableFunc(chars[begin:i], func(a, b rune) int {
			return int(class(a)) - int(class(b))
		})
	}
	if form != apart {
		chars = compose(chars)
	}
	return string(chars)
}

// class is the canonical combining class of a character; 0 is that of a base character.
func class(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }

// compose joins each base character with the marks that form one character with it, unless a
// mark of the same class or a base stands between. It works in place.
func compose(chars []rune) []rune {
	base, last := -1, uint8(0) // index of the base; class of the character kept last
	kept := chars[:0]
	for _, r := range chars {
		c := class(r)
		if base >= 0 && (last < c || last == 0) {
			whole := []rune(norm.NFC.String(string(kept[base]) + string(r)))
			if len(whole) == 1 {
				kept[base] = whole[0]
				continue
			}
		}
		if last = c; c == 0 {
			base = len(kept)
		}
		kept = append(kept, r)
	}
	return kept
}
