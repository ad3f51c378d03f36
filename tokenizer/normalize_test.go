package tokenizer

import (
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// Both ways must agree where x/text's is right.
func TestNormalizeLongEqualsLibrary(t *testing.T) {
	x := newTexts(7)
	for range 5000 {
		text := valid(x.next()) + "한ᄀ\u1161\u11a8\u0344" + valid(x.next())
		for _, forms := range [][2]norm.Form{
			{norm.NFC, norm.NFD}, {norm.NFD, norm.NFD},
			{norm.NFKC, norm.NFKD}, {norm.NFKD, norm.NFKD},
		} {
			got, want := normalizeLong(text, forms[0], forms[1]), forms[0].String(text)
			if got != want {
				t.Fatalf("form %d of %+q = %+q, want %+q", forms[0], text, got, want)
			}
		}
	}
}

// The wanted text is the reference library's.
func TestManyCombiningMarks(t *testing.T) {
	text := "a" + strings.Repeat("\u0301", 40) + "\u0316"
	want := "\u00e1\u0316" + strings.Repeat("\u0301", 39)
	if got := canonical(norm.NFC, norm.NFD)(text); got != want {
		t.Errorf("NFC = %+q, want %+q", got, want)
	}
}
