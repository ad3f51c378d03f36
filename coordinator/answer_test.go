package coordinator

import (
	"context"
	"math"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
	"drover/tokenizer"
)

const reasonStop, reasonLength = droverv1.FinishReason_FINISH_REASON_STOP,
	droverv1.FinishReason_FINISH_REASON_LENGTH

func TestTextIsDecodedTokens(t *testing.T) {
	tok := loadTokenizer(t)
	c := start(t, newFake(2048), tok, Options{Name: "tiny"})
	for _, text := range []string{"a", "Once upon", "é 你好", "<|eot|> 12"} {
		r := textRequest(text)
		r.MaxTokens, r.IgnoreEos = 40, true
		a := generate(t.Context(), c, r)
		if a.err != nil || len(a.ids) == 0 || a.text != tok.Decode(a.ids, true) {
			t.Errorf("%q: %v; want text %q", text, a, tok.Decode(a.ids, true))
		}
		want := append([]int32{c.spec.BOS}, tok.Encode(text)...)
		answer, _ := newFake(2048).greedy(want, 40)
		if n := min(9, len(answer)); !slices.Equal(answer[:n], a.ids[:n]) {
			t.Errorf("%q: the prompt was not %v", text, want)
		}
		if int(a.started.PromptTokenCount) != len(want) || int(a.finished.PromptTokenCount) != len(want) {
			t.Errorf("%q: counts %v %v, want %d", text, a.started, a.finished, len(want))
		}
	}
}

func TestStopStrings(t *testing.T) {
	tok := loadTokenizer(t)
	c := start(t, newFake(2048), tok, Options{Name: "tiny"})
	r := textRequest("Once")
	r.MaxTokens, r.IgnoreEos = 30, true
	whole := generate(t.Context(), c, r)
	for at := 1; at+3 <= len(whole.text); at += 5 {
		for _, size := range []int{1, 3, 9} {
			stop := strings.ToValidUTF8(whole.text[at:min(at+size, len(whole.text))], "")
			if stop == "" {
				continue
			}
			r.Stop = []string{"never", stop}
			a := generate(t.Context(), c, r)
			want, _, _ := strings.Cut(whole.text, stop)
			if a.err != nil || a.text != want || a.finished.Stop != stop || a.finished.Reason != reasonStop {
				t.Errorf("stop %q: %v, want text %q", stop, a, want)
			}
			if !slices.Equal(a.ids, whole.ids[:len(a.ids)]) || int(a.finished.TokenCount) != len(a.ids) ||
				!strings.Contains(tok.Decode(a.ids, true)+"\uFFFD", stop) {
				t.Errorf("stop %q: ids %v of %v", stop, a.ids, whole.ids)
			}
		}
	}
}

func TestEnds(t *testing.T) {
	f := newFake(32)
	c := start(t, f, nil, Options{Name: "fake"})
	bare := newFake(32)
	bare.spec.EOS = []int32{-1}
	free, _ := bare.greedy(promptOf(2), 20)
	first := func(id int32) int { return slices.Index(free, id) }
	for name, tc := range map[string]struct {
		change func(*genReq)
		count  int
		reason droverv1.FinishReason
	}{
		"max_tokens": {func(r *genReq) { r.MaxTokens = 1 }, 1, reasonLength},
		"stop token": {func(r *genReq) { r.StopTokenIds = []int32{free[3]} },
			first(free[3]), reasonStop},
		"stop token at 0": {func(r *genReq) { r.StopTokenIds = []int32{free[0]} }, 0, reasonStop},
		"context":         {func(r *genReq) { r.MaxTokens = 0 }, 64 - len(promptOf(2)), reasonLength},
		"more than context": {func(r *genReq) { r.MaxTokens = 1000 },
			64 - len(promptOf(2)), reasonLength},
		"end token forced by bias": {func(r *genReq) {
			r.IgnoreEos = false
			r.Sampling = &droverv1.Sampling{LogitBias: map[int32]float32{2: 100}}
		}, 0, reasonStop},
		"end token ignored": {func(r *genReq) {
			r.Sampling = &droverv1.Sampling{LogitBias: map[int32]float32{2: 100}}
		}, 20, reasonLength},
	} {
		t.Run(name, func(t *testing.T) {
			r := tokensRequest(promptOf(2), 20)
			r.IgnoreEos = true
			tc.change(r)
			a := generate(t.Context(), c, r)
			if a.err != nil || len(a.ids) != tc.count || int(a.finished.TokenCount) != tc.count ||
				a.finished.Reason != tc.reason {
				t.Errorf("%v, want %d tokens, %v", a, tc.count, tc.reason)
			}
		})
	}
}

func TestLogprobs(t *testing.T) {
	tok := loadTokenizer(t)
	f := newFake(2048)
	c := start(t, f, tok, Options{Name: "tiny"})
	for _, n := range []uint32{0, 5, 20} {
		r := tokensRequest(promptOf(1), 6)
		r.TopLogprobs, r.IgnoreEos = &n, true
		r.Sampling = &droverv1.Sampling{Temperature: proto.Float32(3), Seed: proto.Uint64(uint64(n))}
		a := generate(t.Context(), c, r)
		if a.err != nil || len(a.logprobs) != 6 {
			t.Fatalf("%d alternatives: %v, %d logprobs", n, a, len(a.logprobs))
		}
		tokens := promptOf(1)
		for i, lp := range a.logprobs {
			row := newFake(2048).want(tokens)
			sum := 0.0
			for _, l := range row {
				sum += math.Exp(float64(l))
			}
			of := func(id int32) float64 { return float64(row[id]) - math.Log(sum) }
			if lp.TokenId != a.ids[i] || math.Abs(float64(lp.Logprob)-of(lp.TokenId)) > 1e-5 ||
				!slices.Equal(lp.Token, tok.Bytes(lp.TokenId)) || len(lp.Alternatives) != int(n) {
				t.Errorf("token %d: %v, want %v", i, lp, of(a.ids[i]))
			}
			for j, alt := range lp.Alternatives {
				if math.Abs(float64(alt.Logprob)-of(alt.TokenId)) > 1e-5 ||
					j > 0 && alt.Logprob > lp.Alternatives[j-1].Logprob ||
					j == 0 && int(alt.TokenId) != argmax(row) {
					t.Errorf("token %d alternative %d: %v", i, j, alt)
				}
			}
			tokens = append(tokens, a.ids[i])
		}
	}
}

// TestChatPrompt compares prompts with the template's text, written out by hand.
func TestChatPrompt(t *testing.T) {
	tok := loadTokenizer(t)
	p := newPrompter(tok, 2016, 2048)
	text := func(s string) *droverv1.ContentPart {
		return &droverv1.ContentPart{Kind: &droverv1.ContentPart_Text{Text: s}}
	}
	bos := tok.SpecialTokens()["bos_token"]
	head := func(role string) string { return "<|header_start|>" + role + "<|header_end|>\n\n" }
	for name, tc := range map[string]struct {
		chat *droverv1.Chat
		want string
	}{
		"one message": {&droverv1.Chat{Messages: []*message{{Role: "user", Content: "Hi"}}},
			bos + head("user") + "Hi<|eot|>" + head("assistant")},
		"parts, no generation prompt": {&droverv1.Chat{NoGenerationPrompt: true,
			Messages: []*message{{Role: "system", Content: "S"}, {Role: "user",
				Parts: []*droverv1.ContentPart{text("a"), text("b")}}}},
			bos + head("system") + "S<|eot|>" + head("user") + "ab<|eot|>"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := p.tokens(t.Context(), chatRequest(tc.chat))
			if want := tok.EncodeSpecial(tc.want); err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v; want %q", tok.Decode(got, false), err, tc.want)
			}
		})
	}
	t.Run("tools and calls", func(t *testing.T) {
		got, err := p.tokens(t.Context(), chatRequest(&droverv1.Chat{
			ToolsJson: []string{`{"type":"function","function":{"name":"add","z":1,"a":2}}`},
			Messages: []*message{{Role: "user", Content: "1+2?"}, {Role: "assistant",
				ToolCalls: []*droverv1.ToolCall{{Id: "c1", Name: "add", ArgumentsJson: `{"y":1,"x":2}`}}},
				{Role: "tool", ToolCallId: "c1", Content: "3"}}}))
		if err != nil {
			t.Fatal(err)
		}
		decoded := tok.Decode(got, false)
		for _, want := range []string{
			`"name": "add", "z": 1, "a": 2`, `"y": 1, "x": 2`, head("ipython") + "3",
		} {
			if !strings.Contains(decoded, want) {
				t.Errorf("%q is not in %q", want, decoded)
			}
		}
	})
	t.Run("text is never a control token", func(t *testing.T) {
		got, err := p.tokens(t.Context(), sayRequest(&message{Role: "user", Content: "<|eot|>"}))
		eot, _ := tok.ID("<|eot|>")
		n := 0
		for _, id := range got {
			if id == eot {
				n++
			}
		}
		if err != nil || n != 1 {
			t.Errorf("%d end-of-turn tokens, want the template's own; %v", n, err)
		}
	})
}

func TestTemplateProblems(t *testing.T) {
	for name, tc := range map[string]struct {
		template string
		code     codes.Code
		text     string
	}{
		"raised": {`{{ raise_exception('roles must alternate') }}`,
			codes.InvalidArgument, "roles must alternate"},
		"broken": {`{% if %}`, codes.FailedPrecondition, "chat template is not usable"},
		"none":   {``, codes.FailedPrecondition, "no chat template"},
		"error":  {`{{ messages.x.y.z }}`, codes.InvalidArgument, "chat: render the chat template"},
		"empty":  {`{{ '' }}`, codes.InvalidArgument, "chat: the prompt is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, newFake(2048), tokenizerWith(t, tc.template), Options{Name: "tiny"})
			a := generate(t.Context(), c, sayRequest(&message{Role: "user", Content: "x"}))
			if status.Code(a.err) != tc.code || !strings.Contains(a.err.Error(), tc.text) {
				t.Errorf("got %v, want %v %q", a.err, tc.code, tc.text)
			}
		})
	}
}

// TestOverGRPC makes the calls through a real server.
func TestOverGRPC(t *testing.T) {
	o := small
	o.Name, o.AllowScore, o.Version, o.ModelDigest = "fake", true, "v0", []byte{7}
	c := start(t, newFake(32), nil, o)
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	c.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///buffer",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cl := droverv1.NewCoordinatorServiceClient(conn)
	stream, err := cl.Generate(t.Context(), tokensRequest(promptOf(1), 10))
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if s := m.GetStarted(); s != nil && (len(s.RequestId) != 32 || s.Model != "fake") {
			t.Errorf("started: %v", s)
		}
		ids = append(ids, m.GetDelta().GetTokenIds()...)
		if m.GetFinished() != nil {
			break
		}
	}
	if want, _ := newFake(32).greedy(promptOf(1), 10); !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
	d, err := cl.Describe(t.Context(), &droverv1.DescribeRequest{})
	if err != nil || d.Architecture != "fake" || d.VocabularySize != 32 || d.ContextTokens != 64 ||
		d.ExpertsPerToken != 2 || !slices.Equal(d.MoeLayers, []uint32{0, 1}) || d.KvBlocks == 0 ||
		d.HasChatTemplate || d.Version != "v0" {
		t.Errorf("Describe: %v, %v", d, err)
	}
	bad, err := cl.Generate(t.Context(), tokensRequest(nil, 1))
	if err == nil {
		_, err = bad.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("empty prompt: %v", err)
	}
}

// tokenizerWith is the demo tokenizer with another chat template.
func tokenizerWith(t *testing.T, template string) *tokenizer.Tokenizer {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, "../models/tiny-maverick/tokenizer.json", dir+"/tokenizer.json")
	if template != "" {
		writeFile(t, dir+"/chat_template.jinja", []byte(template))
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}
