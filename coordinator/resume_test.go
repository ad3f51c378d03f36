package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	droverv1 "drover/proto/drover/v1"
)

type response = droverv1.GenerateResponse

// messages are what a client received of an answer, and the error that ended it.
func messages(ctx context.Context, c *Coordinator, req *genReq) ([]*response, error) {
	cl := &client[response]{ctx: ctx}
	err := c.Generate(req, cl)
	return cl.got, err
}

// kept is what a client keeps of an answer, for Resume and for itself.
type kept struct {
	started  *droverv1.Started
	ids      []int32
	text     string
	logprobs []*droverv1.TokenLogprobs
	finished *droverv1.Finished
}

func (k kept) add(t testing.TB, all []*response) kept {
	for i, m := range all {
		switch e := m.Event.(type) {
		case *droverv1.GenerateResponse_Started:
			if i != 0 || k.started != nil && !proto.Equal(k.started, e.Started) {
				t.Fatalf("message %d: %v, before %v", i, m, k.started)
			}
			k.started = e.Started
		case *droverv1.GenerateResponse_Delta:
			k.ids = append(k.ids[:len(k.ids):len(k.ids)], e.Delta.TokenIds...)
			k.text += e.Delta.Text
			k.logprobs = append(k.logprobs[:len(k.logprobs):len(k.logprobs)], e.Delta.Logprobs...)
		case *droverv1.GenerateResponse_Finished:
			k.finished = proto.CloneOf(e.Finished)
			k.finished.FirstTokenMicros, k.finished.TotalMicros = 0, 0
		}
	}
	return k
}

// resume is the request that goes on from what is kept.
func (k kept) resume(req *genReq) *genReq {
	r := proto.CloneOf(req)
	r.Resume = &droverv1.Resume{RequestId: k.started.RequestId, Seed: &k.started.Seed,
		Fingerprint: k.started.Fingerprint, TokenIds: k.ids, TextBytes: uint64(len(k.text))}
	return r
}

func (k kept) String() string {
	return fmt.Sprintf("%d ids %v, text %q, %d logprobs, %v", len(k.ids), k.ids, k.text,
		len(k.logprobs), k.finished)
}

func same(a, b kept) bool {
	equal := fmt.Sprint(a.ids) == fmt.Sprint(b.ids) && a.text == b.text &&
		proto.Equal(a.started, b.started) && proto.Equal(a.finished, b.finished) &&
		len(a.logprobs) == len(b.logprobs)
	for i := 0; equal && i < len(a.logprobs); i++ {
		equal = proto.Equal(a.logprobs[i], b.logprobs[i])
	}
	return equal
}

// resumable are requests whose state at a cut differs in kind. Those with a tokenizer of
// bytes make text that is no UTF-8 most of the time.
func resumable(t testing.TB, c *Coordinator) map[string]*genReq {
	base := func(change func(*genReq)) *genReq {
		r := textRequest("Once upon a time é")
		r.MaxTokens, r.IgnoreEos = 24, true
		change(r)
		return r
	}
	hot := func(r *genReq) {
		r.Sampling = &droverv1.Sampling{Temperature: proto.Float32(2), TopP: proto.Float32(0.9)}
	}
	all, err := messages(t.Context(), c, base(func(*genReq) {}))
	if err != nil {
		t.Fatal(err)
	}
	free := kept{}.add(t, all)
	text := strings.ReplaceAll(free.text, "\uFFFD", "")
	middle := strings.ToValidUTF8(text[len(text)/2:len(text)/2+6], "")
	ending := free.ids[17]
	before := c.prompts.tok.Decode(free.ids[:slices.Index(free.ids, ending)], true)
	return map[string]*genReq{
		"greedy":  base(func(*genReq) {}),
		"sampled": base(hot),
		"own seed": base(func(r *genReq) {
			hot(r)
			r.Sampling.Seed = proto.Uint64(0)
		}),
		"penalties": base(func(r *genReq) {
			hot(r)
			r.Sampling.FrequencyPenalty, r.Sampling.PresencePenalty = 1.5, -0.5
			r.Sampling.RepetitionPenalty = 1.3
		}),
		"greedy with penalties": base(func(r *genReq) {
			r.Sampling = &droverv1.Sampling{RepetitionPenalty: 2}
		}),
		"log-probabilities": base(func(r *genReq) {
			hot(r)
			r.TopLogprobs = proto.Uint32(3)
		}),
		"stop string":    base(func(r *genReq) { r.Stop = []string{"never", middle} }),
		"held stop text": base(func(r *genReq) { r.Stop = holding(free.text) }),
		"held at the end": base(func(r *genReq) {
			_, n := utf8.DecodeLastRuneInString(before)
			r.Stop, r.StopTokenIds = []string{before[len(before)-n:] + "x"}, []int32{ending}
		}),
		"cut at the end": base(func(r *genReq) {
			r.Stop = []string{free.text[len(free.text)-3:] + "x"}
		}),
		"end token": base(func(r *genReq) { r.StopTokenIds = free.ids[11:12] }),
		"context":   base(func(r *genReq) { r.MaxTokens = 0 }),
		"one token": base(func(r *genReq) { r.MaxTokens = 1 }),
		"no token":  base(func(r *genReq) { r.StopTokenIds = free.ids[:1] }),
	}
}

// holding are stop strings that no text completes and that most text begins.
func holding(text string) []string {
	var stops []string
	seen := map[rune]bool{}
	for _, r := range text {
		if !seen[r] && len(stops) < maxStops {
			seen[r] = true
			stops = append(stops, string(r)+"\x00never")
		}
	}
	return stops
}

// TestResumeAtEveryMessage cuts streams after each message and resumes them elsewhere:
// what both bring is what the whole stream brings, byte for byte.
func TestResumeAtEveryMessage(t *testing.T) {
	tok := loadTokenizer(t)
	first := start(t, newFake(2048), tok, Options{Name: "tiny", MaxUnreadTokens: 1})
	second := start(t, newFake(2048), tok, Options{Name: "tiny", MaxPrefillTokens: 3,
		MaxBatchTokens: 8, MaxSequences: 2})
	for name, req := range resumable(t, first) {
		t.Run(name, func(t *testing.T) {
			all, err := messages(t.Context(), first, req)
			if err != nil {
				t.Fatal(err)
			}
			want := kept{}.add(t, all)
			for cut := 1; cut < len(all); cut++ {
				had := kept{}.add(t, all[:cut])
				rest, err := messages(t.Context(), second, had.resume(req))
				if err != nil {
					t.Fatalf("cut after %d of %d messages: %v", cut, len(all), err)
				}
				if got := had.add(t, rest); !same(got, want) {
					t.Errorf("cut after %d of %d messages, with %v:\n got %v\nwant %v",
						cut, len(all), had, got, want)
				}
			}
		})
	}
}

// TestResumeAgainAndAgain cuts resumed streams too, and forgets some of the text.
func TestResumeAgainAndAgain(t *testing.T) {
	tok := loadTokenizer(t)
	c := start(t, newFake(2048), tok, Options{Name: "tiny", MaxUnreadTokens: 2})
	requests := resumable(t, c)
	names := make([]string, 0, len(requests))
	for name := range requests {
		names = append(names, name)
	}
	rapid.Check(t, func(rt *rapid.T) {
		req := requests[rapid.SampledFrom(names).Draw(rt, "request")]
		all, err := messages(t.Context(), c, req)
		if err != nil {
			rt.Fatal(err)
		}
		want := kept{}.add(t, all)
		if req.Sampling != nil { // the seed was chosen anew
			req = proto.CloneOf(req)
			req.Sampling.Seed = &want.started.Seed
		}
		var had kept
		for more := true; more && len(all) > 1; {
			had = had.add(t, all[:rapid.IntRange(1, len(all)-1).Draw(rt, "cut")])
			for n := rapid.IntRange(0, 3).Draw(rt, "forget"); n > 0 && had.text != ""; n-- {
				_, size := utf8.DecodeLastRuneInString(had.text)
				had.text = had.text[:len(had.text)-size]
			}
			if all, err = messages(t.Context(), c, had.resume(req)); err != nil {
				rt.Fatalf("with %v: %v", had, err)
			}
			more = rapid.Bool().Draw(rt, "again")
		}
		if got := had.add(t, all); !same(got, want) {
			rt.Fatalf("got %v\nwant %v", got, want)
		}
	})
}

// TestResumeIsChecked says what state is refused, and that the error names the field.
func TestResumeIsChecked(t *testing.T) {
	c := start(t, newFake(2048), loadTokenizer(t), Options{Name: "tiny"})
	bare := start(t, newFake(2048), nil, Options{Name: "tiny"})
	text := textRequest("Once")
	text.MaxTokens, text.IgnoreEos = 12, true
	whole := generate(t.Context(), c, text)
	if whole.err != nil || len(whole.ids) != 12 {
		t.Fatal(whole)
	}
	cut, _, _ := strings.Cut(whole.text, "\uFFFD")
	for name, tc := range map[string]struct {
		on     *Coordinator
		resume *droverv1.Resume
		change func(*genReq)
		code   codes.Code
		says   string
	}{
		"no such token": {c, &droverv1.Resume{TokenIds: []int32{3, 2048}}, nil,
			codes.InvalidArgument, "resume.token_ids: entry 1 is token 2048"},
		"negative token": {c, &droverv1.Resume{TokenIds: []int32{-1}}, nil,
			codes.InvalidArgument, "resume.token_ids: entry 0"},
		"end token": {c, &droverv1.Resume{TokenIds: []int32{5, 2}},
			func(r *genReq) { r.IgnoreEos = false },
			codes.InvalidArgument, "resume.token_ids: entry 1 is token 2, which ends"},
		"stop token": {c, &droverv1.Resume{TokenIds: whole.ids[:2]},
			func(r *genReq) { r.StopTokenIds = whole.ids[1:2] },
			codes.InvalidArgument, "resume.token_ids: entry 1"},
		"more than max_tokens": {c, &droverv1.Resume{TokenIds: append(whole.ids[:12:12], 3)}, nil,
			codes.InvalidArgument, "resume.token_ids: has 13 tokens"},
		"beyond a stop string": {c, &droverv1.Resume{TokenIds: whole.ids},
			func(r *genReq) { r.Stop = []string{cut[1:2]} },
			codes.InvalidArgument, "resume.token_ids: entry"},
		"text beyond the tokens": {c, &droverv1.Resume{TokenIds: whole.ids[:3], TextBytes: 1 << 40}, nil,
			codes.InvalidArgument, "resume.text_bytes: is 1099511627776"},
		"text of an answer that goes on": {c, &droverv1.Resume{TokenIds: whole.ids[:3],
			TextBytes: uint64(len(c.prompts.tok.Decode(whole.ids[:3], true)))},
			func(r *genReq) { r.Stop = holding(whole.text) },
			codes.InvalidArgument, "resume.text_bytes"},
		"text without a tokenizer": {bare, &droverv1.Resume{TextBytes: 1},
			func(r *genReq) { *r = *tokensRequest([]int32{3}, 2) },
			codes.InvalidArgument, "resume.text_bytes"},
		"no seed": {c, &droverv1.Resume{}, func(r *genReq) {
			r.Sampling = &droverv1.Sampling{Temperature: proto.Float32(1)}
		}, codes.InvalidArgument, "resume.seed: is missing"},
		"another seed": {c, &droverv1.Resume{Seed: proto.Uint64(1)}, func(r *genReq) {
			r.Sampling = &droverv1.Sampling{Seed: proto.Uint64(2)}
		}, codes.InvalidArgument, "resume.seed: is 1, but"},
		"long id": {c, &droverv1.Resume{RequestId: strings.Repeat("a", maxRequestID+1)}, nil,
			codes.InvalidArgument, "resume.request_id: has 129"},
		"odd id": {c, &droverv1.Resume{RequestId: "a\nb"}, nil,
			codes.InvalidArgument, `resume.request_id: byte 1 is '\n'`},
		"another checkpoint": {c, &droverv1.Resume{Fingerprint: bare.print}, nil,
			codes.Aborted, "resume.fingerprint"},
	} {
		t.Run(name, func(t *testing.T) {
			r := proto.CloneOf(text)
			if tc.change != nil {
				tc.change(r)
			}
			r.Resume = tc.resume
			a := generate(t.Context(), tc.on, r)
			if text := status.Convert(a.err).Message(); status.Code(a.err) != tc.code ||
				!strings.HasPrefix(text, tc.says) {
				t.Errorf("got %v, want %v: %s", a, tc.code, tc.says)
			}
		})
	}
	if c.Close(); c.open != 0 {
		t.Errorf("%d requests are left over", c.open)
	}
}

// TestResumeInsideOfACharacter asks for text from the middle of a character on.
func TestResumeInsideOfACharacter(t *testing.T) {
	tok := loadTokenizer(t)
	c := start(t, newFake(2048), tok, Options{Name: "tiny"})
	ids := tok.Encode("é")
	r := textRequest("Once")
	r.MaxTokens, r.IgnoreEos = uint32(len(ids))+2, true
	r.Resume = &droverv1.Resume{TokenIds: ids, TextBytes: 1}
	a := generate(t.Context(), c, r)
	if status.Code(a.err) != codes.InvalidArgument || !strings.Contains(a.err.Error(), "character") {
		t.Errorf("got %v", a)
	}
}

// TestResumedCounts checks what an operator is told: resumed tokens count as prefill.
func TestResumedCounts(t *testing.T) {
	var done []RequestDone
	c := start(t, newFake(32), nil, Options{Name: "fake",
		Events: Events{RequestDone: func(d RequestDone) { done = append(done, d) }}})
	r := tokensRequest(promptOf(3), 10)
	r.IgnoreEos = true
	whole := generate(t.Context(), c, r)
	r.Resume = &droverv1.Resume{RequestId: "again", TokenIds: whole.ids[:6]}
	a := generate(t.Context(), c, r)
	if a.err != nil || a.started.RequestId != "again" || a.started.PromptTokenCount != 6 ||
		len(a.ids) != 4 || a.finished.TokenCount != 10 {
		t.Fatal(a, a.started)
	}
	c.Close() // events are over
	if len(done) != 2 || done[1].ID != "again" || done[1].PromptTokens != 6 ||
		done[1].ResumedTokens != 6 || done[1].Tokens != 10 {
		t.Errorf("told %+v", done)
	}
	// Of both requests: a step is counted after its tokens have gone out.
	if n := c.Stats(); n.PrefillTokens != 6+12 || n.DecodeTokens != 9+3 {
		t.Errorf("%d tokens prefilled, %d decoded; want 18, 12", n.PrefillTokens, n.DecodeTokens)
	}
}

// FuzzResume resumes answers with any state: it is refused by the name of a field, or the
// answer goes on with whole characters and right counts.
func FuzzResume(f *testing.F) {
	c := start(f, newFake(2048), loadTokenizer(f), Options{Name: "tiny"})
	f.Add([]byte{0, 3, 1, 200}, uint64(1), "x", uint8(9), false)
	f.Add([]byte{7, 0xff}, uint64(0), "\u00e9", uint8(1), true)
	f.Fuzz(func(t *testing.T, tokens []byte, text uint64, stop string, most uint8, eos bool) {
		r := textRequest("Once")
		r.MaxTokens, r.IgnoreEos, r.Stop = uint32(most), !eos, []string{stop}
		r.Resume = &droverv1.Resume{TextBytes: text % 64}
		for i := 0; i+1 < len(tokens); i += 2 {
			id := int32(tokens[i])<<8 | int32(tokens[i+1])
			r.Resume.TokenIds = append(r.Resume.TokenIds, id%2050)
		}
		a := generate(t.Context(), c, r)
		switch {
		case a.err != nil:
			says := status.Convert(a.err).Message()
			if status.Code(a.err) != codes.InvalidArgument ||
				!strings.HasPrefix(says, "resume.") && !strings.HasPrefix(says, "stop: ") {
				t.Errorf("%v: got %v", r, a)
			}
		case !utf8.ValidString(a.text):
			t.Errorf("%v: text %q", r, a.text)
		case int(a.finished.TokenCount) != len(r.Resume.TokenIds)+len(a.ids):
			t.Errorf("%v: %d tokens resumed, got %v", r, len(r.Resume.TokenIds), a)
		}
	})
}
