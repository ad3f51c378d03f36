package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
)

const chatPath = "/v1/chat/completions"

const weather = `{"type":"function","function":{"name":"weather","parameters":{"b":1,"a":2}}}`

func TestChatAnswer(t *testing.T) {
	f := &fake{}
	s := newFront(t, f, Options{})
	code, text := s.post(t, chatPath,
		`{"model":"demo","messages":[{"role":"user","content":"hi"}],"unknown":1}`)
	got := parse(t, text)
	if code != 200 || got["object"] != "chat.completion" || got["model"] != "demo" ||
		!strings.HasPrefix(got["id"].(string), "chatcmpl-") {
		t.Fatalf("status %d, answer %s", code, text)
	}
	if m := dig(t, got, "choices", 0, "message"); dig(t, m, "content") != "hello" ||
		dig(t, m, "role") != "assistant" {
		t.Errorf("message %v", m)
	}
	if r := dig(t, got, "choices", 0, "finish_reason"); r != "stop" {
		t.Errorf("finish_reason %v", r)
	}
	want := map[string]any{"prompt_tokens": 5.0, "completion_tokens": 2.0, "total_tokens": 7.0}
	if u := fmt.Sprint(got["usage"]); u != fmt.Sprint(want) {
		t.Errorf("usage %v, want %v", u, want)
	}
}

// TestChatRequest compares what the coordinator gets with what it should.
func TestChatRequest(t *testing.T) {
	const user = `"messages":[{"role":"user","content":"hi"}]`
	const chat = `"chat":{"messages":[{"role":"user","content":"hi"}]}`
	for name, tc := range map[string]struct{ body, want string }{
		"nothing set": {`{` + user + `}`, `{` + chat + `,"sampling":{}}`},
		"nulls": {`{` + user + `,"temperature":null,"stop":null,"seed":null,"n":null,"tools":null,
			"stream":null,"max_tokens":null,"response_format":null,"tool_choice":null,
			"stream_options":null,"logprobs":null,"top_logprobs":null,"logit_bias":null}`,
			`{` + chat + `,"sampling":{}}`},
		"sampling": {`{` + user + `,"temperature":0,"top_p":0.5,"presence_penalty":1,"top_k":3,
			"frequency_penalty":-1,"seed":-1,"logit_bias":{"7":-100},"min_p":0.25}`,
			`{` + chat + `,"sampling":{"temperature":0,"topP":0.5,"presencePenalty":1,"topK":3,
			"frequencyPenalty":-1,"seed":"18446744073709551615","logitBias":{"7":-100},"minP":0.25}}`},
		"limits": {`{` + user + `,"max_completion_tokens":9,"stop":"x","seed":18446744073709551615}`,
			`{` + chat + `,"maxTokens":9,"stop":["x"],"sampling":{"seed":"18446744073709551615"}}`},
		"stops": {`{` + user + `,"max_tokens":9,"max_completion_tokens":9,"stop":["x","y"]}`,
			`{` + chat + `,"maxTokens":9,"stop":["x","y"],"sampling":{}}`},
		"logprobs": {`{` + user + `,"logprobs":true}`, `{` + chat + `,"topLogprobs":0,"sampling":{}}`},
		"top logprobs": {`{` + user + `,"logprobs":true,"top_logprobs":4}`,
			`{` + chat + `,"topLogprobs":4,"sampling":{}}`},
		"parts": {`{"messages":[{"role":"developer","content":[{"type":"text","text":"a"},
			{"type":"text","text":""}]}]}`,
			`{"chat":{"messages":[{"role":"system","parts":[{"text":"a"},{"text":""}]}]},"sampling":{}}`},
		"tools keep their keys' order": {`{` + user + `,"tools":[` + weather + `],"tool_choice":"auto"}`,
			`{"chat":{"messages":[{"role":"user","content":"hi"}],"toolsJson":[` +
				fmt.Sprintf("%q", weather) + `]},"sampling":{}}`},
		"tool_choice none": {`{` + user + `,"tools":[` + weather + `],"tool_choice":"none"}`,
			`{` + chat + `,"sampling":{}}`},
		"tool turns": {`{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c1",
			"type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},
			{"role":"tool","tool_call_id":"c1","content":"2"}]}`,
			`{"chat":{"messages":[{"role":"assistant","toolCalls":[{"id":"c1","name":"f",
			"argumentsJson":"{\"x\":1}"}]},{"role":"tool","toolCallId":"c1","content":"2"}]},
			"sampling":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			if code, text := newFront(t, f, Options{}).post(t, chatPath, tc.body); code != 200 {
				t.Fatalf("status %d: %s", code, text)
			}
			want := &droverv1.GenerateRequest{}
			if err := protojson.Unmarshal([]byte(tc.want), want); err != nil {
				t.Fatal(err)
			}
			if got := f.sent(t); !proto.Equal(got, want) {
				t.Errorf("the coordinator got %v, want %v", got, want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	user := func(more string) string {
		return `{"messages":[{"role":"user","content":"hi"}],` + more + `}`
	}
	for name, tc := range map[string]struct {
		body  string
		param string
	}{
		"no messages":    {`{}`, "messages"},
		"kind":           {user(`"temperature":"hot"`), "temperature"},
		"n of 0":         {user(`"n":0`), "n"},
		"n of 9":         {user(`"n":9`), "n"},
		"max_tokens":     {user(`"max_tokens":0`), "max_tokens"},
		"two limits":     {user(`"max_tokens":1,"max_completion_tokens":2`), "max_tokens"},
		"seed":           {user(`"seed":1.5`), "seed"},
		"stop":           {user(`"stop":7`), "stop"},
		"bias":           {user(`"logit_bias":{"x":1}`), "logit_bias"},
		"bias range":     {user(`"logit_bias":{"4294967296":1}`), "logit_bias"},
		"top_logprobs":   {user(`"top_logprobs":3`), "top_logprobs"},
		"many logprobs":  {user(`"logprobs":true,"top_logprobs":21`), "top_logprobs"},
		"negative":       {user(`"logprobs":true,"top_logprobs":-1`), "top_logprobs"},
		"json_schema":    {user(`"response_format":{"type":"json_schema"}`), "response_format"},
		"json_object":    {user(`"response_format":{"type":"json_object"}`), "response_format"},
		"tool_choice":    {user(`"tool_choice":"required"`), "tool_choice"},
		"one tool":       {user(`"tool_choice":{"type":"function"}`), "tool_choice"},
		"functions":      {user(`"functions":[]`), "functions"},
		"function_call":  {user(`"function_call":"auto"`), "function_call"},
		"audio":          {user(`"modalities":["text","audio"]`), "modalities"},
		"audio format":   {user(`"audio":{}`), "audio"},
		"web search":     {user(`"web_search_options":{}`), "web_search_options"},
		"tool without":   {user(`"tools":[{}]`), "tools[0]"},
		"tool of a kind": {user(`"tools":[{"type":"x","function":{"name":"f"}}]`), "tools[0].type"},
		"role": {`{"messages":[{"role":"function","content":""}]}`,
			"messages[0].role"},
		"no content": {`{"messages":[{"role":"user"}]}`, "messages[0].content"},
		"content": {`{"messages":[{"role":"user","content":7}]}`,
			"messages[0].content"},
		"part": {`{"messages":[{"role":"user","content":[{"type":"input_audio"}]}]}`,
			"messages[0].content[0].type"},
		"image": {`{"messages":[{"role":"user","content":[{"type":"image_url",
			"image_url":{"url":"http://x/y.png"}}]}]}`,
			"messages[0].content[0].type"},
		"part of nothing": {`{"messages":[{"role":"user","content":[{"type":"text"}]}]}`,
			"messages[0].content[0].text"},
		"call of a kind": {`{"messages":[{"role":"assistant","tool_calls":[{"type":"custom",
			"function":{"name":"f"}}]}]}`,
			"messages[0].tool_calls[0].type"},
		"stop of null": {user(`"stop":["a",null]`), "stop"},
		"not UTF-8": {user(`"tools":[{"type":"function","function":{"name":"f","x":"` +
			"\xff" + `"}}]`), ""},
		"call of nothing": {`{"messages":[{"role":"assistant","tool_calls":[{}]}]}`,
			"messages[0].tool_calls[0].function.name"},
		"not JSON":         {`{`, ""},
		"not an object":    {`[]`, ""},
		"two objects":      {`{}{}`, ""},
		"deeply nested":    {strings.Repeat(`[`, 20000), ""},
		"nothing":          {``, ""},
		"number too large": {user(`"top_p":1e99`), "top_p"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			code, text := newFront(t, f, Options{}).post(t, chatPath, tc.body)
			e := dig(t, parse(t, text), "error")
			var want any
			if tc.param != "" {
				want = tc.param
			}
			if code != 400 || dig(t, e, "param") != want ||
				dig(t, e, "type") != "invalid_request_error" || dig(t, e, "message") == "" {
				t.Errorf("status %d, error %v; want 400 and param %v", code, e, want)
			}
			if len(f.requests) > 0 {
				t.Error("the coordinator was asked")
			}
		})
	}
}

func TestSeveralChoices(t *testing.T) {
	f := &fake{}
	s := newFront(t, f, Options{})
	code, text := s.post(t, chatPath,
		`{"messages":[{"role":"user","content":"hi"}],"n":3,"seed":7}`)
	got := parse(t, text)
	if code != 200 || len(got["choices"].([]any)) != 3 {
		t.Fatalf("status %d, answer %s", code, text)
	}
	for i := range 3 {
		if dig(t, got, "choices", i, "index") != float64(i) {
			t.Errorf("choice %d has index %v", i, dig(t, got, "choices", i, "index"))
		}
	}
	if u := dig(t, got, "usage", "prompt_tokens"); u != 5.0 {
		t.Errorf("prompt_tokens %v, want 5: the prompt counts once", u)
	}
	if u := dig(t, got, "usage", "completion_tokens"); u != 6.0 {
		t.Errorf("completion_tokens %v, want 6", u)
	}
	var seeds []uint64
	for _, r := range f.requests {
		seeds = append(seeds, r.GetSampling().GetSeed())
	}
	slices.Sort(seeds)
	if !slices.Equal(seeds, []uint64{7, 8, 9}) {
		t.Errorf("seeds %v, want 7, 8 and 9", seeds)
	}
}

// TestNoFingerprint checks that an answer does not need Describe.
func TestNoFingerprint(t *testing.T) {
	s := newFront(t, &fake{silent: true}, Options{})
	code, text := s.post(t, chatPath, `{"messages":[{"role":"user","content":"hi"}]}`)
	if f, has := parse(t, text)["system_fingerprint"]; code != 200 || !has || f != nil {
		t.Errorf("status %d, %s; want 200 and a fingerprint of null", code, text)
	}
}

func TestLogprobs(t *testing.T) {
	s := newFront(t, &fake{answer: say("h", "\"i")}, Options{})
	_, text := s.post(t, chatPath,
		`{"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":1}`)
	first := dig(t, parse(t, text), "choices", 0, "logprobs", "content", 0)
	top := dig(t, first, "top_logprobs", 0)
	if dig(t, first, "token") != "h" || dig(t, first, "logprob") != -0.5 ||
		dig(t, first, "bytes", 0) != 104.0 {
		t.Errorf("token %v", first)
	}
	if dig(t, top, "token") != "\ufffd" || dig(t, top, "bytes", 0) != 195.0 {
		t.Errorf("alternative %v, want a replaced character and its true byte", top)
	}
	_, text = s.post(t, "/v1/completions", `{"prompt":"x","logprobs":1}`)
	lp := dig(t, parse(t, text), "choices", 0, "logprobs")
	if dig(t, lp, "tokens", 1) != "\"i" || dig(t, lp, "text_offset", 1) != 1.0 ||
		dig(t, lp, "top_logprobs", 0, "\ufffd") != -1.0 {
		t.Errorf("completion's logprobs %v", lp)
	}
}
