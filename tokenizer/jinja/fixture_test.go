package jinja

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const fixtures = "../../testdata/fixtures"

// conversation is an entry of conversations.json.
type conversation struct {
	Name                string          `json:"name"`
	Messages            json.RawMessage `json:"messages"`
	Tools               json.RawMessage `json:"tools"`
	AddGenerationPrompt *bool           `json:"add_generation_prompt"`
}

// templateCase is an entry of expected.json.
type templateCase struct {
	Template     string                     `json:"template"`
	Conversation string                     `json:"conversation"`
	Variables    map[string]json.RawMessage `json:"variables"`
	Text         *string                    `json:"text"`
	Error        *string                    `json:"error"`
}

type templateFixtures struct {
	now           time.Time
	cases         []templateCase
	conversations map[string]conversation
	templates     map[string]*Template
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func parseFile(t testing.TB, path string) *Template {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := Parse(filepath.Base(path), string(b))
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

func readFixtures(t testing.TB) templateFixtures {
	t.Helper()
	dir := filepath.Join(fixtures, "chat_templates")
	var expected struct {
		Now   string         `json:"now"`
		Cases []templateCase `json:"cases"`
	}
	readJSON(t, filepath.Join(dir, "expected.json"), &expected)
	now, err := time.Parse("2006-01-02T15:04:05", expected.Now)
	if err != nil {
		t.Fatal(err)
	}
	var list []conversation
	readJSON(t, filepath.Join(dir, "conversations.json"), &list)
	f := templateFixtures{
		now: now, cases: expected.Cases,
		conversations: map[string]conversation{}, templates: map[string]*Template{},
	}
	for _, c := range list {
		f.conversations[c.Name] = c
	}
	for _, c := range f.cases {
		if f.templates[c.Template] == nil {
			f.templates[c.Template] = parseFile(t, filepath.Join(dir, c.Template+".jinja"))
		}
	}
	return f
}

// mustJSON parses JSON; nothing gives None.
func mustJSON(t testing.TB, b []byte) Value {
	t.Helper()
	if len(bytes.TrimSpace(b)) == 0 {
		return None()
	}
	v, err := ParseJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// variables are what a chat request gives a template.
func (c conversation) variables(t testing.TB) *Dict {
	t.Helper()
	vars := NewDict()
	vars.Set("messages", mustJSON(t, c.Messages))
	vars.Set("tools", mustJSON(t, c.Tools))
	vars.Set("documents", None())
	vars.Set("add_generation_prompt", Bool(c.AddGenerationPrompt == nil || *c.AddGenerationPrompt))
	return vars
}

// inputs adds a case's own variables.
func (c templateCase) inputs(t testing.TB, f templateFixtures) (*Dict, map[string]string) {
	t.Helper()
	vars := f.conversations[c.Conversation].variables(t)
	trusted := map[string]string{}
	for name, raw := range c.Variables {
		if name == "bos_token" || name == "eos_token" {
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Fatal(err)
			}
			trusted[name] = s
			continue
		}
		vars.Set(name, mustJSON(t, raw))
	}
	return vars, trusted
}

func join(spans []Span) string {
	var b strings.Builder
	for _, s := range spans {
		b.WriteString(s.Text)
	}
	return b.String()
}

func TestChatTemplates(t *testing.T) {
	f := readFixtures(t)
	if len(f.cases) < 100 {
		t.Fatalf("got %d cases, want at least 100", len(f.cases))
	}
	for _, c := range f.cases {
		t.Run(c.Template+"/"+c.Conversation, func(t *testing.T) {
			vars, trusted := c.inputs(t, f)
			spans, err := f.templates[c.Template].Render(t.Context(), vars, trusted,
				Options{Now: f.now})
			if c.Text != nil {
				if err != nil {
					t.Fatalf("got error %v, want text", err)
				}
				if got := join(spans); got != *c.Text {
					t.Fatalf("got  %q\nwant %q", got, *c.Text)
				}
				return
			}
			if err == nil {
				t.Fatalf("got text %q, want error %q", join(spans), *c.Error)
			}
			var raised *RaiseError
			if errors.As(err, &raised) && raised.Message != *c.Error {
				t.Errorf("raised %q, want %q", raised.Message, *c.Error)
			}
		})
	}
}

// TestDemoModel compares with the prompts the demo model was trained and measured with.
func TestDemoModel(t *testing.T) {
	const dir = "../../models/tiny-maverick"
	tmpl := parseFile(t, filepath.Join(dir, "chat_template.jinja"))
	b, err := os.ReadFile(filepath.Join(dir, "golden.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, len(b)+1)
	compared := 0
	for lines.Scan() {
		var line struct {
			conversation
			ID     string `json:"id"`
			Prompt string `json:"prompt"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line.Prompt, "<|patch|>") {
			continue // the image processor has expanded the image
		}
		spans, err := tmpl.Render(t.Context(), line.variables(t),
			map[string]string{"bos_token": "<|begin_of_text|>"}, Options{})
		if err != nil {
			t.Errorf("%s: %v", line.ID, err)
		} else if got := join(spans); got != line.Prompt {
			t.Errorf("%s:\ngot  %q\nwant %q", line.ID, got, line.Prompt)
		}
		compared++
	}
	if compared < 30 {
		t.Errorf("compared %d prompts, want at least 30", compared)
	}
}

func TestVisionModelChat(t *testing.T) {
	dir := filepath.Join(fixtures, "models", "llama4_maverick_vision")
	tmpl := parseFile(t, filepath.Join(dir, "chat_template.jinja"))
	var e2e struct {
		Now   string `json:"now"`
		Cases []struct {
			conversation
			Name   string `json:"conversation"`
			Prompt string `json:"prompt_text"`
		} `json:"cases"`
	}
	readJSON(t, filepath.Join(dir, "e2e_chat.json"), &e2e)
	now, err := time.Parse("2006-01-02T15:04:05", e2e.Now)
	if err != nil {
		t.Fatal(err)
	}
	if len(e2e.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range e2e.Cases {
		spans, err := tmpl.Render(t.Context(), c.variables(t),
			map[string]string{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>"},
			Options{Now: now})
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		} else if got := join(spans); got != c.Prompt {
			t.Errorf("%s:\ngot  %q\nwant %q", c.Name, got, c.Prompt)
		}
	}
}

// readSource returns the source of a fixture template.
func readSource(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, "chat_templates", name+".jinja"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// BenchmarkRender renders a chat of 20 messages, and one of 2000 with a million characters:
// go test -bench Render ./tokenizer/jinja
func BenchmarkRender(b *testing.B) {
	f := readFixtures(b)
	for _, size := range []struct {
		name           string
		messages, text int
	}{{"20x100", 20, 100}, {"2000x500", 2000, 500}} {
		var messages []Value
		for i := range size.messages {
			m := NewDict()
			m.Set("role", String([]string{"user", "assistant"}[i%2]))
			m.Set("content", String(strings.Repeat("word ", size.text/5)))
			messages = append(messages, m)
		}
		vars := NewDict()
		vars.Set("messages", List(messages...))
		vars.Set("tools", None())
		vars.Set("add_generation_prompt", Bool(true))
		trusted := map[string]string{"bos_token": "<s>", "eos_token": "</s>"}
		for _, name := range []string{"llama4", "qwen", "mistral"} {
			b.Run(size.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, err := f.templates[name].Render(b.Context(), vars, trusted, Options{Now: f.now})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
