package role

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/checkpoint"
	"drover/internal/pull"
	"drover/internal/testcluster"
	"drover/kernel"
	"drover/model"
)

// without opens a model of which no weights are there.
func without(t *testing.T) *checkpoint.Checkpoint {
	t.Helper()
	dir := testcluster.HeadersOnly(t, testcluster.Path("models/tiny-maverick"))
	b, err := json.Marshal(checkpoint.Slice{Version: 1, Tags: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.SliceName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ck.Close() })
	return ck
}

// TestHasty asks a source that fails, or is slow, once, fails at once for a while, and asks again
// then.
func TestHasty(t *testing.T) {
	ck := without(t)
	opts := model.Options{Mode: kernel.BF16}
	source, err := model.OpenExperts(ck, opts)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("the source is away")
		var answer error
		asked, took := 0, time.Duration(0)
		h := &hasty{Source: source, ck: ck, opts: opts, read: func(ctx context.Context,
			one checkpoint.Tensor, use func([]byte) error) error {
			asked++
			time.Sleep(took)
			if answer != nil {
				return answer
			}
			at := one.Range()
			return use(make([]byte, at.End-at.Begin))
		}}
		load := func(ctx context.Context, want error, wantAsked int) {
			t.Helper()
			asked = 0
			e, err := h.LoadContext(ctx, 1, 0)
			if !errors.Is(err, want) || (e == nil) != (want != nil) || asked != wantAsked {
				t.Errorf("after %d questions: expert %v, %v; want %d and %v", asked, e != nil, err, wantAsked,
					want)
			}
		}
		const matrices = 2
		load(t.Context(), nil, matrices)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		answer = context.Canceled
		load(gone, context.Canceled, 1) // which says nothing of the source
		answer = away
		load(t.Context(), away, 1)
		answer = nil
		load(t.Context(), away, 0)
		time.Sleep(restPause - time.Nanosecond)
		load(t.Context(), away, 0)
		time.Sleep(time.Nanosecond)
		load(t.Context(), nil, matrices)
		took = restSlow
		load(t.Context(), nil, matrices)
		load(t.Context(), errSlow, 0)
		time.Sleep(2*took - time.Nanosecond)
		load(t.Context(), errSlow, 0)
		time.Sleep(time.Nanosecond)
		load(t.Context(), nil, matrices)
	})
}

// TestRestRefused wants a role not to begin with a source that cannot be meant.
func TestRestRefused(t *testing.T) {
	ck := without(t)
	var undo stack
	defer undo.run()
	if r, err := undo.rest(pull.Options{}, ck, nil); r != nil || err != nil {
		t.Errorf("without a source: %v, %v", r, err)
	}
	for source, says := range map[string]string{
		"ftp://host/":         "must be https",
		"http://192.0.2.1/":   "not encrypted",
		"https://192.0.2.1/m": "pull the directory again", // it has no tags
	} {
		if _, err := undo.rest(pull.Options{Source: source}, ck, nil); err == nil ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q in it", source, err, says)
		}
	}
}
