package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// read decodes a request's JSON body into v, whatever its Content-Type says: curl -d
// without a header is how people try things.
func (s *server) read(w http.ResponseWriter, r *http.Request, v any) error {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(s.opts.BodyTimeout)) // not all writers can
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.opts.MaxBodyBytes))
	if err == nil {
		// It must not outlive the body: it would be taken for the client's leave.
		_ = rc.SetReadDeadline(time.Time{})
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return invalid(http.StatusRequestEntityTooLarge, "",
			"the body has more than %d bytes, the limit", large.Limit)
	case err != nil:
		return invalid(http.StatusBadRequest, "", "read the body: %v", err)
	}
	return unmarshal(body, v)
}

func unmarshal(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	var kind *json.UnmarshalTypeError
	var refused *apiError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &kind) && kind.Field != "":
		param := strings.TrimPrefix(kind.Field, "params.") // JSON knows no embedded structs
		return badParam(param, "is a JSON %s, want %v", kind.Value, kind.Type)
	}
	return invalid(http.StatusBadRequest, "", "the body is not a JSON object of this kind: %v", err)
}

// seed is any 64-bit integer, with a sign or without.
type seed uint64

// UnmarshalJSON reads an integer.
func (s *seed) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		*s = seed(i)
		return nil
	}
	u, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil {
		return badParam("seed", "is %.40s, want a 64-bit integer", raw)
	}
	*s = seed(u)
	return nil
}

// stringList is one string or several.
type stringList []string

// UnmarshalJSON reads a string or an array of strings.
func (l *stringList) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		*l = make(stringList, 1)
		return json.Unmarshal(raw, &(*l)[0])
	}
	if err := json.Unmarshal(raw, (*[]string)(l)); err != nil {
		return badParam("stop", "want a string or an array of strings")
	}
	return nil
}

// prompts is what /v1/completions goes on from: a text, token ids, or several of either.
type prompts []prompt

type prompt struct {
	text   string
	tokens []int32 // used if not nil
}

// UnmarshalJSON reads a string, an array of strings, of token ids, or of such arrays.
func (p *prompts) UnmarshalJSON(raw []byte) error {
	var text string
	var texts []string
	var ids []int32
	var lists [][]int32
	switch {
	case string(raw) == "null":
		return nil
	case json.Unmarshal(raw, &text) == nil:
		*p = prompts{{text: text}}
	case json.Unmarshal(raw, &texts) == nil:
		for _, t := range texts {
			*p = append(*p, prompt{text: t})
		}
	case json.Unmarshal(raw, &ids) == nil:
		*p = prompts{{tokens: ids}}
	case json.Unmarshal(raw, &lists) == nil:
		for _, l := range lists {
			*p = append(*p, prompt{tokens: append([]int32{}, l...)})
		}
	default:
		return badParam("prompt", "want a string, an array of strings or of token ids, "+
			"or an array of arrays of token ids")
	}
	return nil
}

// biases reads logit_bias, whose keys are token ids.
func biases(m map[string]float32) (map[int32]float32, error) {
	if len(m) == 0 {
		return nil, nil
	}
	out := make(map[int32]float32, len(m))
	for key, value := range m {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return nil, badParam("logit_bias", "the key %.40q is not a token id", key)
		}
		out[int32(id)] = value
	}
	return out, nil
}

// isSet tells whether an optional field was given and is not null.
func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// at names an element of a list.
func at(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
