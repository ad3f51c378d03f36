package tokenizer

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// The scanners here do by hand what a few widely used regular expressions do. Each is chosen by
// the exact text of its pattern, and the tests compare it with a general engine on random text.

const (
	contractions = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	// casedWords match a word with an optional character before it: first with a small letter
	// at its end, then with none. {C} is where contractions stand.
	casedWords = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+` +
		`{C}|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{C}|`
	plainWords = `[^\r\n\p{L}\p{N}]?\p{L}+|`
	spaces     = `|\s*[\r\n]+|\s+(?!\S)|\s+`
	notWords   = ` ?[^\s\p{L}\p{N}]+`
	deepSeek   = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|" +
		`[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*` + spaces
)

// knownScanner returns the scanner for a pattern, or nil.
func knownScanner(pattern string) splitter {
	cl := classes()
	switch pattern {
	case strings.ReplaceAll(casedWords, "{C}", contractions+"?") + `\p{N}{1,3}|` +
		notWords + `[\r\n/]*` + spaces: // Llama 4, o200k
		return &wordScanner{classes: cl, cased: true, trailing: true, digits: 3, slash: true}
	case strings.ReplaceAll(casedWords, "{C}", "") + `\p{N}|` +
		notWords + `[\r\n/]*` + spaces: // Mistral's tekken
		return &wordScanner{classes: cl, cased: true, digits: 1, slash: true}
	case contractions + `|` + plainWords + `\p{N}{1,3}|` +
		notWords + `[\r\n]*` + spaces: // Llama 3, cl100k
		return &wordScanner{classes: cl, leading: true, digits: 3}
	case contractions + `|` + plainWords + `\p{N}|` +
		notWords + `[\r\n]*` + spaces: // Qwen
		return &wordScanner{classes: cl, leading: true, digits: 1}
	case `\p{N}{1,3}`:
		return &runScanner{classes: cl, in: isNumber, most: 3}
	case `[一-龥぀-ゟ゠-ヿ]+`:
		return &runScanner{classes: cl, in: isKanjiKana, most: 1 << 62}
	case deepSeek, strings.Replace(deepSeek, `"`, `\"`, 1):
		return &deepSeekScanner{classes: cl}
	}
	return nil
}

// Classes of characters, as bits. \p{L} is split into what may begin a word in capitals and what
// may end one; modifiers, other letters and marks may do both.
const (
	isUpper   = 1 << iota // Lu Lt Lm Lo M
	isLower               // Ll Lm Lo M
	isLetter              // L
	isMark                // M
	isNumber              // N
	isSpace               // \s
	isSymbol              // P S
	isNewline             // \r \n
)

// isKanjiKana is not a bit of the table: runScanner asks for it by range.
const isKanjiKana = 0

type classTable [unicode.MaxRune + 1]uint8

// classes is the class of every character, 1.1 MB, made when it is first needed.
var classes = sync.OnceValue(func() *classTable {
	t := new(classTable)
	set := func(bits uint8, tables ...*unicode.RangeTable) {
		for _, rt := range tables {
			for _, r := range rt.R16 {
				for c := int(r.Lo); c <= int(r.Hi); c += int(r.Stride) {
					t[c] |= bits
				}
			}
			for _, r := range rt.R32 {
				for c := int(r.Lo); c <= int(r.Hi); c += int(r.Stride) {
					t[c] |= bits
				}
			}
		}
	}
	set(isUpper|isLetter, unicode.Lu, unicode.Lt)
	set(isLower|isLetter, unicode.Ll)
	set(isUpper|isLower|isLetter, unicode.Lm, unicode.Lo)
	set(isUpper|isLower|isMark, unicode.M)
	set(isNumber, unicode.N)
	set(isSpace, unicode.White_Space)
	set(isSymbol, unicode.P, unicode.S)
	t['\r'] |= isNewline
	t['\n'] |= isNewline
	return t
})

// at is the class of the character at s[i] and its size in bytes.
func (t *classTable) at(s string, i int) (uint8, int) {
	if c := s[i]; c < utf8.RuneSelf {
		return t[c], 1
	}
	r, w := utf8.DecodeRuneInString(s[i:])
	return t[r], w
}

// run is the end of the characters from i on that have one of the wanted classes.
func (t *classTable) run(s string, i int, want uint8) int {
	for i < len(s) {
		c, w := t.at(s, i)
		if c&want == 0 {
			break
		}
		i += w
	}
	return i
}

// runWithout is the end of the characters from i on that have none of the classes.
func (t *classTable) runWithout(s string, i int, bar uint8) int {
	for i < len(s) {
		c, w := t.at(s, i)
		if c&bar != 0 {
			break
		}
		i += w
	}
	return i
}

// spaceEnd is the end of what \s*[\r\n]+|\s+(?!\S)|\s+ matches at i, which is a space: up to the
// last line break, or all but the last space before a word, or all.
func (t *classTable) spaceEnd(s string, i int) int {
	lineEnd, last := -1, i
	j := i
	for j < len(s) {
		c, w := t.at(s, j)
		if c&isSpace == 0 {
			break
		}
		last = j
		j += w
		if c&isNewline != 0 {
			lineEnd = j
		}
	}
	switch {
	case lineEnd >= 0:
		return lineEnd
	case j == len(s) || last == i:
		return j
	}
	return last
}

// wordScanner splits into words, numbers, runs of symbols, and spaces.
type wordScanner struct {
	classes  *classTable
	cased    bool // a capital after a small letter begins a word
	leading  bool // 's and its like are words of their own
	trailing bool // 's and its like belong to the word before
	digits   int  // the most digits in a piece
	slash    bool // slashes after symbols belong to them, like line breaks
}

func (sc *wordScanner) split(dst []span, s string, _ place) ([]span, string) {
	for i := 0; i < len(s); {
		j := sc.next(s, i)
		dst = append(dst, span{i, j, true})
		i = j
	}
	return dst, s
}

// next is the end of the piece that begins at i. The order of its cases is the order of the
// alternatives in the pattern.
func (sc *wordScanner) next(s string, i int) int {
	if sc.leading && s[i] == '\'' {
		if n := contraction(s[i:]); n > 0 {
			return i + n
		}
	}
	c, w := sc.classes.at(s, i)
	if j := sc.word(s, i, c, w); j > i {
		return j
	}
	if c&isNumber != 0 {
		for n := 0; n < sc.digits && i < len(s); n++ {
			c, w := sc.classes.at(s, i)
			if c&isNumber == 0 {
				break
			}
			i += w
		}
		return i
	}
	begin := i
	if s[i] == ' ' {
		begin++
	}
	const bar = isSpace | isLetter | isNumber
	if j := sc.classes.runWithout(s, begin, bar); j > begin {
		for j < len(s) && (s[j] == '\n' || s[j] == '\r' || sc.slash && s[j] == '/') {
			j++
		}
		return j
	}
	return sc.classes.spaceEnd(s, i)
}

// word is the end of a word at i with the character before it that the pattern allows, or 0. c
// and w are class and size of the first character.
func (sc *wordScanner) word(s string, i int, c uint8, w int) int {
	prefix := c&(isNewline|isLetter|isNumber) == 0
	if !sc.cased {
		begin := i
		if prefix {
			begin += w
		}
		if j := sc.classes.run(s, begin, isLetter); j > begin {
			return j
		}
		return 0
	}
	var lower, upper, withLower, withUpper int
	if prefix {
		withLower, withUpper = sc.casedWord(s, i+w)
	}
	if c&(isUpper|isLower) != 0 && withLower == 0 {
		lower, upper = sc.casedWord(s, i)
	}
	for _, j := range [...]int{withLower, lower, withUpper, upper} {
		if j > 0 {
			if sc.trailing && j < len(s) && s[j] == '\'' {
				j += contraction(s[j:])
			}
			return j
		}
	}
	return 0
}

// casedWord matches capitals and then small letters at i: lower is the end when at least one
// character can count as small, upper the end otherwise; 0 means no match.
func (sc *wordScanner) casedWord(s string, i int) (lower, upper int) {
	j := i
	for j < len(s) {
		c, w := sc.classes.at(s, j)
		if c&isUpper == 0 {
			break
		}
		j += w
		if c&isLower != 0 {
			lower = j
		}
	}
	if j > i {
		upper = j
	}
	if k := sc.classes.run(s, j, isLower); k > j {
		lower = k
	}
	return lower, upper
}

// contraction is the length of an English ending such as 's at the start of s, or 0. Case is
// folded as Unicode does: U+017F, the long s, is an s too.
func contraction(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] | 0x20 {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && s[2]|0x20 == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && s[2]|0x20 == 'l' {
			return 3
		}
	}
	if strings.HasPrefix(s[1:], "ſ") {
		return 1 + len("ſ")
	}
	return 0
}

// runScanner isolates runs of one class, at most so many characters long.
type runScanner struct {
	classes *classTable
	in      uint8
	most    int
}

func (sc *runScanner) split(dst []span, s string, _ place) ([]span, string) {
	begin, n := 0, 0 // of the piece at hand; n is 0 between runs
	for i := 0; i < len(s); {
		inside, w := sc.has(s, i)
		if i > begin && (inside != (n > 0) || n == sc.most) {
			dst = append(dst, span{begin, i, n > 0})
			begin, n = i, 0
		}
		if inside {
			n++
		}
		i += w
	}
	if begin < len(s) {
		dst = append(dst, span{begin, len(s), n > 0})
	}
	return dst, s
}

// has says whether the character at s[i] belongs to a run, and its size.
func (sc *runScanner) has(s string, i int) (bool, int) {
	if sc.in != isKanjiKana {
		c, w := sc.classes.at(s, i)
		return c&sc.in != 0, w
	}
	if s[i] < utf8.RuneSelf {
		return false, 1
	}
	r, w := utf8.DecodeRuneInString(s[i:])
	return '一' <= r && r <= '龥' || '\u3040' <= r && r <= '\u30ff', w
}

// deepSeekScanner is the last of DeepSeek's three patterns. Unlike the others it leaves
// characters unmatched; a run of these is a piece.
type deepSeekScanner struct {
	classes *classTable
}

func (sc *deepSeekScanner) split(dst []span, s string, _ place) ([]span, string) {
	begin := 0 // of what is unmatched
	for i := 0; i < len(s); {
		j := sc.match(s, i)
		if j == i {
			_, w := sc.classes.at(s, i)
			i += w
			continue
		}
		if begin < i {
			dst = append(dst, span{begin, i, false})
		}
		dst = append(dst, span{i, j, true})
		i, begin = j, j
	}
	if begin < len(s) {
		dst = append(dst, span{begin, len(s), false})
	}
	return dst, s
}

// match is the end of the match at i, or i.
func (sc *deepSeekScanner) match(s string, i int) int {
	c, w := sc.classes.at(s, i)
	if s[i] < utf8.RuneSelf && c&isSymbol != 0 {
		j := i + 1
		for j < len(s) && 'a' <= s[j]|0x20 && s[j]|0x20 <= 'z' {
			j++
		}
		if j > i+1 {
			return j
		}
	}
	begin := i
	if c&(isNewline|isLetter|isSymbol) == 0 {
		begin += w
	}
	if j := sc.classes.run(s, begin, isLetter|isMark); j > begin {
		return j
	}
	if c&isMark != 0 {
		return i + w
	}
	begin = i
	if s[i] == ' ' {
		begin++
	}
	if j := sc.classes.run(s, begin, isSymbol); j > begin {
		for j < len(s) && (s[j] == '\n' || s[j] == '\r') {
			j++
		}
		return j
	}
	if c&isSpace != 0 {
		return sc.classes.spaceEnd(s, i)
	}
	return i
}
