package tokenizer

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// familyPatterns are the regular expressions of a fixture's pre-tokenizer.
func familyPatterns(t testing.TB, family string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(fixtures, family, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f tokenizerFile
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	steps, err := flatten("pre_tokenizer", f.PreTokenizer, 0)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, s := range steps {
		if s.Pattern.Regex != nil {
			list = append(list, *s.Pattern.Regex)
		}
	}
	return list
}

// texts makes random strings in which the patterns' special cases are frequent.
type texts struct {
	rng    *rand.Rand
	tables []*unicode.RangeTable
}

func newTexts(seed uint64) *texts {
	return &texts{
		rng: rand.New(rand.NewPCG(seed, 0)),
		tables: []*unicode.RangeTable{
			unicode.Lu, unicode.Ll, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M, unicode.N,
			unicode.P, unicode.S, unicode.White_Space, unicode.C, unicode.Han,
			unicode.Hiragana, unicode.Katakana,
		},
	}
}

// fragments are what the patterns tell apart.
var fragments = []string{
	"a", "B", "xyz", "ABC", "Word", "camelCase", "it's", "'S", "'s", "'ſ", "'ll", "'lL", "'re",
	"'VE", "'m", "'d", "'T", "'", "''", "1", "22", "333", "4444", "²", "Ⅷ", "٣", " ", "  ", "   ",
	"\t", "\n", "\r", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085",
	"/", "//", "!", "?!", "...", "_", "-", "(", "é", "e\u0301", "\u0301", "\u0301\u0302", "ǅ", "ʰ",
	"中", "中文", "ひら", "カナ", "ー", "龥", "龦", "각", "ا", "👍", "👍🏽", "\u200d", "\u200b",
	"\x00", "\x7f", "€", "\ufffd", "\xff", "\xe2\x82", "İ", "ß", "K",
}

func (x *texts) next() string {
	var b strings.Builder
	for range 1 + x.rng.IntN(12) {
		switch x.rng.IntN(4) {
		case 0:
			b.WriteRune(x.rune())
		case 1:
			b.WriteByte(byte(x.rng.IntN(128)))
		default:
			b.WriteString(fragments[x.rng.IntN(len(fragments))])
		}
	}
	return b.String()
}

// rune picks a character of a random class.
func (x *texts) rune() rune {
	table := x.tables[x.rng.IntN(len(x.tables))]
	if n := x.rng.IntN(len(table.R16) + len(table.R32)); n < len(table.R16) {
		r := table.R16[n]
		steps := int(r.Hi-r.Lo) / int(r.Stride)
		return rune(r.Lo) + rune(x.rng.IntN(steps+1)*int(r.Stride))
	} else {
		r := table.R32[n-len(table.R16)]
		steps := int(r.Hi-r.Lo) / int(r.Stride)
		return rune(r.Lo) + rune(x.rng.IntN(steps+1)*int(r.Stride))
	}
}

// Each scanner must cut as the regular expression does that it stands for.
func TestScannersEqualTheirPatterns(t *testing.T) {
	seen := map[string]bool{}
	for _, family := range families {
		for _, pattern := range familyPatterns(t, family) {
			if seen[pattern] {
				continue
			}
			seen[pattern] = true
			scanner := knownScanner(pattern)
			if scanner == nil {
				t.Errorf("%s: no scanner for %q", family, pattern)
				continue
			}
			find, err := newRegexFinder(pattern, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, family, scanner, patternSplit{find: find, behavior: "Isolated"})
		}
	}
	if len(seen) != 7 {
		t.Errorf("the fixtures have %d patterns, want 7", len(seen))
	}
}

// soon is a place in which no test reaches the deadline.
func soon() place { return place{first: true, deadline: time.Now().Add(time.Minute)} }

func compare(t *testing.T, family string, scanner, general splitter) {
	t.Helper()
	x := newTexts(1)
	for range 20000 {
		s := x.next()
		got, _ := scanner.split(nil, s, soon())
		want, _ := general.split(nil, s, soon())
		if !slices.Equal(got, want) {
			t.Errorf("%s: %T cuts %q at %v, its pattern at %v", family, scanner, s, got, want)
			return
		}
	}
}

func TestSplitBehaviors(t *testing.T) {
	for _, tc := range []struct {
		behavior string
		invert   bool
		want     string
	}{
		{"Isolated", false, "the|-|final|-|-|countdown"},
		{"Removed", false, "the|final|countdown"},
		{"Removed", true, "-|-|-"},
		{"MergedWithPrevious", false, "the-|final-|-|countdown"},
		{"MergedWithNext", false, "the|-final|-|-countdown"},
		{"Contiguous", false, "the|-|final|--|countdown"},
	} {
		p := patternSplit{literalFinder("-"), tc.behavior, tc.invert}
		spans, s := p.split(nil, "the-final--countdown", soon())
		if got := joinSpans(s, spans); got != tc.want {
			t.Errorf("%s, invert %v: %s, want %s", tc.behavior, tc.invert, got, tc.want)
		}
	}
}

func joinSpans(s string, spans []span) string {
	var parts []string
	for _, sp := range spans {
		parts = append(parts, s[sp.start:sp.end])
	}
	return strings.Join(parts, "|")
}

func TestMetaspace(t *testing.T) {
	for _, tc := range []struct {
		m     metaspace
		text  string
		first bool
		want  string
	}{
		{metaspace{"▁", true, false, true}, "a bc", false, "▁a|▁bc"},
		{metaspace{"▁", false, true, true}, "a bc", false, "a|▁bc"},
		{metaspace{"▁", false, true, true}, "a bc", true, "▁a|▁bc"},
		{metaspace{"▁", false, false, false}, " a bc", true, "▁a▁bc"},
	} {
		spans, s := tc.m.split(nil, tc.text, place{first: tc.first})
		if got := joinSpans(s, spans); got != tc.want {
			t.Errorf("%+v of %q = %s, want %s", tc.m, tc.text, got, tc.want)
		}
	}
}
