package tokenizer

import (
	"os"
	"strings"
	"testing"
)

// sample is text of many kinds: this package's own documents and code.
func sample(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{
		"../testdata/fixtures/README.md", "scan.go", "merge.go", "../models/train/domain.py",
		"../models/train/README.md",
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}

// go test -bench . -run ^$ ./tokenizer
func BenchmarkEncode(b *testing.B) {
	text := sample(b)
	for _, family := range families {
		b.Run(family, func(b *testing.B) {
			tok := load(b, family)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				tok.Encode(text)
			}
		})
	}
}

// BenchmarkEncodeCold encodes text of which nothing is in the cache.
func BenchmarkEncodeCold(b *testing.B) {
	text := sample(b)
	for _, family := range families {
		b.Run(family, func(b *testing.B) {
			tok := load(b, family)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				clear(tok.merger.cache.slots[:])
				tok.Encode(text)
			}
		})
	}
}

func BenchmarkEncodeOnePiece(b *testing.B) {
	for _, family := range families {
		b.Run(family, func(b *testing.B) {
			tok, text := load(b, family), strings.Repeat("a", 1e6)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text)
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	for _, family := range families {
		b.Run(family, func(b *testing.B) {
			tok := load(b, family)
			ids := tok.Encode(sample(b))
			s := tok.NewStream(true)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.Push(ids[i%len(ids)])
			}
		})
	}
}
