package packed

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"drover/kernel"
)

// FuzzCheck gives arbitrary bytes as a piece's file: only the very bytes that were
// written pass.
func FuzzCheck(f *testing.F) {
	l, err := newLayout("a", []kernel.Shape{{N: 1, K: 64, Format: kernel.WeightsInt8}})
	if err != nil {
		f.Fatal(err)
	}
	body := make([]byte, l.bodyBytes)
	for i := range body {
		body[i] = byte(i * 7)
	}
	sound := append(l.header(body, sha256.Sum256(body)), body...)
	f.Add(sound)
	f.Add(sound[:5000])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := l.check(b); (err == nil) != bytes.Equal(b, sound) {
			t.Fatalf("check of %d bytes: %v", len(b), err)
		}
	})
}
