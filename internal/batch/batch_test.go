package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"drover/internal/batch/batchtest"
	droverv1 "drover/proto/drover/v1"
)

// echo answers with what was asked.
func echo(_ context.Context, req *droverv1.GenerateRequest) (string, []int32, error) {
	text := req.GetChat().Messages[0].Content
	if strings.Contains(text, "refuse") {
		return "", nil, status.Error(codes.InvalidArgument, "messages: refused\tso it is")
	}
	return fmt.Sprintf("%s <%d>", text, req.MaxTokens), []int32{1, 2, int32(len(text))}, nil
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	prompts := write(t, filepath.Join(dir, "in.jsonl"), `
{"id":"a","prompt":"one","max_tokens":7}
{"id":5,"messages":[{"role":"user","content":"<two> & é"}]}

{"prompt":"three","task":"ignored"}
{"id":"a","prompt":"refuse"}
{"id":"x","prompt":"p","max_tokens":"many"}
{"id":"y"}
not json
[1]
{"id":{},"prompt":"p"}
{"id":"z","prompt":"last"}`)
	want := `{"id":"a","text":"one <7>","tokens":[1,2,3],"finish_reason":"stop","error":""}
{"id":5,"text":"<two> & é <9>","tokens":[1,2,10],"finish_reason":"stop","error":""}
{"id":"5","text":"three <9>","tokens":[1,2,5],"finish_reason":"stop","error":""}
{"id":"a","text":"","tokens":[],"finish_reason":"","error":"InvalidArgument: messages: refused\tso it is"}
{"id":"x","text":"","tokens":[],"finish_reason":"","error":"line 7: field \"max_tokens\": string does not fit, want uint32"}
{"id":"y","text":"","tokens":[],"finish_reason":"","error":"line 8: has neither \"prompt\" nor \"messages\""}
{"id":"9","text":"","tokens":[],"finish_reason":"","error":"line 9: not JSON: invalid character 'o' in literal null (expecting 'u'), at byte 2"}
{"id":"10","text":"","tokens":[],"finish_reason":"","error":"line 10: want a JSON object, got array"}
{"id":"11","text":"","tokens":[],"finish_reason":"","error":"line 11: field \"id\": want a string or a number"}
{"id":"z","text":"last <9>","tokens":[1,2,4],"finish_reason":"stop","error":""}
`
	out := filepath.Join(dir, "out.jsonl")
	var calls, lastDone, lastTotal int
	sum, err := Run(t.Context(), batchtest.Generate(echo).Serve(t), Options{
		Prompts: prompts, Out: out, Concurrency: 3, Defaults: Defaults{MaxTokens: 9},
		Progress: func(done, total int) { calls, lastDone, lastTotal = calls+1, done, total },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, out); got != want {
		t.Errorf("answers:\n%s\nwant:\n%s", got, want)
	}
	if want := (Summary{Lines: 10, Errors: 6}); sum != want {
		t.Errorf("summary %+v, want %+v", sum, want)
	}
	if calls != 11 || lastDone != 10 || lastTotal != 10 {
		t.Errorf("progress: %d calls, last %d of %d", calls, lastDone, lastTotal)
	}
}

func TestRunRefuses(t *testing.T) {
	client := batchtest.Generate(echo).Serve(t)
	dir := t.TempDir()
	prompts := write(t, filepath.Join(dir, "in.jsonl"), `{"prompt":"a"}`)
	for name, opts := range map[string]Options{
		"no prompts":      {Out: "x"},
		"no out":          {Prompts: prompts},
		"missing prompts": {Prompts: filepath.Join(dir, "none"), Out: filepath.Join(dir, "out")},
		"same file":       {Prompts: prompts, Out: prompts},
		"concurrency":     {Prompts: prompts, Out: filepath.Join(dir, "out"), Concurrency: -1},
		"out is a folder": {Prompts: prompts, Out: dir},
	} {
		if _, err := Run(t.Context(), client, opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := read(t, prompts); got != `{"prompt":"a"}` {
		t.Errorf("the prompts were changed to %q", got)
	}
}

func commonPrefix(a, b []byte) []byte {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// TestResume cuts and damages the answers anywhere: running again gives the same file.
func TestResume(t *testing.T) {
	var asked atomic.Int64
	client := batchtest.Generate(
		func(ctx context.Context, req *droverv1.GenerateRequest) (string, []int32, error) {
			asked.Add(1)
			return echo(ctx, req)
		}).Serve(t)
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		lines := rapid.SliceOfN(rapid.SampledFrom([]string{
			`{"id":"a","prompt":"one"}`, `{"id":"b","prompt":"two"}`, `{"prompt":"three"}`,
			`{"id":1}`, `broken`, ``, `{"id":"r","prompt":"refuse"}`,
		}), 0, 20).Draw(t, "lines")
		opts := Options{
			Prompts: filepath.Join(dir, "in"), Out: filepath.Join(dir, "out"),
			Concurrency: rapid.IntRange(1, 5).Draw(t, "concurrency"),
		}
		text := strings.Join(lines, "\n")
		if err := os.WriteFile(opts.Prompts, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		first, err := Run(context.Background(), client, opts)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(opts.Out)
		if err != nil {
			t.Fatal(err)
		}
		cut := rapid.IntRange(0, len(want)).Draw(t, "cut")
		damaged := append(bytes.Clone(want[:cut]),
			rapid.SampledFrom([]string{"", "\n", "{}\n", `{"id":"a"`, "\x00\xff"}).Draw(t, "tail")...)
		if err := os.WriteFile(opts.Out, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		asked.Store(0)
		again, err := Run(context.Background(), client, opts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(opts.Out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("resumed:\n%s\nwant:\n%s", got, want)
		}
		if again.Lines != first.Lines || again.Errors != first.Errors {
			t.Fatalf("resumed %+v, first %+v", again, first)
		}
		whole := commonPrefix(damaged, want) // the tail may mend what the cut took
		kept := bytes.Count(whole, []byte("\n"))
		if refused := bytes.Index(whole, []byte(`"r"`)); refused >= 0 {
			kept = bytes.Count(want[:refused], []byte("\n"))
		}
		if again.Resumed != kept {
			t.Fatalf("kept %d lines, want %d", again.Resumed, kept)
		}
		if n := int(asked.Load()); n > again.Lines-again.Resumed {
			t.Fatalf("asked %d requests for %d lines", n, again.Lines-again.Resumed)
		}
	})
}

// TestInterrupted ends a run in the middle: what is in the file are whole lines without errors,
// and the next run completes them.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "{\"id\":\"%d\",\"prompt\":\"p%d\"}\n", i, i)
	}
	opts := Options{
		Prompts: write(t, filepath.Join(dir, "in"), text.String()),
		Out:     filepath.Join(dir, "out"), Concurrency: 2,
	}
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	client := batchtest.Generate(
		func(ctx context.Context, req *droverv1.GenerateRequest) (string, []int32, error) {
			if n.Add(1) == 10 {
				cancel()
			}
			return echo(ctx, req)
		}).Serve(t)
	sum, err := Run(ctx, client, opts)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want cancelled", err)
	}
	part := read(t, opts.Out)
	if strings.Count(part, "\n") != sum.Lines || sum.Lines >= 50 || sum.Errors != 0 {
		t.Fatalf("%+v with answers:\n%s", sum, part)
	}
	sum, err = Run(t.Context(), client, opts)
	if err != nil || sum.Lines != 50 || sum.Errors != 0 {
		t.Fatalf("second run: %+v, %v", sum, err)
	}
	if got := read(t, opts.Out); !strings.HasPrefix(got, part) {
		t.Error("the second run changed what the first had written")
	}
}

// TestSlowAnswer holds back the first answer: others overtake it, at most Concurrency at once.
func TestSlowAnswer(t *testing.T) {
	dir := t.TempDir()
	const concurrency = 3
	release := make(chan struct{})
	var mu sync.Mutex
	running, most, asked := 0, 0, 0
	client := batchtest.Generate(
		func(ctx context.Context, req *droverv1.GenerateRequest) (string, []int32, error) {
			mu.Lock()
			running++
			asked++
			most = max(most, running)
			if asked == 4*concurrency {
				close(release)
			}
			mu.Unlock()
			if strings.HasSuffix(req.GetChat().Messages[0].Content, "first") {
				<-release
			}
			mu.Lock()
			running--
			mu.Unlock()
			return echo(ctx, req)
		}).Serve(t)
	sum, err := Run(t.Context(), client, Options{
		Prompts: write(t, filepath.Join(dir, "in"),
			"{\"prompt\":\"first\"}\n"+strings.Repeat("{\"prompt\":\"p\"}\n", 100)),
		Out: filepath.Join(dir, "out"), Concurrency: concurrency,
	})
	if err != nil || sum.Lines != 101 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if most > concurrency {
		t.Errorf("%d requests at once, want at most %d", most, concurrency)
	}
}

// TestPatience lets the coordinator be full for a while: the line is answered all the same. One
// that stays away is not waited for again with each line.
func TestPatience(t *testing.T) {
	dir := t.TempDir()
	var tries atomic.Int64
	client := batchtest.Generate(
		func(ctx context.Context, req *droverv1.GenerateRequest) (string, []int32, error) {
			if tries.Add(1) < 3 {
				return "", nil, status.Error(codes.ResourceExhausted, "full")
			}
			return echo(ctx, req)
		}).Serve(t)
	opts := Options{
		Prompts: write(t, filepath.Join(dir, "in"), `{"prompt":"p"}`),
		Out:     filepath.Join(dir, "out"),
	}
	sum, err := Run(t.Context(), client, opts)
	if err != nil || sum.Errors != 0 || tries.Load() != 3 {
		t.Errorf("full for a while: %+v, %v, %d tries", sum, err, tries.Load())
	}

	tries.Store(0)
	client = batchtest.Generate(
		func(context.Context, *droverv1.GenerateRequest) (string, []int32, error) {
			tries.Add(1)
			return "", nil, status.Error(codes.Unavailable, "layer 1 expert 2: no live replica")
		}).Serve(t)
	r := run{opts: opts, client: client}
	r.gone.Store(true)
	a := r.one(t.Context(), Line{1, []byte(`{"prompt":"p"}`)})
	if a.Error != "Unavailable: layer 1 expert 2: no live replica" || tries.Load() != 1 {
		t.Errorf("away: %+v after %d tries", a, tries.Load())
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	conn, err := grpc.NewClient("127.0.0.1:1",
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out := filepath.Join(dir, "out")
	_, err = Run(t.Context(), droverv1.NewCoordinatorServiceClient(conn), Options{
		Prompts: write(t, filepath.Join(dir, "in"), `{"prompt":"p"}`), Out: out,
	})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("error %v, want UNAVAILABLE", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file for answers was touched: %v", err)
	}
}

func TestParseChat(t *testing.T) {
	tools := `[ {"z":1,"a":{"c":2,"b":3}} ]`
	chat, err := ParseChat(json.RawMessage(`[
		{"role":"system","content":[{"type":"text","text":"s"}]},
		{"role":"assistant","content":null,"tool_calls":[
			{"id":"c1","type":"function","function":{"name":"f","arguments":{"y":1,"x":2}}},
			{"function":{"name":"g","arguments":"{\"q\": 0}"}}]},
		{"role":"tool","content":"5","tool_call_id":"c1","name":"f"}]`), json.RawMessage(tools))
	if err != nil {
		t.Fatal(err)
	}
	if got := chat.ToolsJson[0]; got != `{"z":1,"a":{"c":2,"b":3}}` {
		t.Errorf("tool %s", got)
	}
	m := chat.Messages
	if len(m) != 3 || m[0].Parts[0].GetText() != "s" || m[2].ToolCallId != "c1" {
		t.Errorf("messages %v", m)
	}
	if got := m[1].ToolCalls[0].ArgumentsJson; got != `{"y":1,"x":2}` {
		t.Errorf("arguments %s", got)
	}
	if got := m[1].ToolCalls[1].ArgumentsJson; got != `{"q": 0}` {
		t.Errorf("arguments in a string: %s", got)
	}
	for _, tc := range []struct{ messages, tools, want string }{
		{`{}`, ``, `field "messages"`},
		{`[]`, ``, `field "messages"`},
		{`[{"content":"x"}]`, ``, `messages[0]: field "role"`},
		{`[{"role":"user","content":5}]`, ``, `messages[0]: field "content"`},
		{`[{"role":"user","content":[{"type":"sound"}]}]`, ``, `content[0].type: "sound"`},
		{`[{"role":"user","content":[{"type":"text"}]}]`, ``, `content[0].text: missing`},
		{`[{"role":"user","content":[{"type":"image","path":"x"}]}]`, ``, `images cannot be sent`},
		{`[{"role":"a","tool_calls":[{"function":{"name":"f","arguments":"no"}}]}]`, ``,
			`[0].function.arguments`},
		{`[{"role":"a","tool_calls":[{"function":{"arguments":{}}}]}]`, ``, `function.name: missing`},
		{`[{"role":5}]`, ``, `field "role"`},
		{`[{"role":"user","content":"x"}]`, `{}`, `field "tools"`},
		{`[{"role":"user","content":"x"}]`, `["x"]`, `tools[0]`},
	} {
		_, err := ParseChat(json.RawMessage(tc.messages), json.RawMessage(tc.tools))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s: error %v, want %q", tc.messages, tc.tools, err, tc.want)
		}
	}
}

func TestLongLine(t *testing.T) {
	in := NewLines(strings.NewReader(strings.Repeat("x", maxLineBytes+1) + "\n{}\n"))
	l, ok, err := in.Next()
	if !ok || err != nil || l.Text != nil {
		t.Fatalf("overlong line: %v, %v, %d bytes", ok, err, len(l.Text))
	}
	if _, err := parsePrompt(l); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("overlong line: error %v", err)
	}
	if l, ok, err = in.Next(); !ok || err != nil || string(l.Text) != "{}" || l.Number != 2 {
		t.Errorf("line after it: %v, %v, %d %q", ok, err, l.Number, l.Text)
	}
}

func FuzzParsePrompt(f *testing.F) {
	f.Add([]byte(`{"id":"a","messages":[{"role":"user","content":"x"}],"tools":[{}],"seed":1}`))
	f.Add([]byte(`{"prompt":"x","temperature":1e39}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePrompt(Line{1, text})
		if !json.Valid(p.id) {
			t.Errorf("id %q is not JSON", p.id)
		}
		if err == nil && len(p.request(Defaults{}).GetChat().Messages) == 0 {
			t.Error("no messages")
		}
	})
}
