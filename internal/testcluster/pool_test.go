package testcluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"drover/coordinator"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// TestTwoCoordinators has two coordinators share nodes, whose frames come on streams of
// both: each question is answered as by one alone.
func TestTwoCoordinators(t *testing.T) {
	n := 24
	if raceEnabled {
		n = 8
	}
	all := questions(t, n)
	want := Start(t, Options{Mode: kernel.Int8}).answers(t, all, 1)
	one := Start(t, Options{Mode: kernel.Int8, Nodes: 2})
	two := one.Another(t, Options{Mode: kernel.Int8, Threads: 3,
		Coordinator: coordinator.Options{MaxPrefillTokens: 5}})
	both := []*Cluster{one, two}
	got := make([][][32]byte, len(both))
	var wg sync.WaitGroup
	for i, c := range both {
		wg.Go(func() { got[i] = c.answers(t, all, 16) })
	}
	wg.Wait()
	for i, c := range both {
		compare(t, fmt.Sprintf("coordinator %d of 2", i+1), all, got[i], want)
		for node, rows := range c.Router.RowsByNode() {
			if rows == 0 {
				t.Errorf("coordinator %d had nothing computed by %s", i+1, node)
			}
		}
	}
}

// copied is a client's copy of an answer.
type copied struct {
	resume   *droverv1.Resume
	text     string
	logprobs []*droverv1.TokenLogprobs
	finished *droverv1.Finished
}

// add takes messages; what the copy shares with an older one is not changed.
func (c copied) add(all []*droverv1.GenerateResponse) copied {
	r := &droverv1.Resume{}
	if c.resume != nil {
		r = proto.CloneOf(c.resume)
	}
	for _, m := range all {
		if s := m.GetStarted(); s != nil {
			r.RequestId, r.Seed, r.Fingerprint = s.RequestId, &s.Seed, s.Fingerprint
		}
		d := m.GetDelta()
		r.TokenIds = append(r.TokenIds, d.GetTokenIds()...)
		r.TextBytes += uint64(len(d.GetText()))
		c.text += d.GetText()
		c.logprobs = append(c.logprobs[:len(c.logprobs):len(c.logprobs)], d.GetLogprobs()...)
		if f := m.GetFinished(); f != nil {
			c.finished = &droverv1.Finished{Reason: f.Reason, Stop: f.Stop, TokenCount: f.TokenCount,
				PromptTokenCount: f.PromptTokenCount}
		}
	}
	c.resume = r
	return c
}

// String has everything in it that must be equal.
func (c copied) String() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v %q %v", c.resume, c.text, c.finished)
	for _, lp := range c.logprobs {
		bytes, _ := proto.MarshalOptions{Deterministic: true}.Marshal(lp)
		fmt.Fprintf(&b, " %x", bytes)
	}
	return b.String()
}

// messages asks for an answer.
func (c *Cluster) messages(t testing.TB, req *droverv1.GenerateRequest) (
	all []*droverv1.GenerateResponse) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.Generate(ctx, req)
	check(t, err)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		check(t, err)
		all = append(all, m)
	}
}

// toolQuestion is a question of the evaluation that is answered by calling a tool.
func toolQuestion(t testing.TB) *droverv1.Chat {
	t.Helper()
	f, err := os.Open(Path("models/tiny-maverick/eval.jsonl"))
	check(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var q struct {
			Task     string
			Messages []struct{ Role, Content string }
			Tools    []json.RawMessage
		}
		if json.Unmarshal(lines.Bytes(), &q) != nil || q.Task != "tool_call" {
			continue // questions about pictures have other messages
		}
		chat := &droverv1.Chat{Messages: []*droverv1.ChatMessage{
			{Role: q.Messages[0].Role, Content: q.Messages[0].Content}}}
		for _, tool := range q.Tools {
			chat.ToolsJson = append(chat.ToolsJson, string(tool))
		}
		return chat
	}
	t.Fatal("there is no question with tools")
	return nil
}

// resumed are requests to the demo model whose state at a cut differs in kind.
func resumed(t testing.TB) map[string]*droverv1.GenerateRequest {
	say := func(text string, change func(*droverv1.GenerateRequest)) *droverv1.GenerateRequest {
		r := &droverv1.GenerateRequest{MaxTokens: 40, Prompt: &droverv1.GenerateRequest_Chat{
			Chat: &droverv1.Chat{Messages: []*droverv1.ChatMessage{{Role: "user", Content: text}}}}}
		if change != nil {
			change(r)
		}
		return r
	}
	story := "Tell me a story about a fox."
	hot := func(r *droverv1.GenerateRequest) {
		r.Sampling = &droverv1.Sampling{Temperature: proto.Float32(1.5), TopP: proto.Float32(0.95),
			FrequencyPenalty: 0.7, RepetitionPenalty: 1.2}
		r.IgnoreEos = true
	}
	return map[string]*droverv1.GenerateRequest{
		"greedy":      say(story, nil),
		"accents":     say("Translate to Portuguese: The queen is black.", nil),
		"sampled":     say(story, hot),
		"stop string": say(story, func(r *droverv1.GenerateRequest) { r.Stop = []string{"fox w", "xyz"} }),
		"logprobs": say("Traduce al inglés: El gato ve la llave azul.",
			func(r *droverv1.GenerateRequest) {
				hot(r)
				r.TopLogprobs = proto.Uint32(5)
			}),
		"tool call": say("", func(r *droverv1.GenerateRequest) {
			r.Prompt = &droverv1.GenerateRequest_Chat{Chat: toolQuestion(t)}
		}),
		"text": say("", func(r *droverv1.GenerateRequest) {
			r.Prompt = &droverv1.GenerateRequest_Text{Text: "Once upon a time"}
			r.MaxTokens = 20
		}),
		"tokens": say("", func(r *droverv1.GenerateRequest) {
			r.Prompt = &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{
				Ids: []int32{2016, 300, 301, 302}}}
			hot(r)
			r.MaxTokens = 20
		}),
	}
}

// TestResumeAtEveryMessage cuts answers of the demo model after each message and resumes
// them on another coordinator, which prefills in other pieces: token ids, text,
// log-probabilities and the end are those of the whole answer, byte for byte.
func TestResumeAtEveryMessage(t *testing.T) {
	for mode, step := range map[kernel.Mode]int{kernel.BF16: 1, kernel.Int4: 4} {
		if raceEnabled {
			step = 13
		}
		one := Start(t, Options{Mode: mode, Nodes: 2,
			Coordinator: coordinator.Options{MaxUnreadTokens: 1}})
		two := one.Another(t, Options{Mode: mode,
			Coordinator: coordinator.Options{MaxPrefillTokens: 7}})
		for name, req := range resumed(t) {
			t.Run(mode.String()+"/"+name, func(t *testing.T) {
				all := one.messages(t, req)
				want := copied{}.add(all)
				if len(all) < 5 {
					t.Fatalf("the answer came in %d messages", len(all))
				}
				for cut := 1; cut < len(all); cut += step {
					had := copied{}.add(all[:cut])
					again := proto.CloneOf(req)
					again.Resume = had.resume
					if got := had.add(two.messages(t, again)); got.String() != want.String() {
						t.Errorf("cut after %d of %d messages:\n got %v\nwant %v", cut, len(all), got, want)
					}
				}
			})
		}
	}
}
