package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Limits on the ids of a vocabulary: none may lie far above the number of tokens, so that an id
// cannot make a small file need much memory.
const (
	maxVocab = 1 << 22
	spareIDs = 1 << 16
	// maxContentBytes bounds an added token, because each position in a text may be compared
	// with that many bytes.
	maxContentBytes = 1 << 10
	maxAffix        = 64 // ids the post-processor may put around a text
)

// Flags of a token.
const (
	flagKnown   = 1 << iota // some token has the id
	flagSpecial             // it is a control token
	flagByte                // it stands for one byte of text, written <0xAB>
)

// vocab is what there is to say about each token, by id.
type vocab struct {
	tokens []string // as the file writes them
	pieces []string // the bytes they stand for
	flags  []uint8
	ids    map[string]int32 // by the string in tokens
}

func (v *vocab) known(id int32) bool {
	return id >= 0 && int(id) < len(v.flags) && v.flags[id]&flagKnown != 0
}

// tokenizerFile is tokenizer.json. Its truncation and padding are for training and ignored.
type tokenizerFile struct {
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         struct {
		Type         *string         `json:"type"`
		Vocab        json.RawMessage `json:"vocab"`
		Merges       json.RawMessage `json:"merges"`
		Dropout      *float64        `json:"dropout"`
		UnkToken     *string         `json:"unk_token"`
		Prefix       *string         `json:"continuing_subword_prefix"`
		Suffix       *string         `json:"end_of_word_suffix"`
		FuseUnk      bool            `json:"fuse_unk"`
		ByteFallback bool            `json:"byte_fallback"`
		IgnoreMerges bool            `json:"ignore_merges"`
	} `json:"model"`
}

// Parse reads the text of a tokenizer.json; name stands for it in errors.
func Parse(name string, tokenizerJSON []byte) (*Tokenizer, error) {
	t, err := parse(tokenizerJSON)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func parse(text []byte) (*Tokenizer, error) {
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("larger than %d MB, refused", maxFileBytes>>20)
	}
	var f tokenizerFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, jsonError("", err)
	}
	if err := f.checkModel(); err != nil {
		return nil, err
	}
	var words map[string]int64
	if err := json.Unmarshal(f.Model.Vocab, &words); err != nil {
		return nil, jsonError("model.vocab", err)
	}
	t := &Tokenizer{}
	if err := t.vocab.fill(words, f.AddedTokens); err != nil {
		return nil, err
	}
	var err error
	if t.normalize, err = parseNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	var byteLevel bool
	if t.splits, byteLevel, err = parsePreTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	if t.decoder, err = parseDecoder(f.Decoder); err != nil {
		return nil, err
	}
	t.decoder.fill(&t.vocab)
	if t.prefix, t.suffix, err = parsePostProcessor(f.PostProcessor, &t.vocab); err != nil {
		return nil, err
	}
	t.indexAdded(f.AddedTokens)
	if err := t.merger.fill(&f, &t.vocab, words, byteLevel); err != nil {
		return nil, err
	}
	return t, nil
}

// checkModel refuses the models that this package does not run.
func (f *tokenizerFile) checkModel() error {
	m := &f.Model
	switch {
	case m.Type == nil:
		return errors.New("model.type: missing")
	case *m.Type != "BPE":
		return fmt.Errorf("model.type: %.60q is not supported, only \"BPE\" is", *m.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return errors.New("model.dropout: is for training and not supported")
	case m.Prefix != nil && *m.Prefix != "":
		return errors.New("model.continuing_subword_prefix: not supported")
	case m.Suffix != nil && *m.Suffix != "":
		return errors.New("model.end_of_word_suffix: not supported")
	case len(m.Vocab) == 0:
		return errors.New("model.vocab: missing")
	case len(m.Merges) == 0:
		return errors.New("model.merges: missing")
	}
	return nil
}

// fill takes the model's words and the added tokens in.
func (v *vocab) fill(words map[string]int64, added []addedToken) error {
	count := len(words) + len(added)
	if count == 0 {
		return errors.New("model.vocab: empty")
	}
	limit := int64(min(maxVocab, count*4+spareIDs))
	size := int64(0)
	for token, id := range words {
		if id < 0 || id >= limit {
			return fmt.Errorf("model.vocab: id %d of %.60q is outside 0 to %d", id, token, limit-1)
		}
		size = max(size, id+1)
	}
	for i, a := range added {
		if a.ID < 0 || a.ID >= limit {
			return fmt.Errorf("added_tokens[%d]: id %d is outside 0 to %d", i, a.ID, limit-1)
		}
		if len(a.Content) > maxContentBytes {
			return fmt.Errorf("added_tokens[%d]: longer than %d bytes", i, maxContentBytes)
		}
		size = max(size, a.ID+1)
	}
	v.tokens, v.flags = make([]string, size), make([]uint8, size)
	v.ids = make(map[string]int32, count)
	for token, id := range words {
		if err := v.put(token, id); err != nil {
			return fmt.Errorf("model.vocab: %w", err)
		}
	}
	for i, a := range added {
		if err := v.put(a.Content, a.ID); err != nil {
			return fmt.Errorf("added_tokens[%d]: %w", i, err)
		}
		if a.Special {
			v.flags[a.ID] |= flagSpecial
		}
	}
	return nil
}

// put gives a token its id; the same pair may come twice.
func (v *vocab) put(token string, id int64) error {
	if had, ok := v.ids[token]; ok && int64(had) != id {
		return fmt.Errorf("%.60q has two ids, %d and %d", token, had, id)
	}
	if v.flags[id]&flagKnown != 0 && v.tokens[id] != token {
		return fmt.Errorf("id %d stands for both %.60q and %.60q", id, v.tokens[id], token)
	}
	v.tokens[id], v.ids[token] = token, int32(id)
	v.flags[id] |= flagKnown
	return nil
}

// indexAdded prepares the search for added tokens. Special ones are always searched for in the
// text as written, so that only the template's own text can hold them (R1); of the others those
// that ask for it are searched for after normalising.
func (t *Tokenizer) indexAdded(list []addedToken) {
	t.added, t.addedNorm = newAddedTokens(), newAddedTokens()
	for _, a := range list {
		if a.Normalized && !a.Special && len(t.normalize) > 0 {
			t.addedNorm.add(t.normalized(a.Content), a)
		} else {
			t.added.add(a.Content, a)
		}
	}
}

// normalized applies the normaliser to a text.
func (t *Tokenizer) normalized(text string) string {
	for _, f := range t.normalize {
		text = f(text)
	}
	return text
}

// templatePart is one place of a post-processor's template.
type templatePart struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID string `json:"id"`
	} `json:"Sequence"`
}

// parsePostProcessor finds what is to be put before and after a text.
func parsePostProcessor(raw json.RawMessage, v *vocab) (prefix, suffix []int32, err error) {
	const field = "post_processor"
	steps, err := flatten(field, raw, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range steps {
		switch s.Type {
		case "ByteLevel": // changes only offsets
		case "TemplateProcessing":
			before, after, err := s.affixes(v)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", field, err)
			}
			prefix, suffix = append(before, prefix...), append(suffix, after...)
		default:
			return nil, nil, fmt.Errorf("%s: type %.60q is not supported", field, s.Type)
		}
	}
	if len(prefix)+len(suffix) > maxAffix {
		return nil, nil, fmt.Errorf("%s: adds more than %d tokens", field, maxAffix)
	}
	return prefix, suffix, nil
}

// affixes are the ids before and after the text in a template.
func (s *step) affixes(v *vocab) (before, after []int32, err error) {
	texts := 0
	for _, p := range s.Single {
		switch {
		case p.Sequence != nil && p.Sequence.ID == "A":
			texts++
		case p.SpecialToken != nil:
			named, ok := s.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return nil, nil, fmt.Errorf("special_tokens has no %.60q", p.SpecialToken.ID)
			}
			for _, id := range named.IDs {
				if id < 0 || id >= int64(len(v.flags)) || !v.known(int32(id)) {
					return nil, nil, fmt.Errorf("special token id %d has no token", id)
				}
				if texts == 0 {
					before = append(before, int32(id))
				} else {
					after = append(after, int32(id))
				}
			}
		default:
			return nil, nil, errors.New("single has a part that is neither a token nor the text")
		}
	}
	if texts != 1 {
		return nil, nil, fmt.Errorf("single has the text %d times, want once", texts)
	}
	return before, after, nil
}

// parseMerges reads merges written as pairs or, in older files, as strings with a space.
func parseMerges(raw json.RawMessage) ([][]string, error) {
	var pairs [][]string
	err := json.Unmarshal(raw, &pairs)
	if err != nil {
		var lines []string
		if json.Unmarshal(raw, &lines) != nil {
			return nil, jsonError("model.merges", err)
		}
		pairs = make([][]string, len(lines))
		for i, line := range lines {
			pairs[i] = strings.Split(line, " ")
		}
	}
	for i, p := range pairs {
		if len(p) != 2 {
			return nil, fmt.Errorf("model.merges[%d]: %.60q does not have two parts", i, p)
		}
	}
	return pairs, nil
}

// jsonError says in one line what encoding/json found, and in which field.
func jsonError(field string, err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		if wrong.Field != "" {
			field = strings.TrimPrefix(field+"."+wrong.Field, ".")
		}
		err = fmt.Errorf("want %s, got %.60s", wrong.Type, wrong.Value)
	}
	if field == "" {
		return err
	}
	return fmt.Errorf("%s: %w", field, err)
}
