package metrics

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"drover/internal/reload"
)

// maxTokenBytes bounds a token.
const maxTokenBytes = 4 << 10

// Token lets machines other than this one read metrics. It stands in a file that is followed.
type Token struct {
	hash  atomic.Pointer[[sha256.Size]byte]
	files *reload.Files
}

// OpenToken reads a token and follows its file until Close.
func OpenToken(path string, events reload.Events) (*Token, error) {
	t := &Token{}
	var err error
	if t.files, err = reload.Open([]string{path}, t.use, events); err != nil {
		return nil, fmt.Errorf("token for metrics in %s: %w", path, err)
	}
	return t, nil
}

// Close stops following the file.
func (t *Token) Close() { t.files.Close() }

// use takes the contents of the file.
func (t *Token) use(contents [][]byte) error {
	text := bytes.TrimSpace(contents[0])
	if len(text) == 0 || len(text) > maxTokenBytes {
		return fmt.Errorf("%d bytes, want a token of 1 to %d", len(text), maxTokenBytes)
	}
	if bytes.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("want one token, of printable ASCII characters without blanks")
	}
	hash := sha256.Sum256(text)
	t.hash.Store(&hash)
	return nil
}

// shownBy tells whether a request shows the token. It takes the same time for all others.
func (t *Token) shownBy(r *http.Request) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	got := sha256.Sum256([]byte(given))
	return ok && subtle.ConstantTimeCompare(t.hash.Load()[:], got[:]) == 1
}
