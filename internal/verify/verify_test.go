package verify

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/coordinator"
	"drover/internal/role"
	"drover/internal/testcluster"
	"drover/kernel"
	"drover/model"
	droverv1 "drover/proto/drover/v1"
)

const demo = "../../models/tiny-maverick"

// serve is an Opener of the real thing, without a network.
func serve(ctx context.Context, dir string, mode kernel.Mode) (
	droverv1.CoordinatorServiceClient, func(), error,
) {
	conn, stop, err := role.InProcess(ctx, dir, role.InProcessOptions{Mode: mode,
		Engine: coordinator.Options{KVBytes: 64 << 20}})
	if err != nil {
		return nil, nil, err
	}
	return droverv1.NewCoordinatorServiceClient(conn), stop, nil
}

// runs lists the model fixtures that this build runs: a new architecture adds its own.
var runs = []string{
	"llama3", "llama4_guard_dense", "llama4_maverick_vision", "llama4_scout_causal",
	"llama4_scout_cond", "q_llama3_w8a8_fp8", "q_llama4_maverick_fp8",
}

// TestModels runs every model fixture in every mode.
func TestModels(t *testing.T) {
	for _, mode := range []string{"exact", "bf16"} {
		t.Run(mode, func(t *testing.T) {
			ran := map[string]bool{}
			_, err := Run(t.Context(), []string{
				filepath.Join(fixtures, "models"), filepath.Join(fixtures, "quant"),
			}, Options{Open: serve, Mode: mode, Report: func(r Result) {
				name := strings.Split(r.Name, "/")[1]
				can := slices.Contains(runs, name)
				images := r.Status == Skipped && r.Detail == "has images"
				if can != (r.Status == Passed || images) || !can && r.Status != Unsupported {
					t.Errorf("%+v", r)
				}
				if r.Status == Passed {
					ran[name] = true
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(maps.Keys(ran)); !slices.Equal(got, runs) {
				t.Errorf("ran %v, want %v", got, runs)
			}
		})
	}
}

// TestOthers runs the fixtures of everything but models.
func TestOthers(t *testing.T) {
	paths := []string{}
	for _, p := range []string{"tokenizers", "chat_templates", "malformed"} {
		paths = append(paths, filepath.Join(fixtures, p))
	}
	sum, err := Run(t.Context(), paths, Options{Open: serve, Report: func(r Result) {
		if r.Status != Passed {
			t.Errorf("%+v", r)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := 6*3 + 5 + 37; sum.Passed != want {
		t.Errorf("%d cases passed, want %d", sum.Passed, want)
	}
}

// TestRecorded replays the demo model's recordings, in this process and on nodes.
func TestRecorded(t *testing.T) {
	file, want := filepath.Join(demo, "golden.jsonl"), Summary{Passed: 36, Skipped: 4}
	if testing.Short() { // for the race detector
		file, want = firstLines(t, file, 4), Summary{Passed: 4}
	}
	report := func(r Result) {
		if r.Status == Failed || r.Status == Unsupported {
			t.Errorf("%+v", r)
		}
	}
	for _, mode := range []string{"exact", "bf16"} {
		sum, err := Recorded(t.Context(), file, demo,
			Options{Open: serve, Mode: mode, Report: report})
		if err != nil || sum != want {
			t.Errorf("mode %s in process: %+v, %v, want %+v", mode, sum, err, want)
		}
	}
	digest, err := (&verifier{mode: kernel.Exact}).digest(demo)
	if err != nil {
		t.Fatal(err)
	}
	c := testcluster.Start(t, testcluster.Options{Nodes: 3, Coordinator: coordinator.Options{
		NumericMode: "exact", ModelDigest: digest[:],
	}})
	sum, err := Recorded(t.Context(), file, demo, Options{Client: c, Report: report})
	if err != nil || sum != want {
		t.Errorf("on 3 nodes: %+v, %v, want %+v", sum, err, want)
	}
	scout := filepath.Join(fixtures, "models", "llama4_scout_causal")
	v, err := newVerifier(t.Context(), Options{Client: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.mustServe(scout); err == nil || !strings.Contains(err.Error(), "another model") {
		t.Errorf("another model's folder: error %v", err)
	}
}

// TestCluster checks a fixture with a chat template through a coordinator and nodes.
func TestCluster(t *testing.T) {
	dir := filepath.Join(fixtures, "models", "llama4_maverick_vision")
	for _, mode := range []kernel.Mode{kernel.Exact, kernel.BF16} {
		digest, err := (&verifier{mode: mode}).digest(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := testcluster.Start(t, testcluster.Options{Dir: dir, Mode: mode, Nodes: 5,
			Coordinator: coordinator.Options{NumericMode: mode.String(), ModelDigest: digest[:]},
		})
		sum, err := Run(t.Context(), []string{dir}, Options{Client: c, Report: func(r Result) {
			if r.Status == Failed {
				t.Errorf("mode %s: %+v", mode, r)
			}
		}})
		if want := (Summary{Passed: 8, Skipped: 5}); err != nil || sum != want {
			t.Errorf("mode %s: %+v, %v, want %+v", mode, sum, err, want)
		}
	}
}

// firstLines copies the first n lines of a file.
func firstLines(t *testing.T, name string, n int) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfterN(string(text), "\n", n+1)[:n]
	out := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(out, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRecordedFails changes one recording in different ways: each is found.
func TestRecordedFails(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(demo, "golden.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"nothing": {func(map[string]any) {}, ""},
		"prompt": {func(m map[string]any) { m["prompt"] = "x" + m["prompt"].(string) },
			"prompt: text differs at byte 0"},
		"input id": {func(m map[string]any) { m["input_ids"].([]any)[3] = 7. }, "prompt ids: "},
		"output id": {func(m map[string]any) { m["output_ids"].([]any)[40] = 7. },
			"generated token 40 is"},
		"log-probability": {func(m map[string]any) {
			top := m["top5_logprobs"].([]any)[2].([]any)
			top[1] = top[1].(float64) + 0.003
		}, "token 2: alternative 1 has log-probability"},
		"alternative": {func(m map[string]any) {
			m["top5_ids"].([]any)[2].([]any)[1] = 7.
		}, "token 2: alternative 1 is token"},
		"text": {func(m map[string]any) { m["text"] = "no" }, "text: text differs"},
	} {
		var m map[string]any
		if err := json.Unmarshal([]byte(first), &m); err != nil {
			t.Fatal(err)
		}
		tc.change(m)
		changed, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "golden.jsonl")
		if err := os.WriteFile(file, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Recorded(t.Context(), file, demo, Options{Open: serve, Report: func(r Result) {
			if (r.Status == Failed) != (tc.want != "") || !strings.Contains(r.Detail, tc.want) {
				t.Errorf("%s: %+v, want %q", name, r, tc.want)
			}
		}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// one runs a folder of changed fixtures and returns its results.
func one(t *testing.T, dir string) []Result {
	t.Helper()
	var all []Result
	if _, err := Run(t.Context(), []string{dir}, Options{
		Open: serve, Report: func(r Result) { all = append(all, r) },
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// copyChanged copies a folder and replaces a text once in one of its files.
func copyChanged(t *testing.T, from, file, old, with string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, file)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), old, with, 1)
	if changed == string(text) {
		t.Fatalf("%s does not hold %q", file, old)
	}
	if err := os.WriteFile(name, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestChangedFixtures changes what is expected: the case must fail, and only it.
func TestChangedFixtures(t *testing.T) {
	for name, tc := range map[string]struct {
		from, file, old, with string
		failed, detail        string
	}{
		"token ids": {"tokenizers/llama4", "expected.json", `"text": " "`, `"text": " x"`,
			"tokenizers/llama4/encode", "encode[1].ids"},
		"prefix": {"tokenizers/qwen", "expected.json", "\"prefix_decodes\": [\n\"",
			"\"prefix_decodes\": [\n\"x", "tokenizers/qwen/decode", "prefix 1"},
		"rendered text": {"chat_templates", "expected.json",
			`<|begin_of_text|><|header_start|>user`, `<|begin_of_text|><|header_start|>xuser`,
			"chat_templates/llama4", "one_user: text differs at byte 33"},
		"raised error": {"chat_templates", "expected.json", "roles must alternate", "roles must",
			"chat_templates/mistral", "want"},
		"malformed that should load": {"malformed", "cases.json",
			"cut in the middle of the tensor data\",\n   \"expected\": \"error\"",
			"cut\",\n   \"expected\": \"loads\"", "malformed/truncated_data", "is cut off"},
		"sound that should not": {"malformed", "cases.json", `"expected": "loads"`,
			`"expected": "error"`, "malformed/ok_control", "loads, but"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyChanged(t, filepath.Join(fixtures, tc.from), tc.file, tc.old, tc.with)
			failed := 0
			for _, r := range one(t, dir) {
				if r.Status != Failed {
					continue
				}
				failed++
				r.Name = strings.TrimPrefix(r.Name, filepath.Base(filepath.Dir(dir))+"/")
				if !strings.HasSuffix(tc.failed, r.Name) || !strings.Contains(r.Detail, tc.detail) {
					t.Errorf("%+v, want %s with %q", r, tc.failed, tc.detail)
				}
			}
			if failed != 1 {
				t.Errorf("%d cases failed, want 1", failed)
			}
		})
	}
}

func TestFind(t *testing.T) {
	all, err := find(fixtures)
	if err != nil {
		t.Fatal(err)
	}
	if want := 1 + 1 + 11 + 8 + 6; len(all) != want {
		t.Errorf("%d fixtures found, want %d", len(all), want)
	}
	empty := t.TempDir()
	for _, p := range []string{empty, demo, filepath.Join(fixtures, "README.md"), "none"} {
		if f, err := find(p); err == nil {
			t.Errorf("find(%s) = %v, want an error", p, f)
		}
	}
}

func TestMalformedOutcome(t *testing.T) {
	v := &verifier{mode: kernel.Exact}
	c := &check{}
	dir := filepath.Join(fixtures, "models", "gpt_oss")
	mc := malformedCase{Dir: "gpt_oss", WhatIsWrong: "something", Expected: "error"}
	if err := v.malformed(t.Context(), c, mc, dir); !errors.Is(err, model.ErrUnsupported) {
		t.Errorf("an architecture that this build lacks: %v, %+v, want unsupported", err, c)
	}
}

func TestNothingCompared(t *testing.T) {
	v := &verifier{opts: Options{Report: func(r Result) {
		if r.Status != Failed {
			t.Errorf("a case without comparisons: %+v", r)
		}
	}}}
	v.done("x", &check{})
	if v.summary.Failed != 1 {
		t.Errorf("summary %+v", v.summary)
	}
}
