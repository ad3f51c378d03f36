package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"drover/tokenizer"
)

// encodeCase is a text and its tokens.
type encodeCase struct {
	Text               string
	IDs                []int32
	IDsWithSpecial     []int32 `json:"ids_with_special"`
	Decoded            string
	DecodedSkipSpecial string `json:"decoded_skip_special"`
}

// decodeCase is a list of tokens and its text.
type decodeCase struct {
	Why                string
	IDs                []int32
	Decoded            string
	DecodedSkipSpecial string   `json:"decoded_skip_special"`
	PrefixDecodes      []string `json:"prefix_decodes"`
}

// checkTokenizer checks a tokenizer in three cases: encode, decode and stream.
func checkTokenizer(_ context.Context, v *verifier, f fixture) error {
	var want struct {
		VocabSize int `json:"vocab_size"`
		Encode    []encodeCase
		Decode    []decodeCase
	}
	if err := readJSON(f.beside("expected.json"), &want); err != nil {
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil
	}
	t, err := tokenizer.Load(f.dir)
	if err != nil {
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil
	}
	enc, dec, stream := &check{}, &check{}, &check{}
	if n := t.VocabSize(); n != want.VocabSize {
		enc.fail("the vocabulary has %d tokens, want %d", n, want.VocabSize)
	}
	for i, c := range want.Encode {
		where := fmt.Sprintf("encode[%d]", i)
		enc.ids(where+".ids", t.EncodeSpecial(c.Text), c.IDs)
		enc.ids(where+".ids_with_special", t.EncodeWithBOS(c.Text), c.IDsWithSpecial)
		dec.text(where+".decoded", t.Decode(c.IDs, false), c.Decoded)
		dec.text(where+".decoded_skip_special",
			t.Decode(c.IDsWithSpecial, true), c.DecodedSkipSpecial)
	}
	for i, c := range want.Decode {
		where := fmt.Sprintf("decode[%d] (%s)", i, c.Why)
		dec.text(where, t.Decode(c.IDs, false), c.Decoded)
		dec.text(where+" without special", t.Decode(c.IDs, true), c.DecodedSkipSpecial)
		if len(c.PrefixDecodes) != len(c.IDs) {
			dec.fail("%s: %d prefixes for %d ids", where, len(c.PrefixDecodes), len(c.IDs))
			continue
		}
		for n, prefix := range c.PrefixDecodes {
			dec.text(fmt.Sprintf("%s prefix %d", where, n+1), t.Decode(c.IDs[:n+1], false), prefix)
		}
		stream.stream(where, t, c)
	}
	v.done(f.name+"/encode", enc)
	v.done(f.name+"/decode", dec)
	v.done(f.name+"/stream", stream)
	return nil
}

// stream checks that streamed text is at any time a beginning of the whole text, and all of it at
// the end. How the reference cuts its chunks is not compared: it goes back on text that a later
// token changes, or gives up.
func (c *check) stream(where string, t *tokenizer.Tokenizer, dc decodeCase) {
	for _, skip := range []bool{false, true} {
		want := dc.Decoded
		if skip {
			want = dc.DecodedSkipSpecial
		}
		s := t.NewStream(skip)
		var got strings.Builder
		for i, id := range dc.IDs {
			got.WriteString(s.Push(id))
			if !strings.HasPrefix(want, got.String()) {
				c.fail("%s: after token %d the stream has sent %q, the text is %q",
					where, i, got.String(), want)
				return
			}
		}
		got.WriteString(s.Flush())
		c.text(where, got.String(), want)
	}
}

// ids compares token ids.
func (c *check) ids(where string, got, want []int32) {
	if c.compared++; !slices.Equal(got, want) {
		c.fail("%s: %v, want %v", where, got, want)
	}
}

// text compares texts.
func (c *check) text(where, got, want string) {
	c.compared++
	if err := equalText(got, want); err != nil {
		c.fail("%s: %v", where, err)
	}
}
