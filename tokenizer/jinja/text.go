package jinja

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// run is a stretch of bytes of equal trust; it starts where its predecessor ends.
type run struct {
	end     int
	trusted bool
}

// text is a string with its marks. It is always valid UTF-8.
type text struct {
	s       string
	trusted bool  // of every byte, when runs is nil
	runs    []run // when trust is mixed: covers s, neighbours differ; never changed
}

func (text) kind() string { return "str" }

// own returns text written by the template; foreign returns text written by the request.
func own(s string) text     { return text{s: s, trusted: true} }
func foreign(s string) text { return text{s: s} }

// clean reports whether every byte is trusted. Empty text is.
func (t text) clean() bool { return t.s == "" || t.runs == nil && t.trusted }

// derived is the result s of an operation that cannot follow bytes: trusted only if all of the
// operands are (R1).
func derived(s string, from ...text) text {
	for _, t := range from {
		if !t.clean() {
			return foreign(s)
		}
	}
	return own(s)
}

// slice returns bytes i to j with their marks; both must lie on rune borders.
func (t text) slice(i, j int) text {
	cut := text{s: t.s[i:j], trusted: t.trusted}
	if t.runs == nil || i == j {
		cut.trusted = cut.trusted || i == j
		return cut
	}
	first := sort.Search(len(t.runs), func(k int) bool { return t.runs[k].end > i })
	var runs []run
	for _, r := range t.runs[first:] {
		runs = append(runs, run{min(r.end, j) - i, r.trusted})
		if r.end >= j {
			break
		}
	}
	if len(runs) == 1 {
		cut.trusted = runs[0].trusted
		return cut
	}
	cut.runs = runs
	return cut
}

// toValid replaces what is not UTF-8 with U+FFFD.
func toValid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// isASCII reports whether byte and rune positions agree.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// runeCount is Python's len.
func (t text) runeCount() int { return utf8.RuneCountInString(t.s) }

// byteIndex converts a rune index within s to a byte index; past the end it is len(s).
func byteIndex(s string, index int) int {
	at := 0
	for index > 0 && at < len(s) {
		_, n := utf8.DecodeRuneInString(s[at:])
		at += n
		index--
	}
	return at
}

// chars splits t into its characters.
func (t text) chars() []Value {
	list := make([]Value, 0, t.runeCount())
	for i := 0; i < len(t.s); {
		_, n := utf8.DecodeRuneInString(t.s[i:])
		list = append(list, t.slice(i, i+n))
		i += n
	}
	return list
}

// trim cuts leading and trailing characters that drop accepts.
func (t text) trim(drop func(rune) bool, left, right bool) text {
	i, j := 0, len(t.s)
	if left {
		i = len(t.s) - len(strings.TrimLeftFunc(t.s, drop))
	}
	if right {
		j = max(i, len(strings.TrimRightFunc(t.s, drop)))
	}
	return t.slice(i, j)
}

// builder collects text piece by piece and keeps the marks. Every byte is charged to the machine.
type builder struct {
	m    *machine
	buf  []byte
	runs []run
}

// add appends t.
func (b *builder) add(t text) error {
	if t.runs == nil {
		return b.addString(t.s, t.trusted)
	}
	if err := b.room(len(t.s)); err != nil {
		return err
	}
	start := 0
	for _, r := range t.runs {
		b.put(t.s[start:r.end], r.trusted)
		start = r.end
	}
	return b.m.step(len(t.runs))
}

// addString appends s as trusted or untrusted.
func (b *builder) addString(s string, trusted bool) error {
	if err := b.room(len(s)); err != nil {
		return err
	}
	b.put(s, trusted)
	return nil
}

// room charges n more bytes, before anything is allocated (R2).
func (b *builder) room(n int) error {
	if len(b.buf)+n > b.m.maxBytes {
		return fmt.Errorf("text longer than %d bytes: %w", b.m.maxBytes, ErrBudget)
	}
	return b.m.charge(n)
}

func (b *builder) put(s string, trusted bool) {
	if s == "" {
		return
	}
	b.buf = append(b.buf, s...)
	if n := len(b.runs); n > 0 && b.runs[n-1].trusted == trusted {
		b.runs[n-1].end = len(b.buf)
		return
	}
	b.runs = append(b.runs, run{len(b.buf), trusted})
}

// text returns what was collected; the builder must not be used afterwards.
func (b *builder) text() text {
	t := text{s: string(b.buf), trusted: true}
	switch len(b.runs) {
	case 0:
	case 1:
		t.trusted = b.runs[0].trusted
	default:
		t.runs = b.runs
	}
	return t
}

// spans returns what was collected in the exported form.
func (b *builder) spans() []Span {
	s, start := string(b.buf), 0
	spans := make([]Span, 0, len(b.runs))
	for _, r := range b.runs {
		spans = append(spans, Span{Text: s[start:r.end], Trusted: r.trusted})
		start = r.end
	}
	return spans
}

// concat joins pieces.
func (m *machine) concat(pieces ...text) (text, error) {
	b := builder{m: m}
	for _, t := range pieces {
		if err := b.add(t); err != nil {
			return text{}, err
		}
	}
	return b.text(), nil
}

// joinTexts joins pieces with sep between them.
func (m *machine) joinTexts(sep text, pieces []text) (text, error) {
	b := builder{m: m}
	for i, t := range pieces {
		if i > 0 {
			if err := b.add(sep); err != nil {
				return text{}, err
			}
		}
		if err := b.add(t); err != nil {
			return text{}, err
		}
	}
	return b.text(), nil
}

// repeat returns t n times.
func (m *machine) repeat(t text, n int) (text, error) {
	if n <= 0 || t.s == "" {
		return own(""), nil
	}
	if n > m.maxBytes/len(t.s) {
		return text{}, fmt.Errorf("text of %d bytes repeated %d times: %w", len(t.s), n, ErrBudget)
	}
	if t.runs == nil {
		if err := m.charge(len(t.s) * n); err != nil {
			return text{}, err
		}
		t.s = strings.Repeat(t.s, n)
		return t, nil
	}
	b := builder{m: m}
	for range n {
		if err := b.add(t); err != nil {
			return text{}, err
		}
	}
	return b.text(), nil
}
