package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// specials are the control tokens of a tokenizer, as text.
func specials(tok *Tokenizer) []string {
	var list []string
	for id := range int32(tok.VocabSize()) {
		if tok.IsSpecial(id) {
			text, _ := tok.Token(id)
			list = append(list, text)
		}
	}
	return list
}

// Text cannot become a control token (R1), whatever stands around it.
func TestSpecialTokensStayText(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			tok := load(t, family)
			list := specials(tok)
			if len(list) < 6 {
				t.Fatalf("%d special tokens, want more", len(list))
			}
			x := newTexts(2)
			for round := range 40 {
				for _, special := range list {
					text := special
					if round > 0 {
						text = valid(x.next()) + special + valid(x.next())
					}
					checkStaysText(t, tok, text, family == "qwen")
				}
			}
		})
	}
}

func valid(s string) string { return strings.ToValidUTF8(s, "") }

func checkStaysText(t *testing.T, tok *Tokenizer, text string, normalizes bool) {
	t.Helper()
	ids := tok.Encode(text)
	if k := slices.IndexFunc(ids, tok.IsSpecial); k >= 0 {
		t.Errorf("Encode(%q) has special token %d", text, ids[k])
	}
	if got := tok.Decode(ids, true); got != text && !normalizes {
		t.Errorf("Decode(Encode(%q)) = %q", text, got)
	}
	if got := tok.EncodeSpans([]Span{{Text: text}}); !slices.Equal(got, ids) {
		t.Errorf("EncodeSpans of untrusted %q = %v, want %v", text, got, ids)
	}
}

// A special token counts only if the whole of it is trusted.
func TestSpansAtBorders(t *testing.T) {
	tok := load(t, "llama4")
	eot, _ := tok.ID("<|eot|>")
	for _, tc := range []struct {
		spans []Span
		count int
	}{
		{[]Span{{"hi<|eot|>", true}}, 1},
		{[]Span{{"hi", false}, {"<|eot|>", true}, {"hi", false}}, 1},
		{[]Span{{"<|e", true}, {"", false}, {"ot|>", true}}, 1},
		{[]Span{{"<|e", true}, {"ot|>", false}}, 0},
		{[]Span{{"<|e", false}, {"ot|>", true}}, 0},
		{[]Span{{"<|", true}, {"eot", false}, {"|>", true}}, 0},
		{[]Span{{"<|eot|><|eot|>", false}, {"<|eot|>", true}}, 1},
		{nil, 0},
	} {
		count := 0
		for _, id := range tok.EncodeSpans(tc.spans) {
			if id == eot {
				count++
			}
		}
		if count != tc.count {
			t.Errorf("EncodeSpans(%v) has %d of <|eot|>, want %d", tc.spans, count, tc.count)
		}
	}
}

// Where no untrusted text looks like a special token, spans give what the whole text gives.
func TestSpansEqualWhole(t *testing.T) {
	for _, family := range families {
		tok := load(t, family)
		list := specials(tok)
		x := newTexts(3)
		rng := rand.New(rand.NewPCG(4, 0))
		for range 500 {
			var spans []Span
			var whole strings.Builder
			for range rng.IntN(6) {
				s := Span{Text: x.next()}
				if rng.IntN(2) == 0 {
					s.Text += list[rng.IntN(len(list))]
					s.Trusted = true
				}
				spans = append(spans, s)
				whole.WriteString(s.Text)
			}
			got, want := tok.EncodeSpans(spans), tok.EncodeSpecial(whole.String())
			if !slices.Equal(got, want) {
				t.Fatalf("%s: EncodeSpans(%v) = %v, want %v", family, spans, got, want)
			}
		}
	}
}

// Merges and words that make a special token are not used, even in a file that has them.
func TestModelMakesNoSpecialToken(t *testing.T) {
	tok, err := Parse("t.json", []byte(`{
		"added_tokens": [{"id": 2, "content": "ab", "special": true}],
		"model": {"type": "BPE", "ignore_merges": true,
			"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("ab"); !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("Encode = %v, want the letters", got)
	}
	if got := tok.EncodeSpecial("ab"); !slices.Equal(got, []int32{2}) {
		t.Errorf("EncodeSpecial = %v, want the token", got)
	}
}

func TestAddedTokenOptions(t *testing.T) {
	tok, err := Parse("t.json", []byte(`{
		"added_tokens": [
			{"id": 5, "content": "<m>", "lstrip": true, "rstrip": true, "special": true},
			{"id": 6, "content": "aa", "single_word": true},
			{"id": 7, "content": "b c", "normalized": true},
			{"id": 8, "content": "aab", "special": true}],
		"normalizer": {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
		"model": {"type": "BPE", "merges": [],
			"vocab": {"a": 0, "b": 1, "c": 2, " ": 3, "_": 4}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]int32{
		"a \n<m> \t b": {0, 5, 1},
		"aa":           {6},
		" aa ":         {3, 6, 3},
		"aaa":          {0, 0, 0},
		"caa":          {2, 0, 0},
		"b_c":          {7},
		"aab":          {8},
	} {
		if got := tok.EncodeSpecial(text); !slices.Equal(got, want) {
			t.Errorf("EncodeSpecial(%q) = %v, want %v", text, got, want)
		}
	}
}
