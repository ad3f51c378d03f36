package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// span is a part of a text, in bytes.
type span struct {
	start, end int
	match      bool // it is what a pattern looked for, not what lies between two matches
}

// splitter is one step of pre-tokenisation. It cuts a text into pieces that cover it, appends
// them to dst, and returns the text that they are parts of, which is s unless the step changes it.
type splitter interface {
	split(dst []span, s string, at place) ([]span, string)
}

// place is what a splitter needs to know besides the text.
type place struct {
	first    bool      // the text begins the whole text
	deadline time.Time // patterns stop to look for matches then
}

// Bounds on regular expressions without a hand-written scanner. What such a pattern has not
// split when a bound is reached stays one piece, so hostile text costs bounded time: maxSplitTime
// for one call of Encode.
const (
	maxPatternBytes = 4 << 10
	maxMatchTime    = time.Second
	maxSplitTime    = 2 * time.Second
	maxMatchStack   = 1 << 20
)

// gptPattern is what ByteLevel splits by when use_regex is set.
const gptPattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// parsePreTokenizer builds the splitters that the pre_tokenizer field describes. byteLevel says
// that the model sees the bytes of the text, not its characters.
func parsePreTokenizer(raw json.RawMessage) (list []splitter, byteLevel bool, err error) {
	const field = "pre_tokenizer"
	steps, err := flatten(field, raw, 0)
	if err != nil {
		return nil, false, err
	}
	for _, s := range steps {
		if byteLevel {
			return nil, false, fmt.Errorf("%s: %.60q after ByteLevel: not supported", field, s.Type)
		}
		switch s.Type {
		case "Split":
			sp, err := newSplit(s)
			if err != nil {
				return nil, false, fmt.Errorf("%s: %w", field, err)
			}
			list = append(list, sp)
		case "ByteLevel":
			byteLevel = true
			if s.AddPrefixSpace {
				list = append(list, prefixSpace{})
			}
			if s.UseRegex == nil || *s.UseRegex {
				find, err := newRegexFinder(gptPattern, maxMatchTime)
				if err != nil {
					return nil, false, err
				}
				list = append(list, patternSplit{find: find, behavior: "Isolated"})
			}
		case "Metaspace":
			m, err := newMetaspace(s)
			if err != nil {
				return nil, false, fmt.Errorf("%s: %w", field, err)
			}
			list = append(list, m)
		default:
			return nil, false, fmt.Errorf("%s: type %.60q is not supported", field, s.Type)
		}
	}
	return list, byteLevel, nil
}

// newSplit builds a Split step: a scanner written for its very pattern, or a general one.
func newSplit(s step) (splitter, error) {
	switch s.Behavior {
	case "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous":
	default:
		return nil, fmt.Errorf("behavior %.60q is not supported", s.Behavior)
	}
	p := patternSplit{behavior: s.Behavior, invert: s.Invert}
	switch {
	case s.Pattern.String != nil:
		p.find = literalFinder(*s.Pattern.String)
	case s.Pattern.Regex != nil:
		if s.Behavior == "Isolated" && !s.Invert {
			if sc := knownScanner(*s.Pattern.Regex); sc != nil {
				return sc, nil
			}
		}
		var err error
		if p.find, err = newRegexFinder(*s.Pattern.Regex, maxMatchTime); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("type Split has no pattern")
	}
	return p, nil
}

// patternSplit cuts around the matches of a pattern.
type patternSplit struct {
	find     finder
	behavior string // what becomes of a match
	invert   bool   // what lies between matches counts as the match
}

// finder appends the matches of a pattern in s, in order, none of them empty. It may leave out
// those that it has not found at the deadline.
type finder func(dst []span, s string, deadline time.Time) []span

func (p patternSplit) split(dst []span, s string, at place) ([]span, string) {
	base := len(dst)
	done := 0
	for _, m := range p.find(nil, s, at.deadline) {
		if m.start > done {
			dst = append(dst, span{done, m.start, p.invert})
		}
		dst = append(dst, span{m.start, m.end, !p.invert})
		done = m.end
	}
	if done < len(s) {
		dst = append(dst, span{done, len(s), p.invert})
	}
	return dst[:base+fold(dst[base:], p.behavior)], s
}

// fold joins or drops pieces in place as the behaviour wants, and returns how many are left.
func fold(pieces []span, behavior string) int {
	if behavior == "Isolated" {
		return len(pieces)
	}
	n := 0
	wasMatch := false // of the piece before, as it was cut
	for _, p := range pieces {
		joins := false
		switch behavior {
		case "Removed":
			if p.match {
				continue
			}
		case "Contiguous":
			joins = n > 0 && wasMatch == p.match
		case "MergedWithPrevious":
			joins = n > 0 && p.match && !wasMatch
		case "MergedWithNext":
			joins = n > 0 && !p.match && wasMatch
		}
		wasMatch = p.match
		if joins {
			pieces[n-1].end = p.end
			continue
		}
		pieces[n] = p
		n++
	}
	return n
}

// literalFinder finds a string.
func literalFinder(text string) finder {
	return func(dst []span, s string, _ time.Time) []span {
		for at := 0; text != ""; {
			k := strings.Index(s[at:], text)
			if k < 0 {
				break
			}
			dst = append(dst, span{start: at + k, end: at + k + len(text)})
			at += k + len(text)
		}
		return dst
	}
}

// newRegexFinder compiles a regular expression; matchTime bounds the search for one match.
func newRegexFinder(pattern string, matchTime time.Duration) (finder, error) {
	if len(pattern) > maxPatternBytes {
		return nil, fmt.Errorf("pattern is longer than %d bytes", maxPatternBytes)
	}
	re, err := regexp2.Compile(pattern, regexp2.OptionMaxBacktrackingStackSize(maxMatchStack))
	if err != nil {
		reason, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fmt.Errorf("pattern %.200q does not compile: %s", pattern, reason)
	}
	re.MatchTimeout = matchTime
	return func(dst []span, s string, deadline time.Time) []span {
		return regexMatches(re, dst, s, deadline)
	}, nil
}

// regexMatches finds matches until the text or the time is over.
func regexMatches(re *regexp2.Regexp, dst []span, s string, deadline time.Time) []span {
	if !time.Now().Before(deadline) {
		return dst
	}
	runes := []rune(s) // an invalid byte becomes one U+FFFD, so both sides count alike
	index, at := 0, 0  // the same position in runes and in s
	to := func(i int) int {
		for ; index < i; index++ {
			_, w := utf8.DecodeRuneInString(s[at:])
			at += w
		}
		return at
	}
	// An error is a bound that was reached; the matches found before it stand.
	_ = re.FindRunesMatches(runes, 0, func(m regexp2.MatchView) bool {
		if i, n, ok := m.GroupRange(0); ok && n > 0 {
			dst = append(dst, span{start: to(i), end: to(i + n)})
		}
		return time.Now().Before(deadline)
	})
	return dst
}

// prefixSpace puts a space before a text that has none.
type prefixSpace struct{}

func (prefixSpace) split(dst []span, s string, _ place) ([]span, string) {
	if !strings.HasPrefix(s, " ") {
		s = " " + s
	}
	return append(dst, span{start: 0, end: len(s)}), s
}

// metaspace writes spaces as another character and begins a piece at each.
type metaspace struct {
	replacement string
	always      bool // put one before every text that has none
	atStart     bool // put one before the first text
	cut         bool
}

func newMetaspace(s step) (splitter, error) {
	if utf8.RuneCountInString(s.Replacement) != 1 {
		return nil, fmt.Errorf("type Metaspace: replacement %.60q is not one character", s.Replacement)
	}
	m := metaspace{replacement: s.Replacement, cut: s.Split == nil || *s.Split}
	switch s.PrependScheme {
	case "always", "":
		m.always = true
	case "first":
		m.atStart = true
	case "never":
	default:
		return nil, fmt.Errorf("type Metaspace: prepend_scheme %.60q is not supported", s.PrependScheme)
	}
	return m, nil
}

func (m metaspace) split(dst []span, s string, at place) ([]span, string) {
	s = strings.ReplaceAll(s, " ", m.replacement)
	if (m.always || m.atStart && at.first) && !strings.HasPrefix(s, m.replacement) {
		s = m.replacement + s
	}
	if !m.cut {
		return append(dst, span{start: 0, end: len(s)}), s
	}
	p := patternSplit{find: literalFinder(m.replacement), behavior: "MergedWithNext"}
	return p.split(dst, s, at)
}
