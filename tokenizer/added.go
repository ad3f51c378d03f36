package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is one entry of added_tokens.
type addedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// addedTokens finds added tokens in text: leftmost first, then the longest.
type addedTokens struct {
	next  map[uint64]int32 // (state << 8 | byte) → state; state 0 is the root
	ends  []int32          // by state: index into list plus one, or 0
	list  []addedToken
	first [256]bool // bytes that begin a token
	only  int       // the one such byte, or -1
}

func newAddedTokens() addedTokens {
	return addedTokens{next: map[uint64]int32{}, ends: make([]int32, 1), only: -1}
}

// add takes a token that is to be found where pattern stands.
func (a *addedTokens) add(pattern string, token addedToken) {
	if pattern == "" {
		return
	}
	if len(a.list) == 0 {
		a.only = int(pattern[0])
	} else if a.only != int(pattern[0]) {
		a.only = -1
	}
	a.first[pattern[0]] = true
	state := int32(0)
	for i := range len(pattern) {
		key := uint64(state)<<8 | uint64(pattern[i])
		to, ok := a.next[key]
		if !ok {
			to = int32(len(a.ends))
			a.next[key] = to
			a.ends = append(a.ends, 0)
		}
		state = to
	}
	a.list = append(a.list, token)
	a.ends[state] = int32(len(a.list))
}

// candidate is the next position from i on where a token may begin, or len(text).
func (a *addedTokens) candidate(text string, i int) int {
	if a.only >= 0 {
		if k := strings.IndexByte(text[i:], byte(a.only)); k >= 0 {
			return i + k
		}
		return len(text)
	}
	for i < len(text) && !a.first[text[i]] {
		i++
	}
	return i
}

// longest is the longest token at position i and its end. Special tokens count only where
// trusted covers them.
func (a *addedTokens) longest(text string, i int, trusted *trust) (token *addedToken, end int) {
	state := int32(0)
	for j := i; j < len(text); j++ {
		to, ok := a.next[uint64(state)<<8|uint64(text[j])]
		if !ok {
			break
		}
		state = to
		if k := a.ends[state]; k != 0 {
			found := &a.list[k-1]
			if !found.Special || trusted.covers(i, j+1) {
				token, end = found, j+1
			}
		}
	}
	return token, end
}

// find returns the next token from position from on, with the whitespace it takes along. It
// returns nil when there is none.
func (a *addedTokens) find(text string, from int, trusted *trust) (*addedToken, span) {
	if len(a.list) == 0 {
		return nil, span{}
	}
	for i := a.candidate(text, from); i < len(text); i = a.candidate(text, i) {
		token, end := a.longest(text, i, trusted)
		if token == nil {
			i++
			continue
		}
		if token.SingleWord && !standsAlone(text, i, end) {
			i = end
			continue
		}
		at := span{start: i, end: end}
		if token.LStrip {
			at.start = from + len(strings.TrimRightFunc(text[from:i], unicode.IsSpace))
		}
		if token.RStrip {
			at.end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		return token, at
	}
	return nil, span{}
}

// standsAlone says whether text[start:end] has no word character beside it.
func standsAlone(text string, start, end int) bool {
	before, _ := utf8.DecodeLastRuneInString(text[:start])
	after, _ := utf8.DecodeRuneInString(text[end:])
	return (start == 0 || !isWord(before)) && (end == len(text) || !isWord(after))
}

func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc)
}

// trust is the parts of a text in which special tokens are recognised, in order.
type trust struct {
	spans []span
	at    int // the spans before it end before every position asked for from now on
}

// covers says whether [start, end) lies in one trusted part. The starts asked for must not
// decrease.
func (t *trust) covers(start, end int) bool {
	for t.at < len(t.spans) && t.spans[t.at].end <= start {
		t.at++
	}
	return t.at < len(t.spans) && t.spans[t.at].start <= start && end <= t.spans[t.at].end
}
