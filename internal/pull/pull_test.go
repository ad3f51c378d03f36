package pull_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drover/checkpoint"
	"drover/internal/pull"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const demo = "../../models/tiny-maverick"

// server serves a model, and may be told to misbehave.
type server struct {
	*httptest.Server
	before func(w http.ResponseWriter, r *http.Request) (handled bool)

	weights atomic.Int64 // bytes of weights files that were sent

	mu    sync.Mutex // guards the field below
	asked []string
}

func newServer(t *testing.T, before func(http.ResponseWriter, *http.Request) bool) *server {
	t.Helper()
	return newServerOf(t, demo, before)
}

func newServerOf(t *testing.T, dir string,
	before func(http.ResponseWriter, *http.Request) bool) *server {
	t.Helper()
	s := &server{before: before}
	files := http.FileServer(http.Dir(dir))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.URL.Path)
		s.mu.Unlock()
		if s.before != nil && s.before(w, r) {
			return
		}
		if weights(r) {
			w = &counting{w, &s.weights}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func weights(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".safetensors") }

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b))) // before who asked has them
	return c.ResponseWriter.Write(b)
}

func options(t *testing.T, source string) pull.Options {
	t.Helper()
	return pull.Options{Source: source, Dir: filepath.Join(t.TempDir(), "model"),
		Backoff: time.Millisecond, Tries: 3}
}

func token(text string) func() (string, error) {
	return func() (string, error) { return text, nil }
}

func digest(t *testing.T, dir string) string {
	t.Helper()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	return fmt.Sprintf("%x", ck.Digest())
}

func same(t *testing.T, dir, name string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(demo, name))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the source", name)
	}
}

func sums(t *testing.T) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(demo, "model-*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(b), filepath.Base(name))
	}
	return text.String()
}

func TestWholeModel(t *testing.T) {
	list := sums(t)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/SHA256SUMS" {
			return false
		}
		fmt.Fprint(w, list)
		return true
	})
	o := options(t, s.URL)
	var last [2]int
	o.Progress = func(done, total int) { last = [2]int{done, total} }
	r, err := pull.Model(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "tokenizer.json", "chat_template.jinja",
		"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
		"model-00003-of-00003.safetensors"} {
		same(t, o.Dir, name)
	}
	if want := digest(t, demo); r.Digest != want {
		t.Errorf("digest = %s, want %s", r.Digest, want)
	}
	if r.Checked != 3 || r.Bytes != r.Fetched || last[0] != last[1] {
		t.Errorf("result = %+v, last progress %v", r, last)
	}
	if left, _ := filepath.Glob(o.Dir + ".*"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if slices.Contains(s.asked, "/golden.jsonl") {
		t.Error("golden.jsonl was pulled")
	}
	if _, err := pull.Model(t.Context(), o); !errors.Is(err, pull.ErrExists) {
		t.Errorf("a second pull: %v, want ErrExists", err)
	}
	o.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(o.Dir, "notes"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pull.Model(t.Context(), o); err == nil || errors.Is(err, pull.ErrExists) {
		t.Errorf("a pull into a folder of somebody's: %v, want an error that is not ErrExists", err)
	}
}

func TestSlice(t *testing.T) {
	s := newServer(t, nil)
	o := options(t, s.URL)
	var err error
	if o.Experts, err = pull.ParseSlice("2/8"); err != nil {
		t.Fatal(err)
	}
	r, err := pull.Model(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest(t, demo); r.Digest != want {
		t.Errorf("digest of a slice = %s, want that of the whole, %s", r.Digest, want)
	}
	ck, err := checkpoint.Open(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	whole, err := checkpoint.Open(demo)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if sent := s.weights.Load(); sent > whole.Bytes()/2 {
		t.Errorf("%d bytes were sent for an eighth of the experts of %d", sent, whole.Bytes())
	}
	const name = "language_model.model.layers.3.feed_forward.experts.down_proj"
	for i := range 128 {
		got, want := expert(t, ck, name, i), expert(t, whole, name, i)
		b, wantBytes := make([]float32, got.Elements()), make([]float32, want.Elements())
		err := got.Float32(b)
		if i < 16 || i >= 32 {
			if !errors.Is(err, checkpoint.ErrAbsent) || got.Raw() != nil {
				t.Fatalf("expert %d, which is not of the slice: %v, want ErrAbsent", i, err)
			}
			continue
		}
		if err := errors.Join(err, want.Float32(wantBytes)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(b, wantBytes) {
			t.Fatalf("expert %d differs", i)
		}
	}
	gate, err := ck.Tensor("language_model.model.layers.1.feed_forward.router.weight")
	if err != nil {
		t.Fatal(err)
	}
	if err := gate.Float32(make([]float32, gate.Elements())); !errors.Is(err, checkpoint.ErrAbsent) {
		t.Errorf("the gate: %v, want ErrAbsent", err)
	}
}

func expert(t *testing.T, ck *checkpoint.Checkpoint, name string, i int) checkpoint.Tensor {
	t.Helper()
	all, err := ck.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	one, err := all.Index(i)
	if err != nil {
		t.Fatal(err)
	}
	return one
}

func TestResume(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	var parts atomic.Int64
	s := newServer(t, nil)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if weights(r) && parts.Add(1) == 200 {
			cancel(stop)
		}
		return false
	}
	o := options(t, s.URL)
	if _, err := pull.Model(ctx, o); !errors.Is(err, stop) {
		t.Fatalf("pull = %v, want it interrupted", err)
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("half a model has its name: %v", err)
	}
	o.Streams = 3 // it goes on with other options
	r, err := pull.Model(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	same(t, o.Dir, "model-00002-of-00003.safetensors")
	// 192 parts of 64 KiB or more had come, but for the eight that were under way.
	if had := r.Bytes - r.Fetched; had < 150*(64<<10) {
		t.Errorf("only %d bytes of the first pull were used", had)
	}
}

func TestDamageOnDisk(t *testing.T) {
	s := newServer(t, nil)
	o := options(t, s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	var parts atomic.Int64
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if weights(r) && parts.Add(1) == 400 {
			cancel()
		}
		return false
	}
	if _, err := pull.Model(ctx, o); err == nil {
		t.Fatal("the pull was not interrupted")
	}
	path := filepath.Join(o.Dir+".partial", "model-00001-of-00003.safetensors")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 100_000); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, 100_000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pull.Model(t.Context(), o); err == nil || !strings.Contains(err.Error(), "00001-of") {
		t.Fatalf("pull = %v, want a flipped bit refused", err)
	}
	if _, err := pull.Model(t.Context(), o); err != nil {
		t.Fatalf("the next pull: %v", err)
	}
	same(t, o.Dir, "model-00001-of-00003.safetensors")
}

func TestBadServers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(elsewhere.Close)
	list := sums(t)
	one := func(path string, answer http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != path {
				return false
			}
			answer(w, r)
			return true
		}
	}
	const shard = "/model-00001-of-00003.safetensors"
	part := func(header string, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", header)
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, body)
		}
	}
	for name, tc := range map[string]struct {
		before func(http.ResponseWriter, *http.Request) bool
		want   string
	}{
		"no configuration": {one("/config.json", http.NotFound), "404"},
		"needs a token": {one("/config.json", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
		}), "token"},
		"a web page": {one("/config.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, "<html>log in</html>")
		}), "web page"},
		"no JSON": {one("/config.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "<html>log in</html>")
		}), "no JSON"},
		"a path in the index": {one("/model.safetensors.index.json",
			func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, `{"weight_map":{"a":"../../x.safetensors"}}`)
			}), "plain file name"},
		"a shard is missing": {one(shard, http.NotFound), "no such file"},
		"another part":       {one(shard, part("bytes 8-15/4096", "01234567")), "were asked for"},
		"too long a part":    {one(shard, part("bytes 0-7/4096", "0123456789")), "were asked for"},
		"a huge file": {one(shard, part("bytes 0-7/1099511627777", "\x10\x00\x00\x00\x00\x00\x00\x00")),
			"must be 10 to"},
		"a huge header": {one(shard, part("bytes 0-7/1099511627776", "\xff\xff\xff\xff\xff\xff\xff\x7f")),
			"no safetensors file"},
		"no room": {one(shard, part("bytes 0-7/1099511627776", "\x10\x00\x00\x00\x00\x00\x00\x00")),
			"make room"},
		"always busy": {one(shard, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}), "503"},
		"always cut off": {one(shard, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-7/4096")
			w.Header().Set("Content-Length", "8")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, "0123")
		}), "unexpected EOF"},
		"a flipped bit": {one("/SHA256SUMS", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Replace(list, list[:4], flip(list[:4]), 1))
		}), "the source says"},
		"redirects without end": {one("/config.json", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/config.json", http.StatusFound)
		}), "redirects"},
		"a redirect to plain HTTP": {one("/config.json", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/config.json", http.StatusFound)
		}), "not encrypted"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, newServer(t, tc.before).URL)
			_, err := pull.Model(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("pull = %v, want %q in it", err, tc.want)
			}
			if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory is there: %v", err)
			}
		})
	}
}

func flip(digits string) string {
	return strings.Map(func(r rune) rune { return map[bool]rune{true: '1', false: '0'}[r == '0'] }, digits)
}

// TestUnknownAuthority tries a server once whose certificate nobody signed that is known.
func TestUnknownAuthority(t *testing.T) {
	var tries atomic.Int64
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			tries.Add(1)
		}
	}
	s.StartTLS()
	defer s.Close()
	_, err := pull.Model(t.Context(), options(t, s.URL))
	if err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Errorf("the error is %v", err)
	}
	if n := tries.Load(); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
}

func TestServerRecovers(t *testing.T) {
	var n atomic.Int64
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch i := n.Add(1); {
		case i%5 == 0:
			w.WriteHeader(http.StatusTooManyRequests)
		case i%7 == 0 && weights(r):
			w.Header().Set("Content-Length", "65536")
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+"/0")
			w.WriteHeader(http.StatusInternalServerError)
		default:
			return false
		}
		return true
	})
	o := options(t, s.URL)
	o.Tries = 30
	r, err := pull.Model(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest(t, demo); r.Digest != want {
		t.Errorf("digest = %s, want %s", r.Digest, want)
	}
}

func TestServerWithoutRanges(t *testing.T) {
	s := newServer(t, func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	})
	o := options(t, s.URL)
	if _, err := pull.Model(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	same(t, o.Dir, "model-00003-of-00003.safetensors")
	o = options(t, s.URL)
	o.Experts, _ = pull.ParseExperts("3")
	if _, err := pull.Model(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no parts") {
		t.Errorf("a slice: %v, want it refused", err)
	}
}

func TestSources(t *testing.T) {
	for _, source := range []string{"", "/models", "ftp://host/x", "https://", "https://a:b@host/x",
		"https://host/x?token=1", "hf:name", "hf:org/name/more", "hf:org/na me", "hf:org/name@",
		"hf:../name", "hf:org/..", "http://192.0.2.1/model"} {
		o := options(t, source)
		if _, err := pull.Model(t.Context(), o); err == nil {
			t.Errorf("source %q was accepted", source)
		} else if strings.Contains(err.Error(), "a:b") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

// TestForeignDirectory checks that a directory of somebody's own files is left alone.
func TestForeignDirectory(t *testing.T) {
	o := options(t, newServer(t, nil).URL)
	mine := filepath.Join(o.Dir+".partial", "mine")
	if err := os.MkdirAll(filepath.Dir(mine), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pull.Model(t.Context(), o); err == nil {
		t.Error("a pull wrote among somebody's files")
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}
