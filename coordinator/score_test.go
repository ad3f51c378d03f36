package coordinator

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

func TestScore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(32)
		f.before = slow
		o := small
		o.AllowScore = true
		c := start(t, f, nil, o)
		var wg sync.WaitGroup
		for n := range 8 { // as many as may be open, in a cache where they preempt
			wg.Go(func() {
				ids := append(promptOf(n), promptOf(n+1)...)
				cl := &client[droverv1.ScoreResponse]{ctx: t.Context()}
				cl.gate = func() error { time.Sleep(100 * time.Microsecond); return nil }
				err := c.Score(&droverv1.ScoreRequest{TokenIds: ids, WithExperts: n%2 == 0}, cl)
				if err != nil || len(cl.got) != len(ids) {
					t.Errorf("%d of %d positions, %v", len(cl.got), len(ids), err)
					return
				}
				for p, m := range cl.got {
					checkScore(t, m, ids[:p+1], n%2 == 0)
				}
			})
		}
		for n := range 8 {
			wg.Go(func() {
				want, _ := f2().greedy(promptOf(n), 20)
				a := generate(t.Context(), c, tokensRequest(promptOf(n), 20))
				if !slices.Equal(a.ids, want) {
					t.Errorf("beside scoring: %v, want %v", a, want)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if c.scores != 0 || c.Stats().BlocksUsed != 0 {
			t.Errorf("left over: %d scores, %+v", c.scores, c.Stats())
		}
	})
}

// checkScore checks the result of the last of tokens.
func checkScore(t *testing.T, m *droverv1.ScoreResponse, tokens []int32, experts bool) {
	t.Helper()
	last := len(tokens) - 1
	var want []byte
	for _, l := range f2().want(tokens) {
		want = binary.LittleEndian.AppendUint32(want, math.Float32bits(l))
	}
	if int(m.Position) != last || !slices.Equal(m.Logits, want) {
		t.Errorf("position %d is wrong (want %d)", m.Position, last)
	}
	if !experts {
		if len(m.Layers) != 0 {
			t.Errorf("experts that nobody asked for: %v", m.Layers)
		}
		return
	}
	for layer, got := range m.Layers {
		e, w := fakeExperts(tokens[last:], layer)
		if int(got.Layer) != layer || len(got.ExpertIds) != 2 || int32(got.ExpertIds[0]) != e[0] ||
			int32(got.ExpertIds[1]) != e[1] || !slices.Equal(got.Weights, w) {
			t.Errorf("position %d layer %d: %v, want %v %v", last, layer, got, e, w)
		}
	}
	if len(m.Layers) != 2 {
		t.Errorf("%d layers", len(m.Layers))
	}
}

// TestScoreIsBounded lets a client stop reading: the engine runs one more step for it at
// most, and no more requests than the bound are open.
func TestScoreIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := small
		o.AllowScore = true
		c := start(t, newFake(32), nil, o)
		open := make(chan struct{})
		var wg sync.WaitGroup
		for range maxScores {
			wg.Go(func() {
				cl := &client[droverv1.ScoreResponse]{ctx: t.Context()}
				cl.gate = func() error { <-open; return nil }
				err := c.Score(&droverv1.ScoreRequest{TokenIds: make([]int32, 60)}, cl)
				if err != nil || len(cl.got) != 60 {
					t.Errorf("%d of 60 positions, %v", len(cl.got), err)
				}
			})
		}
		synctest.Wait()
		before := c.Stats()
		time.Sleep(time.Hour)
		if st := c.Stats(); st.Steps != before.Steps || st.PrefillTokens > maxScores*30 {
			t.Errorf("%d tokens ran for clients that do not read", st.PrefillTokens)
		}
		want, _ := f2().greedy(promptOf(1), 20)
		if a := generate(t.Context(), c, tokensRequest(promptOf(1), 20)); !slices.Equal(a.ids, want) {
			t.Errorf("a request beside them: %v", a)
		}
		err := c.Score(&droverv1.ScoreRequest{TokenIds: []int32{1}},
			&client[droverv1.ScoreResponse]{ctx: t.Context()})
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more: %v", err)
		}
		close(open)
		wg.Wait()
	})
}

func TestScoreRefuses(t *testing.T) {
	allowed, forbidden := small, small
	allowed.AllowScore = true
	const invalid = codes.InvalidArgument
	for name, tc := range map[string]struct {
		opts Options
		req  *droverv1.ScoreRequest
		code codes.Code
	}{
		"not allowed": {forbidden, &droverv1.ScoreRequest{TokenIds: []int32{1}}, codes.PermissionDenied},
		"empty":       {allowed, &droverv1.ScoreRequest{}, invalid},
		"too long":    {allowed, &droverv1.ScoreRequest{TokenIds: make([]int32, 65)}, invalid},
		"vocabulary":  {allowed, &droverv1.ScoreRequest{TokenIds: []int32{32}}, invalid},
		"negative":    {allowed, &droverv1.ScoreRequest{TokenIds: []int32{-1}}, invalid},
		"model":       {allowed, &droverv1.ScoreRequest{Model: "x", TokenIds: []int32{1}}, invalid},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, newFake(32), nil, tc.opts)
			err := c.Score(tc.req, &client[droverv1.ScoreResponse]{ctx: t.Context()})
			if status.Code(err) != tc.code {
				t.Errorf("got %v, want %v", err, tc.code)
			}
		})
	}
}
