package coordinator

import (
	"maps"
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
	"drover/tokenizer"
)

type (
	genReq  = droverv1.GenerateRequest
	message = droverv1.ChatMessage
)

func textRequest(text string) *genReq {
	return &genReq{Prompt: &droverv1.GenerateRequest_Text{Text: text}, MaxTokens: 4}
}

func chatRequest(chat *droverv1.Chat) *genReq {
	return &genReq{Prompt: &droverv1.GenerateRequest_Chat{Chat: chat}, MaxTokens: 4}
}

func sayRequest(messages ...*message) *genReq {
	return chatRequest(&droverv1.Chat{Messages: messages})
}

// sampling is a request that is fine but for its sampling.
func sampling(s *droverv1.Sampling) *genReq {
	r := tokensRequest([]int32{3}, 2)
	r.Sampling = s
	return r
}

func with(change func(*genReq)) *genReq {
	r := tokensRequest([]int32{3}, 2)
	change(r)
	return r
}

func loadTokenizer(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Load("../models/tiny-maverick")
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestRequestsAreChecked says for every field what is refused, and that the error names it.
func TestRequestsAreChecked(t *testing.T) {
	c := start(t, newFake(2048), loadTokenizer(t), Options{Name: "tiny"})
	refused := badRequests()
	maps.Copy(refused, badChats())
	for field, requests := range refused {
		t.Run(field, func(t *testing.T) {
			for i, r := range requests {
				a := generate(t.Context(), c, r)
				text := status.Convert(a.err).Message()
				if status.Code(a.err) != codes.InvalidArgument || !strings.HasPrefix(text, field+": ") {
					t.Errorf("request %d: got %v, want INVALID_ARGUMENT for %s", i, a, field)
				}
			}
		})
	}
}

// TestTooLargeRequest refuses a request for its size, before it looks at what is in it.
func TestTooLargeRequest(t *testing.T) {
	c := start(t, newFake(2048), loadTokenizer(t), Options{AllowScore: true})
	for name, err := range map[string]error{
		"generate": generate(t.Context(), c, textRequest(strings.Repeat("a", MaxRequestBytes))).err,
		"score": c.Score(&droverv1.ScoreRequest{TokenIds: make([]int32, MaxRequestBytes)},
			&client[droverv1.ScoreResponse]{ctx: t.Context()}),
	} {
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "(4 MiB)") {
			t.Errorf("%s: %v, want INVALID_ARGUMENT with the limit", name, err)
		}
	}
	// The same text but for a few bytes is refused for what it is.
	err := generate(t.Context(), c, textRequest(strings.Repeat("a", MaxRequestBytes-64))).err
	if !strings.Contains(err.Error(), "tokens") {
		t.Errorf("just below the limit: %v, want a prompt of too many tokens", err)
	}
}

// badRequests are requests to refuse, by the field that is wrong.
func badRequests() map[string][]*genReq {
	nan := float32(math.NaN())
	long := strings.Repeat("x", maxStopBytes+1)
	manyBiases := map[int32]float32{}
	for i := range int32(maxBiases + 1) {
		manyBiases[i] = 1
	}
	return map[string][]*genReq{
		"model":  {with(func(r *genReq) { r.Model = "other" })},
		"prompt": {{}, tokensRequest(make([]int32, 64), 1), textRequest(strings.Repeat("a b ", 100))},
		"text":   {textRequest(""), textRequest("a\xff")},
		"tokens.ids": {tokensRequest(nil, 1), tokensRequest([]int32{1, -1}, 1),
			tokensRequest([]int32{2048}, 1)},
		"sampling.temperature": {sampling(&droverv1.Sampling{Temperature: proto.Float32(-1)}),
			sampling(&droverv1.Sampling{Temperature: proto.Float32(101)}),
			sampling(&droverv1.Sampling{Temperature: &nan})},
		"sampling.top_p": {sampling(&droverv1.Sampling{TopP: proto.Float32(0)}),
			sampling(&droverv1.Sampling{TopP: proto.Float32(1.1)}),
			sampling(&droverv1.Sampling{TopP: &nan})},
		"sampling.min_p": {sampling(&droverv1.Sampling{MinP: proto.Float32(1)}),
			sampling(&droverv1.Sampling{MinP: proto.Float32(-0.1)}),
			sampling(&droverv1.Sampling{MinP: &nan})},
		"sampling.presence_penalty": {sampling(&droverv1.Sampling{PresencePenalty: 2.1}),
			sampling(&droverv1.Sampling{PresencePenalty: nan})},
		"sampling.frequency_penalty": {sampling(&droverv1.Sampling{FrequencyPenalty: -2.1}),
			sampling(&droverv1.Sampling{FrequencyPenalty: nan})},
		"sampling.repetition_penalty": {sampling(&droverv1.Sampling{RepetitionPenalty: -1}),
			sampling(&droverv1.Sampling{RepetitionPenalty: 10.5}),
			sampling(&droverv1.Sampling{RepetitionPenalty: nan})},
		"sampling.logit_bias": {sampling(&droverv1.Sampling{LogitBias: map[int32]float32{1: 101}}),
			sampling(&droverv1.Sampling{LogitBias: map[int32]float32{1: nan}}),
			sampling(&droverv1.Sampling{LogitBias: map[int32]float32{2048: 1}}),
			sampling(&droverv1.Sampling{LogitBias: map[int32]float32{-1: 1}}),
			sampling(&droverv1.Sampling{LogitBias: manyBiases})},
		"stop": {with(func(r *genReq) { r.Stop = []string{"a", ""} }),
			with(func(r *genReq) { r.Stop = []string{long} }),
			with(func(r *genReq) { r.Stop = []string{"\xff"} }),
			with(func(r *genReq) { r.Stop = make([]string, maxStops+1) })},
		"stop_token_ids": {with(func(r *genReq) { r.StopTokenIds = []int32{2048} }),
			with(func(r *genReq) { r.StopTokenIds = []int32{-1} }),
			with(func(r *genReq) { r.StopTokenIds = make([]int32, maxStopTokens+1) })},
		"top_logprobs": {with(func(r *genReq) { r.TopLogprobs = proto.Uint32(21) })},
	}
}

// badChats are conversations to refuse, by the field that is wrong.
func badChats() map[string][]*genReq {
	user := &message{Role: "user", Content: "hi"}
	image := &droverv1.ContentPart{Kind: &droverv1.ContentPart_Image{Image: []byte{1}}}
	parts := func(p *droverv1.ContentPart) *genReq {
		return sayRequest(&message{Role: "user", Parts: []*droverv1.ContentPart{p}})
	}
	call := func(name, arguments string) *message {
		return &message{Role: "assistant", ToolCalls: []*droverv1.ToolCall{
			{Name: "ok"}, {Name: name, ArgumentsJson: arguments}}}
	}
	return map[string][]*genReq{
		"chat.messages": {chatRequest(nil), sayRequest(),
			sayRequest(&message{Role: "user"})},
		"chat.messages[1].role": {sayRequest(user, &message{Content: "x"}),
			sayRequest(user, &message{Role: "\xff"})},
		"chat.messages[0].content":      {sayRequest(&message{Role: "user", Content: "\xff"})},
		"chat.messages[0].name":         {sayRequest(&message{Role: "user", Content: "x", Name: "\xff"})},
		"chat.messages[0].tool_call_id": {sayRequest(&message{Role: "tool", Content: "x", ToolCallId: "\xff"})},
		"chat.messages[0].parts[0]":     {parts(&droverv1.ContentPart{})},
		"chat.messages[0].parts[0].text": {parts(
			&droverv1.ContentPart{Kind: &droverv1.ContentPart_Text{Text: "\xff"}})},
		"chat.messages[1].parts[0].image": {sayRequest(user, &message{Role: "user",
			Parts: []*droverv1.ContentPart{image}})},
		"chat.messages[0].tool_calls[1].name": {sayRequest(call("", ""))},
		"chat.messages[0].tool_calls[1].arguments_json": {sayRequest(call("f", "{")),
			sayRequest(call("f", "[1]"))},
		"chat.tools_json[1]": {
			chatRequest(&droverv1.Chat{Messages: []*message{user}, ToolsJson: []string{"{}", "{]"}}),
			chatRequest(&droverv1.Chat{Messages: []*message{user}, ToolsJson: []string{"{}", "3"}})},
		"chat.template_variables_json": {
			chatRequest(&droverv1.Chat{Messages: []*message{user}, TemplateVariablesJson: "x"}),
			chatRequest(&droverv1.Chat{Messages: []*message{user}, TemplateVariablesJson: `"x"`}),
			chatRequest(&droverv1.Chat{Messages: []*message{user}, TemplateVariablesJson: `{"tools":1}`})},
	}
}

func TestLimitsAreAccepted(t *testing.T) {
	c := start(t, newFake(2048), loadTokenizer(t), Options{Name: "tiny"})
	for name, r := range map[string]*genReq{
		"largest": sampling(&droverv1.Sampling{Temperature: proto.Float32(100), TopP: proto.Float32(1),
			MinP: proto.Float32(0.99), TopK: proto.Uint32(math.MaxUint32), PresencePenalty: 2,
			FrequencyPenalty: 2, RepetitionPenalty: 10, LogitBias: map[int32]float32{2047: 100}}),
		"smallest": sampling(&droverv1.Sampling{Temperature: proto.Float32(0),
			TopP: proto.Float32(math.SmallestNonzeroFloat32), MinP: proto.Float32(0),
			PresencePenalty: -2, FrequencyPenalty: -2, RepetitionPenalty: 0.001,
			LogitBias: map[int32]float32{0: -100}}),
		"max_tokens":     with(func(r *genReq) { r.MaxTokens = math.MaxUint32 }),
		"longest prompt": tokensRequest(make([]int32, 63), 0),
		"stops": with(func(r *genReq) {
			r.Stop = []string{strings.Repeat("x", maxStopBytes)}
			r.StopTokenIds = []int32{2047, 0}
		}),
		"model": with(func(r *genReq) { r.Model = "tiny" }),
	} {
		t.Run(name, func(t *testing.T) {
			if a := generate(t.Context(), c, r); a.err != nil || a.finished == nil {
				t.Error(a)
			}
		})
	}
}

func TestWithoutTokenizer(t *testing.T) {
	c := start(t, newFake(32), nil, Options{Name: "bare"})
	for name, r := range map[string]*genReq{
		"text": textRequest("x"),
		"chat": sayRequest(&message{Role: "user", Content: "x"}),
		"stop": with(func(r *genReq) { r.Stop = []string{"x"} }),
	} {
		a := generate(t.Context(), c, r)
		if status.Code(a.err) != codes.FailedPrecondition ||
			!strings.Contains(a.err.Error(), "no tokenizer") {
			t.Errorf("%s: got %v", name, a.err)
		}
	}
}
