package pull_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"drover/internal/pull"
)

// hub serves the demo model as hubs do: it wants a token, and redirects to another host, which
// must not see it, by addresses that end after a hundred uses.
type hub struct {
	*httptest.Server
	commit string

	leaked    atomic.Bool
	byBranch  atomic.Int64 // files that were asked for by the branch
	ofWeights atomic.Int64 // redirects of weights files
	sent      atomic.Int64 // parts that were asked for at the other host

	sizes map[string]int

	mu     sync.Mutex // guards the fields below
	hashes map[string]string
	uses   map[string]int
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{commit: strings.Repeat("ab", 20), sizes: map[string]int{}, hashes: map[string]string{},
		uses: map[string]int{}}
	all, err := os.ReadDir(demo)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if b, err := os.ReadFile(filepath.Join(demo, e.Name())); err == nil { // no folder
			h.sizes[e.Name()], h.hashes[e.Name()] = len(b), fmt.Sprintf("%x", sha256.Sum256(b))
		}
	}
	cdn := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
			h.leaked.Store(true)
		}
		if !weights(r) || h.holds(r.URL.RawQuery) {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.redirect(w, r, cdn.URL)
	}))
	t.Cleanup(h.Close)
	return h
}

// holds tells whether an address may be used once more.
func (h *hub) holds(address string) bool {
	h.sent.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uses[address]++
	return h.uses[address] <= 100
}

func (h *hub) redirect(w http.ResponseWriter, r *http.Request, to string) {
	name, use := filepath.Base(r.URL.Path), int64(0)
	if r.Header.Get("Authorization") != "Bearer secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if strings.Contains(r.URL.Path, "/resolve/main/") {
		h.byBranch.Add(1)
	}
	if weights(r) {
		use = h.ofWeights.Add(1)
	}
	h.mu.Lock()
	hash := h.hashes[name]
	h.mu.Unlock()
	if hash == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("X-Repo-Commit", h.commit)
	w.Header().Set("X-Linked-Size", fmt.Sprint(h.sizes[name]))
	w.Header().Set("X-Linked-Etag", fmt.Sprintf("%q", hash))
	http.Redirect(w, r, fmt.Sprintf("%s/%s?%d", to, name, use), http.StatusFound)
}

func (h *hub) options(t *testing.T, secret string) pull.Options {
	o := options(t, "hf:org/name")
	o.Hub, o.Token = h.URL, token(secret)
	return o
}

func TestHub(t *testing.T) {
	h := newHub(t)
	r, err := pull.Model(t.Context(), h.options(t, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if h.leaked.Load() {
		t.Error("the token or an address went to another host")
	}
	// Once for each file, and by those that were under way when an address ended.
	if n := h.ofWeights.Load(); n > h.sent.Load()/3 {
		t.Errorf("the hub was asked %d times for %d parts", n, h.sent.Load())
	}
	if r.Revision != h.commit || h.byBranch.Load() != 1 || r.Checked != r.Files {
		t.Errorf("result = %+v, %d files asked for by branch, want 1", r, h.byBranch.Load())
	}
	_, err = pull.Model(t.Context(), h.options(t, "another"))
	if err == nil || strings.Contains(err.Error(), "another") || !strings.Contains(err.Error(), "401") {
		t.Errorf("with a wrong token: %v", err)
	}
}

// TestRestOfHub asks a hub for the rest by the commit that the directory is of, whatever its
// branch is by then, and refuses another file of that name.
func TestRestOfHub(t *testing.T) {
	h := newHub(t)
	o := h.options(t, "secret")
	var err error
	if o.Experts, err = pull.ParseRole("expertnode"); err != nil {
		t.Fatal(err)
	}
	if _, err := pull.Model(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	dir := &slice{openDir(t, o.Dir), o}
	one := expert(t, dir.ck, gateUp, 4)
	got, err := read(t.Context(), dir.rest(t, o), one)
	if err != nil || !bytes.Equal(got, expert(t, openDir(t, demo), gateUp, 4).Raw()) {
		t.Errorf("an expert differs from the source, or %v", err)
	}
	if h.byBranch.Load() != 1 || h.leaked.Load() {
		t.Errorf("%d files asked for by branch, want 1; another host saw the token: %v",
			h.byBranch.Load(), h.leaked.Load())
	}
	h.mu.Lock()
	h.hashes[filepath.Base(one.File())] = strings.Repeat("0", 64)
	h.mu.Unlock()
	_, err = read(t.Context(), dir.rest(t, o), one)
	if err == nil || !strings.Contains(err.Error(), "changed at the source") {
		t.Errorf("another file: %v", err)
	}
}
