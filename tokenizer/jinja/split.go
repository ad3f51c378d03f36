package jinja

import (
	"strings"
	"unicode/utf8"
)

// split cuts t at sep at most limit times (all if negative), from the left or from the right.
func (t text) split(sep string, limit int, fromRight bool) []text {
	var parts []text
	i, j := 0, len(t.s)
	for limit != 0 {
		if fromRight {
			at := strings.LastIndex(t.s[:j], sep)
			if at < 0 {
				break
			}
			parts = append(parts, t.slice(at+len(sep), j))
			j = at
		} else {
			at := strings.Index(t.s[i:], sep)
			if at < 0 {
				break
			}
			parts = append(parts, t.slice(i, i+at))
			i += at + len(sep)
		}
		limit--
	}
	parts = append(parts, t.slice(i, j))
	if fromRight {
		reverse(parts)
	}
	return parts
}

// textBytes is about what one piece of a split text takes.
const textBytes = 48

// chargeSplit pays for the pieces of t cut at sep.
func (m *machine) chargeSplit(t, sep text) error {
	if err := m.step(len(t.s) / 64); err != nil {
		return err
	}
	return m.charge(textBytes * (strings.Count(t.s, sep.s) + 1))
}

// fields cuts t at stretches of whitespace.
func (t text) fields(limit int, fromRight bool) []text {
	var parts []text
	for {
		t = t.trim(isSpace, !fromRight, fromRight)
		if t.s == "" {
			break
		}
		if limit == 0 {
			parts = append(parts, t)
			break
		}
		limit--
		if fromRight {
			at := strings.LastIndexFunc(t.s, isSpace)
			if at >= 0 {
				_, n := utf8.DecodeRuneInString(t.s[at:])
				at += n
			} else {
				at = 0
			}
			parts = append(parts, t.slice(at, len(t.s)))
			t = t.slice(0, at)
			continue
		}
		at := strings.IndexFunc(t.s, isSpace)
		if at < 0 {
			at = len(t.s)
		}
		parts = append(parts, t.slice(0, at))
		t = t.slice(at, len(t.s))
	}
	if fromRight {
		reverse(parts)
	}
	return parts
}

func reverse[T any](s []T) {
	for i, j := 0, len(s)-1; i < j; i, j = i+1, j-1 {
		s[i], s[j] = s[j], s[i]
	}
}

// lines is Python's splitlines.
func (t text) lines(keepEnds bool) []text {
	isEnd := func(r rune) bool {
		return r >= '\n' && r <= '\r' || r >= 0x1c && r <= 0x1e ||
			r == 0x85 || r == 0x2028 || r == 0x2029
	}
	var parts []text
	for i := 0; i < len(t.s); {
		at := strings.IndexFunc(t.s[i:], isEnd)
		if at < 0 {
			return append(parts, t.slice(i, len(t.s)))
		}
		end := i + at
		_, n := utf8.DecodeRuneInString(t.s[end:])
		if strings.HasPrefix(t.s[end:], "\r\n") {
			n = 2
		}
		if keepEnds {
			parts = append(parts, t.slice(i, end+n))
		} else {
			parts = append(parts, t.slice(i, end))
		}
		i = end + n
	}
	return parts
}

// replace exchanges old for new at most limit times (all if negative). The marks of what stays
// and of what comes in are kept.
func (m *machine) replace(t, old, new text, limit int) (text, error) {
	if err := m.step(len(t.s)/64 + 1); err != nil {
		return text{}, err
	}
	if limit == 0 || old.s != "" && !strings.Contains(t.s, old.s) {
		return t, nil
	}
	b := builder{m: m}
	if old.s == "" {
		return b.spread(t, new, limit)
	}
	if err := m.chargeSplit(t, old); err != nil {
		return text{}, err
	}
	for i, part := range t.split(old.s, limit, false) {
		if i > 0 {
			if err := b.add(new); err != nil {
				return text{}, err
			}
		}
		if err := b.add(part); err != nil {
			return text{}, err
		}
		if err := m.step(1); err != nil {
			return text{}, err
		}
	}
	return b.text(), nil
}

// spread puts new before every character and at the end: what replacing nothing does.
func (b *builder) spread(t, new text, limit int) (text, error) {
	i := 0
	for limit != 0 {
		limit--
		if err := b.add(new); err != nil {
			return text{}, err
		}
		if err := b.m.step(1); err != nil {
			return text{}, err
		}
		if i == len(t.s) {
			break
		}
		n := byteIndex(t.s[i:], 1)
		if err := b.add(t.slice(i, i+n)); err != nil {
			return text{}, err
		}
		i += n
	}
	err := b.add(t.slice(i, len(t.s)))
	return b.text(), err
}

// texts turns pieces into a list.
func (m *machine) texts(pieces []text) (Value, error) {
	if err := m.chargeItems(4 * len(pieces)); err != nil {
		return nil, err
	}
	items := make([]Value, len(pieces))
	for i, t := range pieces {
		items[i] = t
	}
	return &list{items}, nil
}
