package evaluate

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/batch/batchtest"
	droverv1 "drover/proto/drover/v1"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "eval.jsonl")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// parrot answers what the user said.
func parrot(_ context.Context, req *droverv1.GenerateRequest) (string, []int32, error) {
	if req.Sampling.Temperature == nil || *req.Sampling.Temperature != 0 {
		return "", nil, status.Error(codes.InvalidArgument, "not greedy")
	}
	return req.GetChat().Messages[0].Content, []int32{1}, nil
}

func TestRun(t *testing.T) {
	name := file(t, `{"id":"a","task":"x","messages":[{"role":"user","content":"one"}],"expected":"one"}
{"id":"b","task":"x","messages":[{"role":"user","content":"two"}],"expected":"two "}

{"id":"c","task":"y","lang":"en","messages":[{"role":"user","content":"three"}],"expected":"three"}
{"id":"d","task":"z","messages":[{"role":"user","content":[{"type":"image","path":"p"}]}],"expected":"?"}
{"task":"y","messages":[{"role":"user","content":"five"}],"expected":"5"}
`)
	done := 0
	res, err := Run(t.Context(), batchtest.Generate(parrot).Serve(t), Options{
		File: name, Progress: func(n, _ int) { done = n },
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"accuracy":0.5,"n":4,"correct":2,"tasks":{` +
		`"x":{"accuracy":0.5,"n":2,"correct":1},"y":{"accuracy":0.5,"n":2,"correct":1}},` +
		`"skipped":1,"missed":[{"id":"b","expected":"two ","answer":"two"},` +
		`{"id":"6","expected":"5","answer":"five"}]}`
	if string(got) != want {
		t.Errorf("result %s\nwant   %s", got, want)
	}
	if done != 4 {
		t.Errorf("progress ended at %d of 4", done)
	}
}

func TestRunErrors(t *testing.T) {
	const ok = `{"messages":[{"role":"user","content":"x"}],"expected":"x"}`
	for name, tc := range map[string]struct{ text, want string }{
		"no expected": {ok + "\n" + `{"messages":[{"role":"user","content":"x"}]}`, "line 2: field \"expected\""},
		"no messages": {`{"expected":"x"}`, "line 1: field \"messages\""},
		"not JSON":    {`x`, "line 1:"},
		"empty":       {"\n\n", "holds no questions"},
		"refused":     {strings.Repeat(ok+"\n", 40), "ask "},
	} {
		refuse := func(context.Context, *droverv1.GenerateRequest) (string, []int32, error) {
			return "", nil, status.Error(codes.InvalidArgument, "no")
		}
		_, err := Run(t.Context(), batchtest.Generate(refuse).Serve(t),
			Options{File: file(t, tc.text)})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"no file": {}, "missing": {File: "none"}, "concurrency": {File: "x", Concurrency: 5000},
	} {
		if _, err := Run(t.Context(), nil, opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
