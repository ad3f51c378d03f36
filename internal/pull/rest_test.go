package pull_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/checkpoint"
	"drover/internal/pull"
	"drover/model"
)

const (
	gateUp = "language_model.model.layers.1.feed_forward.experts.gate_up_proj"
	down   = "language_model.model.layers.1.feed_forward.experts.down_proj"
	shared = "language_model.model.layers.1.feed_forward.shared_expert.down_proj.weight"
)

// slice is a directory that was pulled for a role, open, with where it came from.
type slice struct {
	ck      *checkpoint.Checkpoint
	options pull.Options
}

func pullFor(t *testing.T, source, role string) *slice {
	t.Helper()
	o := options(t, source)
	var err error
	if o.Experts, err = pull.ParseRole(role); err != nil {
		t.Fatal(err)
	}
	if _, err := pull.Model(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return &slice{openDir(t, o.Dir), o}
}

func openDir(t *testing.T, dir string) *checkpoint.Checkpoint {
	t.Helper()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ck.Close() })
	return ck
}

func (s *slice) rest(t *testing.T, o pull.Options) *pull.Rest {
	t.Helper()
	r, err := pull.OpenRest(o, s.ck)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// read returns a copy of a tensor's bytes.
func read(ctx context.Context, r *pull.Rest, t checkpoint.Tensor) (b []byte, err error) {
	err = r.Tensor(ctx, t, func(src []byte) error {
		b = bytes.Clone(src)
		return nil
	})
	return b, err
}

// TestRest reads what a node's directory lacks from sources of all kinds.
func TestRest(t *testing.T) {
	s := newServer(t, nil)
	dir := pullFor(t, s.URL, "expertnode")
	t.Run("exactly", func(t *testing.T) { restExactly(t, s, dir) })
	t.Run("bad sources", func(t *testing.T) { restOfBadSources(t, dir) })
	t.Run("bounded", func(t *testing.T) { restIsBounded(t, s, dir) })
	t.Run("withdrawn", func(t *testing.T) { restWithdrawn(t, dir) })
	t.Run("old directory", func(t *testing.T) { restOfOldDirectory(t, dir) }) // which it spoils
}

// restExactly has the server send what is asked for and nothing else, and keeps none of it.
func restExactly(t *testing.T, s *server, dir *slice) {
	whole := openDir(t, demo)
	if dir.ck.Digest() != whole.Digest() {
		t.Error("a directory without experts has another digest than the whole")
	}
	if sent := s.weights.Load(); sent > whole.Bytes()/4 {
		t.Errorf("%d bytes of weights were sent for a directory without experts, of %d", sent, whole.Bytes())
	}
	if text := tensorOf(t, dir.ck, shared); text.Present() {
		t.Error("a node's directory has weights that no node reads")
	}
	r := dir.rest(t, dir.options)
	began, want := s.weights.Load(), int64(0)
	for _, name := range []string{gateUp, down} {
		for _, i := range []int{0, 7, 127} {
			one := expert(t, dir.ck, name, i)
			if one.Present() {
				t.Errorf("%s is there before it was pulled", one.Name)
			}
			got, err := read(t.Context(), r, one)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, expert(t, whole, name, i).Raw()) {
				t.Errorf("%s differs from the source", one.Name)
			}
			want += int64(len(got))
			if one.Present() || !errors.Is(one.Read(got), checkpoint.ErrAbsent) {
				t.Errorf("%s was kept", one.Name)
			}
		}
	}
	if sent := s.weights.Load() - began; sent != want || r.Bytes() != want {
		t.Errorf("%d bytes were sent and %d counted, want %d", sent, r.Bytes(), want)
	}
	if largest := int64(len(expert(t, whole, gateUp, 0).Raw())); r.MemoryBytes() != 2*largest {
		t.Errorf("%d bytes of memory are told, want twice %d", r.MemoryBytes(), largest)
	}
	if _, err := read(t.Context(), r, tensorOf(t, dir.ck, gateUp)); !errors.Is(err, checkpoint.ErrAbsent) {
		t.Errorf("all experts at once: %v, want ErrAbsent", err)
	}
}

func tensorOf(t *testing.T, ck *checkpoint.Checkpoint, name string) checkpoint.Tensor {
	t.Helper()
	one, err := ck.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	return one
}

// TestCoordinatorsSlice wants everything there that a coordinator computes with, and no more.
func TestCoordinatorsSlice(t *testing.T) {
	s := newServer(t, nil)
	dir, whole := pullFor(t, s.URL, "coordinator"), openDir(t, demo)
	if dir.ck.Digest() != whole.Digest() {
		t.Error("the digest differs from that of the whole")
	}
	for _, name := range whole.Names() {
		got, want := tensorOf(t, dir.ck, name), tensorOf(t, whole, name)
		if text := model.PartOf(name) == model.TextPart; got.Present() != text {
			t.Errorf("%s: there %v, want %v", name, got.Present(), text)
		} else if text && !bytes.Equal(got.Raw(), want.Raw()) {
			t.Errorf("%s differs from the source", name)
		}
	}
	one := expert(t, dir.ck, down, 3)
	if got, err := read(t.Context(), dir.rest(t, dir.options), one); err != nil ||
		!bytes.Equal(got, expert(t, whole, down, 3).Raw()) {
		t.Errorf("an expert differs from the source, or %v", err)
	}
}

// TestRestOfLargeExperts reads an expert in several parts at a time.
func TestRestOfLargeExperts(t *testing.T) {
	from := largeModel(t)
	s := newServerOf(t, from, nil)
	dir := pullFor(t, s.URL, "expertnode")
	o := dir.options
	var began atomic.Int64
	o.Background, o.Streams = func() { began.Add(1) }, 3
	r := dir.rest(t, o)
	s.mu.Lock()
	s.asked = nil
	s.mu.Unlock()
	one := expert(t, dir.ck, large, 1)
	got, err := read(t.Context(), r, one)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, expert(t, openDir(t, from), large, 1).Raw()) {
		t.Error("the parts are not in their places")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// 512 KiB by three streams are parts of 192 KiB.
	if len(s.asked) != 3 || began.Load() < 1 || began.Load() > 3 {
		t.Errorf("%d parts were asked for, by %d goroutines, want 3", len(s.asked), began.Load())
	}
}

const large = "model.layers.0.feed_forward.experts.down_proj"

// largeModel makes a directory of a model with two experts of 512 KiB.
func largeModel(t *testing.T) string {
	t.Helper()
	const size = 512 << 10
	header := fmt.Sprintf(`{%q:{"dtype":"BF16","shape":[2,512,512],"data_offsets":[0,%d]}}`, large, 2*size)
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	for i := range size {
		b = binary.LittleEndian.AppendUint16(b, uint16(i*i))
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"model.safetensors": b,
		"config.json": []byte(`{"model_type":"llama4_text"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// restOfBadSources wants errors that say what the source did, and no weights.
func restOfBadSources(t *testing.T, dir *slice) {
	one := expert(t, dir.ck, down, 9)
	path := one.File()
	content, err := os.ReadFile(filepath.Join(demo, filepath.Base(path)))
	if err != nil {
		t.Fatal(err)
	}
	at := one.Range()
	clear(content[at.Begin:at.End])
	st, err := os.Stat(filepath.Join(demo, filepath.Base(path)))
	if err != nil {
		t.Fatal(err)
	}
	part := func(w http.ResponseWriter, total, length int) {
		w.Header().Set("Last-Modified", st.ModTime().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at.Begin, at.End-1, total))
		w.Header().Set("Content-Length", fmt.Sprint(at.End-at.Begin))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(content[at.Begin:][:length]) // who asked may be gone
	}
	all := int(at.End - at.Begin)
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
		tries  int64
	}{
		"no token": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
		}, "needs a token", 1},
		"gone": {http.NotFound, "404", 1},
		"away": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}, "503", 3},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, len(content), all/2)
		}, "unexpected EOF", 3},
		"another size": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, len(content)+2, all)
		}, "changed at the source", 1},
		"another tag": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"other"`)
			http.ServeContent(w, r, "", st.ModTime(), bytes.NewReader(content))
		}, `tag "other"`, 1},
		"other weights": {func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", st.ModTime(), bytes.NewReader(content))
		}, "are other weights", 1},
		"no parts": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Last-Modified", st.ModTime().UTC().Format(http.TimeFormat))
			_, _ = w.Write(content) // who asked may be gone
		}, "changed at the source", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var tries, retries atomic.Int64
			bad := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
				tries.Add(1)
				tc.answer(w, r)
				return true
			})
			o := dir.options
			o.Source = bad.URL
			o.Retrying = func(file string, why error) {
				retries.Add(1)
				if file != filepath.Base(path) || why == nil {
					t.Errorf("a try of %s failed with %v, want one of %s", file, why, filepath.Base(path))
				}
			}
			got, err := read(t.Context(), dir.rest(t, o), one)
			if err == nil || !strings.Contains(err.Error(), tc.want) || got != nil {
				t.Errorf("%d bytes and %v, want %q in the error", len(got), err, tc.want)
			}
			if tries.Load() != tc.tries || retries.Load() != tc.tries-1 {
				t.Errorf("%d tries, %d told, want %d", tries.Load(), retries.Load(), tc.tries)
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		down := newServer(t, nil)
		down.Close()
		o := dir.options
		o.Source = down.URL
		_, err := read(t.Context(), dir.rest(t, o), one)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("the error is %v", err)
		}
	})
}

// restIsBounded holds as many experts in memory as it may: one more waits, and asks for
// nothing.
func restIsBounded(t *testing.T, s *server, dir *slice) {
	r := dir.rest(t, dir.options)
	held, release := make(chan struct{}), make(chan struct{})
	var holding sync.WaitGroup
	for i := range 2 {
		holding.Go(func() {
			err := r.Tensor(t.Context(), expert(t, dir.ck, down, i), func([]byte) error {
				held <- struct{}{}
				<-release
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-held
	}
	before := s.weights.Load()
	ctx, cancel := context.WithCancelCause(t.Context())
	withdrawn := errors.New("withdrawn")
	cancel(withdrawn)
	if _, err := read(ctx, r, expert(t, dir.ck, down, 2)); !errors.Is(err, withdrawn) {
		t.Errorf("one more: %v, want it withdrawn", err)
	}
	if s.weights.Load() != before {
		t.Error("it was asked for")
	}
	close(release)
	holding.Wait()
	if _, err := read(t.Context(), r, expert(t, dir.ck, down, 2)); err != nil {
		t.Error(err)
	}
}

// restWithdrawn ends a request that the server does not answer.
func restWithdrawn(t *testing.T, dir *slice) {
	asked := make(chan struct{}, 8)
	s := newServer(t, func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	})
	o := dir.options
	o.Source, o.Stall = s.URL, time.Hour
	r := dir.rest(t, o)
	ctx, cancel := context.WithCancelCause(t.Context())
	withdrawn := errors.New("withdrawn")
	go func() {
		<-asked
		cancel(withdrawn)
	}()
	if _, err := read(ctx, r, expert(t, dir.ck, gateUp, 0)); !errors.Is(err, withdrawn) {
		t.Errorf("the error is %v, want that it was withdrawn", err)
	}
}

// restOfOldDirectory wants a directory refused that does not say what it was pulled from.
func restOfOldDirectory(t *testing.T, dir *slice) {
	if err := os.WriteFile(filepath.Join(dir.options.Dir, checkpoint.SliceName),
		[]byte(`{"version":1,"experts":"1/2","files":{}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := pull.OpenRest(dir.options, openDir(t, dir.options.Dir))
	if err == nil || !strings.Contains(err.Error(), "pull the directory again") {
		t.Errorf("the error is %v", err)
	}
	whole, err := pull.OpenRest(dir.options, openDir(t, demo))
	if err != nil {
		t.Fatalf("the rest of a whole model: %v", err)
	}
	whole.Close()
}
