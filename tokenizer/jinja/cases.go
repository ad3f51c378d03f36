package jinja

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// upper and lower use the full mappings, as Python does: "ß" becomes "SS".
func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Lower(language.Und).String(s)
}

// capitalize raises the first character and lowers the rest.
func capitalize(s string) string {
	i := byteIndex(s, 1)
	return titleChar(s[:i]) + lower(s[i:])
}

// titleChar is the title case of a string of one character: "ß" becomes "Ss".
func titleChar(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Title(language.Und).String(s)
}

func isCased(r rune) bool {
	return unicode.IsUpper(r) || unicode.IsLower(r) || unicode.IsTitle(r)
}

// title is Python's str.title: a letter is raised where no letter stands before it.
func title(s string) string {
	var b strings.Builder
	inWord := false
	for _, r := range s {
		if inWord {
			b.WriteString(lower(string(r)))
		} else {
			b.WriteString(titleChar(string(r)))
		}
		inWord = isCased(r)
	}
	return b.String()
}

// titleWords is the title filter: it splits at whitespace, brackets and hyphens only.
func titleWords(s string) string {
	isBorder := func(r rune) bool { return isSpace(r) || strings.ContainsRune("-({[<", r) }
	var b strings.Builder
	for s != "" {
		i := strings.IndexFunc(s, isBorder)
		if i < 0 {
			i = len(s)
		}
		if i > 0 {
			first := byteIndex(s, 1)
			b.WriteString(upper(s[:first]) + lower(s[first:i]))
		}
		rest := strings.TrimLeftFunc(s[i:], isBorder)
		b.WriteString(s[i : len(s)-len(rest)])
		s = rest
	}
	return b.String()
}

func swapcase(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			b.WriteString(lower(string(r)))
		} else {
			b.WriteString(upper(string(r)))
		}
	}
	return b.String()
}

// allRunes reports whether s is not empty and ok holds for all of it.
func allRunes(s string, ok func(rune) bool) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
}

func isAlnum(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

// isUniform reports whether s has cased letters, and none of the other case.
func isUniform(s string, is func(rune) bool) bool {
	found := false
	for _, r := range s {
		if isCased(r) && !is(r) {
			return false
		}
		found = found || is(r)
	}
	return found
}
