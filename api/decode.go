package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// readInTurn waits for a request's turn and reads its body into v. done gives the turn back, and
// may be called again.
func (s *server) readInTurn(w http.ResponseWriter, r *http.Request, v any) (
	done func(), err error) {
	if done, err = s.turn(r); err != nil {
		return nil, err
	}
	if err = s.read(w, r, v); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// turn waits until a request may be read, where its body is large: one takes some ten times its
// size in memory until the coordinator has it, so few are on that way at a time. done gives the
// turn back, and may be called again.
func (s *server) turn(r *http.Request) (done func(), err error) {
	if r.ContentLength >= 0 && r.ContentLength < largeBody {
		return func() {}, nil
	}
	wait := time.NewTimer(s.opts.BodyTimeout)
	defer wait.Stop()
	select {
	case s.large <- struct{}{}:
		return sync.OnceFunc(func() { <-s.large }), nil
	case <-wait.C:
		return nil, status.Error(codes.ResourceExhausted,
			"too many large requests are being read; retry later")
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func unmarshal(body []byte, v any) error {
	if !utf8.Valid(body) {
		return invalid(http.StatusBadRequest, "", "the body is not valid UTF-8")
	}
	err := json.Unmarshal(body, v)
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	var refused *apiError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &kind) && kind.Field != "":
		param := strings.TrimPrefix(kind.Field, "params.") // JSON knows no embedded structs
		return badParam(param, "is a JSON %s, want %s", kind.Value, jsonKind(kind.Type))
	case errors.As(err, &kind):
		return invalid(http.StatusBadRequest, "", "the body is a JSON %s, want an object", kind.Value)
	case errors.As(err, &syntax):
		return invalid(http.StatusBadRequest, "", "the body is not JSON: %v at byte %d",
			syntax, syntax.Offset)
	}
	return invalid(http.StatusBadRequest, "", "the body is not JSON of this kind: %v", err)
}

// jsonKind says in JSON's words what a Go type takes.
func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonKind(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number in the range of " + t.String()
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "an integer of at most " + strconv.Itoa(t.Bits()) + " bits"
	case reflect.Uint32, reflect.Uint64:
		return "an integer from 0 of at most " + strconv.Itoa(t.Bits()) + " bits"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
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
	texts, ok := allOf[string](raw)
	if !ok {
		return badParam("stop", "want a string or an array of strings")
	}
	*l = texts
	return nil
}

// allOf reads an array without nulls, which Unmarshal would take for zeros.
func allOf[T any](raw []byte) ([]T, bool) {
	var list []*T
	if json.Unmarshal(raw, &list) != nil || slices.Contains(list, nil) {
		return nil, false
	}
	out := make([]T, len(list))
	for i, v := range list {
		out[i] = *v
	}
	return out, true
}

// prompts is what /v1/completions goes on from: a text, token ids, or several of either.
type prompts []prompt

type prompt struct {
	text   string
	tokens []int32 // used if not nil
}

// UnmarshalJSON reads a string, an array of strings, of token ids, or of such arrays.
func (p *prompts) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*p = prompts{{text: text}}
		return nil
	}
	if texts, ok := allOf[string](raw); ok {
		for _, t := range texts {
			*p = append(*p, prompt{text: t})
		}
		return nil
	}
	if ids, ok := allOf[int32](raw); ok {
		*p = prompts{{tokens: ids}}
		return nil
	}
	lists, ok := allOf[json.RawMessage](raw)
	for _, l := range lists {
		var ids []int32
		if ids, ok = allOf[int32](l); !ok {
			break
		}
		*p = append(*p, prompt{tokens: ids})
	}
	if !ok {
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
