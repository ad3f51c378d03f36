package tokenizer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMalformedFixtures(t *testing.T) {
	for dir, words := range map[string][]string{
		"tokenizer_unknown_model":      {"model.type", "NoSuchModel"},
		"tokenizer_merge_out_of_vocab": {"model.merges[0]", `"a" with "b"`},
		"tokenizer_bad_regex":          {"pre_tokenizer", "(unclosed"},
	} {
		_, err := Load(filepath.Join("../testdata/fixtures/malformed", dir))
		checkError(t, err, append(words, dir, "tokenizer.json")...)
	}
}

// checkError wants a one-line error that contains the words.
func checkError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one about %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q does not say %q in one line", err, w)
		}
	}
}

// bpe is a tokenizer.json with the given fields in its model.
func bpe(fields string) string { return `{"model":{"type":"BPE",` + fields + `}}` }

// model is a tokenizer.json with one more field beside its model.
func model(field, value string) string {
	return `{"` + field + `":` + value +
		`,"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`
}

func TestParseErrors(t *testing.T) {
	deep := strings.Repeat(`{"type":"Sequence","normalizers":[`, 9) + strings.Repeat(`]}`, 9)
	for _, tc := range []struct{ text, field, reason string }{
		{``, "", "unexpected end"},
		{`[]`, "want", "array"},
		{`{"model":{"vocab":{"a":0},"merges":[]}}`, "model.type", "missing"},
		{bpe(`"vocab":{"a":"x"},"merges":[]`), "model.vocab", "int"},
		{bpe(`"vocab":{"a":2147483648},"merges":[]`), "model.vocab", "2147483648"},
		{bpe(`"vocab":{"a":-1},"merges":[]`), "model.vocab", "-1"},
		{bpe(`"vocab":{"a":0,"b":0},"merges":[]`), "model.vocab", "id 0"},
		{bpe(`"vocab":{},"merges":[]`), "model.vocab", "empty"},
		{bpe(`"vocab":{"a":0}`), "model.merges", "missing"},
		{bpe(`"merges":[]`), "model.vocab", "missing"},
		{bpe(`"vocab":{"a":0},"merges":["a"]`), "model.merges[0]", "two parts"},
		{bpe(`"vocab":{"a":0},"merges":[["a","a","a"]]`), "model.merges[0]", "two parts"},
		{bpe(`"vocab":{"a":0},"merges":[["a",1]]`), "model.merges", "number"},
		{bpe(`"vocab":{"a":0},"merges":[],"dropout":0.1`), "model.dropout", "not supported"},
		{bpe(`"vocab":{"a":0},"merges":[],"unk_token":"u"`), "model.unk_token", `"u"`},
		{model("added_tokens", `[{"id":2147483648,"content":"<s>"}]`), "[0]", "2147483648"},
		{model("added_tokens", `[{"id":3,"content":"a"}]`), "added_tokens[0]", "two ids"},
		{model("added_tokens", `[{"id":1,"content":"x"}]`), "added_tokens[0]", "id 1"},
		{model("normalizer", `{"type":"Lowercase"}`), "normalizer", "Lowercase"},
		{model("normalizer", deep), "normalizer", "nested"},
		{model("normalizer", `{"type":"Replace","pattern":{"Regex":"a"}}`), "normalizer", "Replace"},
		{model("pre_tokenizer", `{"type":"Whitespace"}`), "pre_tokenizer", "Whitespace"},
		{model("pre_tokenizer", `{"type":"Split","behavior":"Odd"}`), "pre_tokenizer", "Odd"},
		{model("pre_tokenizer", `{"type":"Split","behavior":"Removed"}`), "pre_tok", "no pattern"},
		{model("decoder", `{"type":"WordPiece"}`), "decoder", "WordPiece"},
		{model("decoder", `{"type":"Strip","content":" ","start":1}`), "decoder", "Strip"},
		{model("post_processor", `{"type":"BertProcessing"}`), "post_processor", "Bert"},
		{model("post_processor", `{"type":"TemplateProcessing"}`), "post_processor", "0 times"},
		{model("post_processor", `{"type":"TemplateProcessing",
			"single":[{"SpecialToken":{"id":"s"}},{"Sequence":{"id":"A"}}],
			"special_tokens":{"s":{"ids":[7000000000]}}}`), "post_processor", "7000000000"},
	} {
		_, err := Parse("t.json", []byte(tc.text))
		checkError(t, err, "t.json: ", tc.field, tc.reason)
	}
}

// A hostile file can chain replacements that each make the text longer.
func TestGrowthIsBounded(t *testing.T) {
	longer := `{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaa"}`
	list := strings.Join([]string{longer, longer, longer}, ",")
	_, err := Parse("t.json", []byte(model("normalizer",
		`{"type":"Sequence","normalizers":[`+list+`]}`)))
	checkError(t, err, "normalizer", "times longer")
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(dir)
	checkError(t, err, "tokenizer.json", "no such file")
	write("tokenizer.json", model("decoder", "null"))
	if _, err := Load(dir); err != nil {
		t.Errorf("Load without tokenizer_config.json: %v", err)
	}
	for text, words := range map[string][]string{
		`{`:                                  {"unexpected end"},
		`{"bos_token":7}`:                    {"bos_token", "want a string"},
		`{"bos_token":{"id":1}}`:             {"bos_token", "no content"},
		`{"chat_template":7}`:                {"chat_template"},
		`{"chat_template":[{"name":"rag"}]}`: {"chat_template", "default"},
		`{"extra_special_tokens":{"x":[]}}`:  {"extra_special_tokens.x"},
	} {
		write("tokenizer_config.json", text)
		_, err := Load(dir)
		checkError(t, err, append(words, "tokenizer_config.json")...)
	}
	write("tokenizer_config.json", "{}")
	if err := os.Mkdir(filepath.Join(dir, "chat_template.jinja"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Load(dir)
	checkError(t, err, "chat_template.jinja")
}

// TestPipes gives files that are pipes, which nobody writes to: they are refused, not waited for.
func TestPipes(t *testing.T) {
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		dir := t.TempDir()
		if name != "tokenizer.json" {
			text := []byte(model("decoder", "null"))
			// Symbolic links to files are fine: hubs' caches are made of them.
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "blob"), text, 0o600),
				os.Symlink("blob", filepath.Join(dir, "tokenizer.json"))); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded := make(chan error, 1)
		go func() {
			_, err := Load(dir)
			loaded <- err
		}()
		select {
		case err := <-loaded:
			checkError(t, err, name, "not a regular file")
		case <-time.After(20 * time.Second):
			t.Errorf("%s: it is waited for", name)
		}
	}
}

func TestConfig(t *testing.T) {
	tokens, template, err := parseConfig([]byte(`{
		"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
		"add_bos_token": true, "model_max_length": 1e30,
		"extra_special_tokens": {"image_token": "<image>"},
		"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"bos_token": "<s>", "eos_token": "</s>", "image_token": "<image>"}
	if fmt.Sprint(tokens) != fmt.Sprint(want) || template != "D" {
		t.Errorf("parseConfig = %v, %q, want %v, D", tokens, template, want)
	}
}
