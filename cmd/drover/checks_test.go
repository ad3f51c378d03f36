package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"drover/internal/testcluster"
)

// drover runs a command line and returns its exit code and what it printed.
func drover(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, &globals{in: strings.NewReader(""), out: &out, err: &errs})
	return code, out.String(), errs.String()
}

// TestChecks runs command lines and compares exit codes and, as regular expressions, all that
// they print.
func TestChecks(t *testing.T) {
	fixtures := testcluster.Path("testdata/fixtures")
	demo := testcluster.Path("models/tiny-maverick")
	changed := filepath.Join(t.TempDir(), "malformed")
	if err := os.CopyFS(changed, os.DirFS(filepath.Join(fixtures, "malformed"))); err != nil {
		t.Fatal(err)
	}
	cases := `{"cases":[{"dir":"ok_control","what_is_wrong":"it is sound","expected":"error"}]}`
	if err := os.WriteFile(filepath.Join(changed, "cases.json"), []byte(cases), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"verify": {
			[]string{"verify", fixtures + "/chat_templates", fixtures + "/models/gpt_oss"}, 0,
			`chat_templates/llama4 +passed +-
chat_templates/deepseek +passed +-
chat_templates/qwen +passed +-
chat_templates/mistral +passed +-
chat_templates/gemma +passed +-
models/gpt_oss +(unsupported +-  .*"gpt_oss".*
5 passed, 0 failed, 1 unsupported, 0 skipped
|passed(.*\n)*)`, ``,
		},
		"verify a model": {
			[]string{"verify", fixtures + "/models/llama4_guard_dense"}, 0,
			`(models/llama4_guard_dense/\w+ +passed +\d(\.\d)?e-0[56]\n){7}` +
				"7 passed, 0 failed, 0 unsupported, 0 skipped\n", ``,
		},
		"verify finds a fault": {
			[]string{"verify", changed}, 1,
			`malformed/ok_control +failed +-  loads, but it is sound
0 passed, 1 failed, 0 unsupported, 0 skipped
`, ``,
		},
		"verify, for programs": {
			[]string{"verify", "--json", changed}, 1,
			`{"name":"malformed/ok_control","status":"failed","largest_error":0,"tolerance":0,` +
				`"compared":1,"detail":"loads, but it is sound"}
{"summary":{"passed":0,"failed":1,"unsupported":0,"skipped":0}}
`, ``,
		},
		"verify nothing": {[]string{"verify"}, 2, ``, "drover: give folders of fixtures.*\n.*\n"},
		"verify without fixtures": {[]string{"verify", demo}, 1, ``,
			"drover: .*: holds no fixtures: .*\n"},
		"verify in no mode": {[]string{"verify", "--mode", "int3", demo}, 2, ``,
			"drover: numeric mode \"int3\" is unknown.*\n.*\n"},
		"verify with a model and no recordings": {[]string{"verify", "--model", demo}, 2, ``,
			"drover: .*\n.*\n"},
		"verify through nobody": {
			[]string{"verify", "--endpoint", "127.0.0.1:1", fixtures + "/models/llama3"}, 1, ``,
			"drover: .*\nhint: is a coordinator running.*\n"},
		"inspect": {
			[]string{"inspect", "--nodes", "6", demo}, 0, `directory .*
architecture     llama4
digest           [0-9a-f]{64}
form             [0-9a-f]{64}, whatever the weights
parameters       14.82 M, of which 12.58 M in routed experts and .*
weights          28.3 MiB: BF16 28.3 MiB in \d+ tensors
tokenizer        ok
chat template    yes
layers           8 of width 128, MoE in 4: \[1 3 5 7\]
experts          128 in each MoE layer, 1 for a token, width 64
vocabulary       2048
context          \d+ tokens
mode             bf16
coordinator      .* MiB, and .* for each token of context
one expert       .* KiB
network          .* KiB for each token, both ways together
node of 6        .* MiB in 88 replicas
`, ``,
		},
		"inspect nothing": {[]string{"inspect"}, 2, ``, "drover: one model directory.*\n.*\n"},
		"inspect damage": {[]string{"inspect", fixtures + "/malformed/truncated_data"}, 1, ``,
			"drover: .*model.safetensors.* cut off .*\n"},
		"eval nothing": {[]string{"eval"}, 2, ``, "drover: --file is needed\n.*\n"},
		"bench kinds":  {[]string{"bench"}, 0, `(.*\n)*  model +Measure prefill.*\n(.*\n)*`, ``},
		"run without a place for answers": {[]string{"run", "--prompts", "x"}, 2, ``,
			"drover: --prompts and --out go together\n.*\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := drover(t, tc.args...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			for _, p := range []struct{ got, want string }{{stdout, tc.stdout}, {stderr, tc.stderr}} {
				if !regexp.MustCompile(`^(` + p.want + `)$`).MatchString(p.got) {
					t.Errorf("printed:\n%s\nwant:\n%s", p.got, p.want)
				}
			}
		})
	}
}

// TestAsked runs the commands that ask the demo model in process.
func TestAsked(t *testing.T) {
	demo := testcluster.Path("models/tiny-maverick")
	questions, err := os.ReadFile(filepath.Join(demo, "eval.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	some := filepath.Join(dir, "some.jsonl")
	first := strings.SplitAfterN(string(questions), "\n", 4)[:3]
	if err := os.WriteFile(some, []byte(strings.Join(first, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := drover(t, "eval", "--model", demo, "--file", some, "--json")
	var result struct {
		Accuracy float64
		N        int
		Tasks    map[string]struct{ N int }
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != 0 {
		t.Fatalf("eval: exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if result.N != 3 || result.Accuracy != 1 || result.Tasks["translate"].N != 3 {
		t.Errorf("eval: %s", stdout)
	}

	out := filepath.Join(dir, "out.jsonl")
	batch := []string{"run", "--model", demo, "--prompts", some, "--out", out}
	if code, stdout, stderr := drover(t, batch...); code != 0 || stdout != "" || stderr != "" {
		t.Errorf("run --prompts: exit code %d\n%s%s", code, stdout, stderr)
	}
	answers, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"public-translate-000","text":"The cat sees the blue key.","tokens":[`
	if !strings.HasPrefix(string(answers), want) || bytes.Count(answers, []byte("\n")) != 3 {
		t.Errorf("answers:\n%s", answers)
	}
	if err := os.WriteFile(some, append([]byte("broken\n"), first[0]...), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = drover(t, batch...)
	if code != 1 || !strings.Contains(stderr, "1 of 2 lines in "+out+" hold an error") {
		t.Errorf("run --prompts with a broken line: exit code %d, %s", code, stderr)
	}
}
