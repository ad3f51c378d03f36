package tokenizer

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Span is a piece of a rendered prompt. Trusted text is the chat template's own; the rest came
// from users, tools or documents.
type Span struct {
	Text    string
	Trusted bool
}

// Encode turns content into tokens. Special tokens written in it stay text (R1); added tokens
// that are not special are recognised. Only a model's token for unknown text can be special.
func (t *Tokenizer) Encode(text string) []int32 {
	return t.encode(text, nil)
}

// EncodeSpecial is Encode for text that may hold special tokens, such as a whole trusted prompt.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	return t.encode(text, []span{{start: 0, end: len(text)}})
}

// EncodeWithBOS is EncodeSpecial with what the post-processor puts around a text, usually the
// token that begins a sequence. A rendered chat template already holds that.
func (t *Tokenizer) EncodeWithBOS(text string) []int32 {
	ids := append([]int32{}, t.prefix...)
	ids = append(ids, t.EncodeSpecial(text)...)
	return append(ids, t.suffix...)
}

// EncodeSpans encodes the joined text of the spans and recognises a special token only where it
// lies within trusted text. Everything else runs as if the text were one string, so the borders
// of spans do not show in the tokens.
func (t *Tokenizer) EncodeSpans(spans []Span) []int32 {
	var text strings.Builder
	var trusted []span
	for _, s := range spans {
		begin := text.Len()
		text.WriteString(s.Text)
		if !s.Trusted || s.Text == "" {
			continue
		}
		if n := len(trusted); n > 0 && trusted[n-1].end == begin {
			trusted[n-1].end = text.Len()
		} else {
			trusted = append(trusted, span{start: begin, end: text.Len()})
		}
	}
	return t.encode(text.String(), trusted)
}

// encode recognises added tokens, and encodes the text between them.
func (t *Tokenizer) encode(text string, trusted []span) []int32 {
	e := encoders.Get().(*encoder)
	e.t, e.deadline = t, time.Now().Add(maxSplitTime)
	e.ids = make([]int32, 0, len(text)/3+8)
	from := 0
	tr := trust{spans: trusted}
	for from < len(text) {
		token, at := t.added.find(text, from, &tr)
		if token == nil {
			break
		}
		e.section(text[from:at.start], from == 0)
		e.ids = append(e.ids, int32(token.ID))
		from = at.end
	}
	e.section(text[from:], from == 0)
	ids := e.ids
	e.release()
	return ids
}

// encoder is the state of one encode call; its memory is used again.
type encoder struct {
	t        *Tokenizer
	deadline time.Time // for patterns
	ids      []int32   // the result so far
	spans    []span    // a stack: the pieces that each splitter has made
	symbols  []int32
	work     workspace
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// maxKept bounds the memory that an encoder keeps, as a number of spans or symbols.
const maxKept = 1 << 16

// release gives the encoder back, without what belongs to the caller or is very large.
func (e *encoder) release() {
	if cap(e.spans) > maxKept || cap(e.symbols) > maxKept {
		return
	}
	e.t, e.ids = nil, nil
	encoders.Put(e)
}

// section encodes a text in which no added token of the first kind occurs.
func (e *encoder) section(text string, first bool) {
	if text == "" {
		return
	}
	text = e.t.normalized(text)
	from := 0
	for from < len(text) {
		token, at := e.t.addedNorm.find(text, from, &trust{})
		if token == nil {
			break
		}
		e.split(text[from:at.start], 0, first && from == 0)
		e.ids = append(e.ids, int32(token.ID))
		from = at.end
	}
	e.split(text[from:], 0, first && from == 0)
}

// split cuts a text with the splitters from the given one on, and encodes the pieces.
func (e *encoder) split(text string, level int, first bool) {
	if text == "" {
		return
	}
	if level == len(e.t.splits) {
		e.piece(text)
		return
	}
	base := len(e.spans)
	e.spans, text = e.t.splits[level].split(e.spans, text, place{first, e.deadline})
	for i := base; i < len(e.spans); i++ {
		s := e.spans[i]
		e.split(text[s.start:s.end], level+1, first && i == base)
	}
	e.spans = e.spans[:base]
}

// piece encodes what no merge crosses the ends of, cut further where that holds inside it.
func (e *encoder) piece(text string) {
	j := e.t.merger.joints
	if j == nil {
		e.merge(text)
		return
	}
	begin := 0
	left, i := utf8.DecodeRuneInString(text)
	for i < len(text) {
		right, w := utf8.DecodeRuneInString(text[i:])
		if !j.has(left, right) {
			e.merge(text[begin:i])
			begin = i
		}
		left = right
		i += w
	}
	e.merge(text[begin:])
}

// merge encodes one piece, from the cache if it is there.
func (e *encoder) merge(text string) {
	m := &e.t.merger
	if m.byteLevel && len(text) == 1 && m.single[text[0]] >= 0 {
		e.ids = append(e.ids, m.single[text[0]])
		return
	}
	slot := m.cache.slot(text)
	if slot != nil {
		if c := slot.Load(); c != nil && c.text == text {
			e.ids = append(e.ids, c.ids...)
			return
		}
	}
	begin := len(e.ids)
	if id, ok := m.words[text]; ok && m.whole {
		e.ids = append(e.ids, id)
	} else {
		e.symbols = m.symbols(e.symbols[:0], text)
		e.ids = append(e.ids, m.merge(e.symbols, &e.work)...)
	}
	if slot != nil {
		ids := append([]int32(nil), e.ids[begin:]...)
		slot.Store(&cachedPiece{text: strings.Clone(text), ids: ids})
	}
}

// pieceCache remembers the tokens of short pieces. A piece has one possible slot, in which the
// newest wins, so the size is bounded and nobody waits.
type pieceCache struct {
	seed  maphash.Seed
	slots [1 << 14]atomic.Pointer[cachedPiece]
}

type cachedPiece struct {
	text string
	ids  []int32
}

// maxCachedBytes is the longest piece that is remembered.
const maxCachedBytes = 48

// slot is the place for a piece, or nil for one that is not worth it.
func (c *pieceCache) slot(text string) *atomic.Pointer[cachedPiece] {
	if len(text) < 2 || len(text) > maxCachedBytes {
		return nil
	}
	return &c.slots[maphash.String(c.seed, text)%uint64(len(c.slots))]
}
