package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const fixtures = "../testdata/fixtures/tokenizers"

// families are the fixture tokenizers.
var families = []string{"deepseek_v3", "gemma", "llama3", "llama4", "mistral_tekken", "qwen"}

// expected is what the reference library gave.
type expected struct {
	VocabSize int `json:"vocab_size"`
	Encode    []struct {
		Text               string
		IDs                []int32
		IDsWithSpecial     []int32 `json:"ids_with_special"`
		Decoded            string
		DecodedSkipSpecial string `json:"decoded_skip_special"`
	}
	Decode []struct {
		Why                string
		IDs                []int32
		Decoded            string
		DecodedSkipSpecial string   `json:"decoded_skip_special"`
		PrefixDecodes      []string `json:"prefix_decodes"`
	}
}

func load(t testing.TB, family string) *Tokenizer {
	t.Helper()
	tok, err := Load(filepath.Join(fixtures, family))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func loadExpected(t *testing.T, family string) *expected {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(fixtures, family, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := new(expected)
	if err := json.Unmarshal(text, want); err != nil {
		t.Fatal(err)
	}
	if len(want.Encode) == 0 || len(want.Decode) == 0 {
		t.Fatal("the fixture is empty")
	}
	return want
}

func TestReference(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			tok, want := load(t, family), loadExpected(t, family)
			if got := tok.VocabSize(); got != want.VocabSize {
				t.Errorf("VocabSize() = %d, want %d", got, want.VocabSize)
			}
			for _, c := range want.Encode {
				for range 2 { // the second time from the cache
					if got := tok.EncodeSpecial(c.Text); !slices.Equal(got, c.IDs) {
						t.Errorf("EncodeSpecial(%q) = %v, want %v", c.Text, got, c.IDs)
					}
				}
				if got := tok.EncodeWithBOS(c.Text); !slices.Equal(got, c.IDsWithSpecial) {
					t.Errorf("EncodeWithBOS(%q) = %v, want %v", c.Text, got, c.IDsWithSpecial)
				}
				checkDecode(t, tok, c.IDsWithSpecial, c.DecodedSkipSpecial, true)
				checkDecode(t, tok, c.IDs, c.Decoded, false)
			}
			for _, c := range want.Decode {
				checkDecode(t, tok, c.IDs, c.DecodedSkipSpecial, true)
				checkDecode(t, tok, c.IDs, c.Decoded, false)
				for i, prefix := range c.PrefixDecodes {
					checkDecode(t, tok, c.IDs[:i+1], prefix, false)
				}
			}
		})
	}
}

// checkDecode compares Decode with what is wanted, and a stream with both: what it has returned
// at any time must be a beginning of the whole.
func checkDecode(t *testing.T, tok *Tokenizer, ids []int32, want string, skip bool) {
	t.Helper()
	if got := tok.Decode(ids, skip); got != want {
		t.Errorf("Decode(%v, %v) = %q, want %q", ids, skip, got, want)
	}
	s := tok.NewStream(skip)
	got := ""
	for _, id := range ids {
		got += s.Push(id)
		if !strings.HasPrefix(want, got) {
			t.Fatalf("stream of %v has sent %q, but the text is %q", ids, got, want)
		}
	}
	if got += s.Flush(); got != want {
		t.Errorf("stream of %v = %q, want %q", ids, got, want)
	}
}

func TestDemoModel(t *testing.T) {
	tok, err := Load("../models/tiny-maverick")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(tok.ChatTemplate(), "<|header_start|>") {
		t.Errorf("ChatTemplate() = %.80q, want the model's template", tok.ChatTemplate())
	}
	want := map[string]string{
		"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>",
		"pad_token": "<|finetune_right_pad|>",
	}
	for name, token := range want {
		if got := tok.SpecialTokens()[name]; got != token {
			t.Errorf("SpecialTokens()[%q] = %q, want %q", name, got, token)
		}
		id, ok := tok.ID(token)
		if !ok || !tok.IsSpecial(id) {
			t.Errorf("ID(%q) = %d, %v, want a special token", token, id, ok)
		}
	}
}
