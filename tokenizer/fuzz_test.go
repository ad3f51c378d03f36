package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unicode/utf8"
)

// Any file may fail to parse, but neither that nor its use may panic.
func FuzzParse(f *testing.F) {
	for _, family := range families {
		f.Add(small(f, family))
	}
	f.Add([]byte(model("decoder", "null")))
	f.Add([]byte(model("pre_tokenizer", `{"type":"Metaspace","replacement":"_"}`)))
	f.Add([]byte(model("pre_tokenizer", `{"type":"ByteLevel","add_prefix_space":true}`)))
	f.Add([]byte(model("normalizer", `{"type":"Prepend","prepend":"_"}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		tok, err := Parse("t.json", text)
		if err != nil {
			return
		}
		ids := tok.EncodeWithBOS("ab a\xffb_ <s>\n12")
		ids = append(ids, -1, int32(tok.VocabSize()), 0)
		for _, id := range ids {
			tok.Token(id)
			tok.Bytes(id)
		}
		whole := tok.Decode(ids, true)
		s, joined := tok.NewStream(true), ""
		for _, id := range ids {
			joined += s.Push(id)
		}
		if joined += s.Flush(); joined != whole {
			t.Errorf("stream = %q, Decode = %q", joined, whole)
		}
	})
}

// small is a fixture with almost no vocabulary, which a fuzzer can work on.
func small(f *testing.F, family string) []byte {
	f.Helper()
	text, err := os.ReadFile(filepath.Join(fixtures, family, "tokenizer.json"))
	if err != nil {
		f.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(text, &file); err != nil {
		f.Fatal(err)
	}
	file["model"].(map[string]any)["vocab"] = map[string]int{"a": 0, "b": 1, "ab": 2, "<unk>": 3}
	file["model"].(map[string]any)["merges"] = []string{"a b"}
	file["added_tokens"] = []addedToken{{ID: 4, Content: "<s>", Special: true}}
	delete(file, "post_processor")
	if text, err = json.Marshal(file); err != nil {
		f.Fatal(err)
	}
	if _, err := Parse("t.json", text); err != nil {
		f.Fatal(err)
	}
	return text
}

// Text comes back as it was and never holds a control token.
func FuzzEncode(f *testing.F) {
	tok := load(f, "llama4")
	for _, s := range fragments {
		f.Add(s)
	}
	f.Add("<|eot|> <|begin_of_text|>it's FOObar 1234\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		ids := tok.Encode(text)
		if slices.ContainsFunc(ids, tok.IsSpecial) {
			t.Errorf("Encode(%q) = %v has a special token", text, ids)
		}
		var bytes []byte
		for _, id := range ids {
			bytes = append(bytes, tok.Bytes(id)...)
		}
		if string(bytes) != text {
			t.Errorf("the tokens of %q stand for %q", text, bytes)
		}
		if got := tok.Decode(ids, false); got != text && utf8.ValidString(text) {
			t.Errorf("Decode(Encode(%q)) = %q", text, got)
		}
	})
}

// Random tokens: a stream's text, joined, is the text of the whole.
func FuzzStream(f *testing.F) {
	toks := map[bool]*Tokenizer{true: load(f, "gemma"), false: load(f, "llama4")}
	f.Add([]byte{1, 255, 0, 172, 0, 253, 0, 239, 0, 235}, false)
	f.Fuzz(func(t *testing.T, raw []byte, gemma bool) {
		tok := toks[gemma]
		var ids []int32
		for i := 0; i+1 < len(raw); i += 2 {
			ids = append(ids, int32(raw[i])<<8|int32(raw[i+1]))
		}
		checkDecode(t, tok, ids, tok.Decode(ids, raw == nil), raw == nil)
		if text := tok.Decode(ids, false); !utf8.ValidString(text) {
			t.Errorf("Decode(%v) = %q is not UTF-8", ids, text)
		}
	})
}
