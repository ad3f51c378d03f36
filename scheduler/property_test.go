package scheduler

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// life is what the property test knows of one sequence.
type life struct {
	Sequence
	tokens []int32 // prompt and committed results
	next   int     // position that must run next
	scored int
	held   bool
}

// TestProperties drives a scheduler at random and checks after each step that no block is
// lost or used twice, that every life computes its tokens once and in order (S2), that the
// budget holds, and in the end that every sequence finishes (S1).
func TestProperties(t *testing.T) { rapid.Check(t, checkProperties) }

func drawOptions(t *rapid.T) Options {
	o := Options{
		BlockTokens:      rapid.IntRange(1, 4).Draw(t, "block"),
		MaxSequences:     rapid.IntRange(1, 5).Draw(t, "sequences"),
		MaxWaiting:       rapid.IntRange(1, 5).Draw(t, "waiting"),
		MaxPrefillTokens: rapid.IntRange(1, 9).Draw(t, "prefill"),
		MaxScoreTokens:   rapid.IntRange(1, 5).Draw(t, "score"),
	}
	o.MaxBatchTokens = o.MaxSequences + rapid.IntRange(0, 8).Draw(t, "batch")
	for range rapid.IntRange(1, 3).Draw(t, "groups") {
		o.Groups = append(o.Groups, Group{
			Blocks: rapid.IntRange(1, 12).Draw(t, "blocks"),
			Chunk:  rapid.IntRange(0, 6).Draw(t, "chunk"),
		})
	}
	return o
}

func checkProperties(t *rapid.T) {
	o := drawOptions(t)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	lives := map[uint64]*life{}
	var lastID uint64
	longest := min(s.LongestTokens(), 40)
	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			lastID++
			q := Sequence{ID: lastID, Limit: rapid.IntRange(1, longest).Draw(t, "limit"),
				Score: rapid.IntRange(0, 3).Draw(t, "kind") == 0}
			q.Prompt = make([]int32, rapid.IntRange(1, q.Limit).Draw(t, "prompt"))
			for i := range q.Prompt {
				q.Prompt[i] = int32(q.ID)*1000 + int32(i)
			}
			err := s.Add(q)
			if full := len(lives) == o.MaxSequences+o.MaxWaiting; full != (err != nil) {
				t.Fatalf("Add with %d open: %v", len(lives), err)
			}
			if err == nil {
				lives[q.ID] = &life{Sequence: q, tokens: slices.Clone(q.Prompt)}
			}
		},
		"cancel": func(t *rapid.T) {
			id := rapid.Uint64Range(1, lastID+1).Draw(t, "id")
			if got, want := s.Cancel(id), lives[id] != nil; got != want {
				t.Fatalf("Cancel(%d) = %v, want %v", id, got, want)
			}
			delete(lives, id)
		},
		"hold": func(t *rapid.T) {
			id := rapid.Uint64Range(1, lastID+1).Draw(t, "id")
			hold := rapid.Bool().Draw(t, "hold")
			if hold {
				s.Hold(id)
			} else {
				s.Release(id)
			}
			if l := lives[id]; l != nil {
				l.held = hold
			}
		},
		"step": func(t *rapid.T) {
			finish := rapid.Uint64().Draw(t, "finish")
			fail := rapid.IntRange(0, 9).Draw(t, "fail") == 0
			step(t, s, lives, finish, fail)
		},
		"": func(t *rapid.T) { checkBlocks(t, s) },
	})
	for id, l := range lives {
		s.Release(id)
		l.held = false
	}
	for range 200 * (len(lives) + 1) {
		step(t, s, lives, 0, false)
		checkBlocks(t, s)
	}
	if st := s.Stats(); len(lives) != 0 || st.Running+st.Waiting+st.BlocksUsed != 0 {
		t.Fatalf("at the end %d sequences are left, %+v", len(lives), st)
	}
}

// step runs one batch. Bits of finish choose the sequences that end before their limit.
func step(t *rapid.T, s *Scheduler, lives map[uint64]*life, finish uint64, fail bool) {
	b, ok := s.Next()
	if !ok {
		for id, l := range lives {
			if !l.held {
				t.Fatalf("nothing to run, but sequence %d waits", id)
			}
		}
		return
	}
	total := 0
	results := make([]Result, len(b.Parts))
	for i, p := range b.Parts {
		l := lives[p.ID]
		if l == nil || l.held || len(p.Tokens) == 0 {
			t.Fatalf("part %+v of a sequence that is gone or held", p)
		}
		total += len(p.Tokens)
		checkPart(t, s, p, l)
		if p.Logits > 0 && !l.Score {
			results[i] = Result{Token: int32(p.ID)*1000 + int32(len(l.tokens)),
				Finish: len(l.tokens) == l.Limit || finish>>(p.ID%64)&1 == 1}
		}
		advance(p, l, results[i], lives)
	}
	if total > s.opts.MaxBatchTokens {
		t.Fatalf("%d tokens in a batch, at most %d allowed", total, s.opts.MaxBatchTokens)
	}
	if fail {
		for _, p := range b.Parts {
			delete(lives, p.ID)
		}
		s.Fail(b)
		return
	}
	s.Commit(b, results)
}

// checkPart checks one part against what must run next.
func checkPart(t *rapid.T, s *Scheduler, p Part, l *life) {
	end := p.Start + len(p.Tokens)
	if p.Start != l.next && p.Start != 0 {
		t.Fatalf("sequence %d runs from %d, want %d or 0", p.ID, p.Start, l.next)
	}
	if len(p.Tokens) > s.opts.MaxPrefillTokens || end > len(l.tokens) ||
		!slices.Equal(p.Tokens, l.tokens[p.Start:end]) {
		t.Fatalf("sequence %d runs %v from %d of %v", p.ID, p.Tokens, p.Start, l.tokens)
	}
	want := 0
	if l.Score {
		want = max(0, end-max(l.scored, p.Start))
		if want > s.opts.MaxScoreTokens {
			t.Fatalf("%d logits of a scored sequence", want)
		}
	} else if end == len(l.tokens) {
		want = 1
	}
	if p.Logits != want {
		t.Fatalf("part %+v: want %d logits", p, want)
	}
	for g, table := range p.Tables {
		first, chunk := 0, s.opts.Groups[g].Chunk
		if chunk > 0 {
			first = p.Start - p.Start%chunk
		}
		if len(table)*s.opts.BlockTokens < end {
			t.Fatalf("table %v is too short for %d positions", table, end)
		}
		if slices.Contains(table[first/s.opts.BlockTokens:], -1) {
			t.Fatalf("table %v misses blocks from position %d on", table, first)
		}
	}
}

// advance moves the test's own picture of a sequence over a part.
func advance(p Part, l *life, r Result, lives map[uint64]*life) {
	l.next = p.Start + len(p.Tokens)
	switch {
	case l.Score:
		l.scored = max(l.scored, l.next)
		if l.scored == len(l.tokens) {
			delete(lives, p.ID)
		}
	case p.Logits == 0:
	case r.Finish:
		delete(lives, p.ID)
	default:
		l.tokens = append(l.tokens, r.Token)
	}
}

// checkBlocks checks that each block is free or in exactly one table.
func checkBlocks(t *rapid.T, s *Scheduler) {
	for g := range s.pools {
		owners := make([]int, s.pools[g].blocks)
		for _, b := range s.pools[g].free {
			owners[b]++
		}
		for _, q := range s.byID {
			for i, b := range q.tables[g] {
				if b >= 0 {
					owners[b]++
				} else if i >= q.passed[g] {
					t.Fatalf("table %v: freed block %d is not counted", q.tables[g], i)
				}
			}
		}
		for b, n := range owners {
			if n != 1 {
				t.Fatalf("group %d block %d has %d owners", g, b, n)
			}
		}
	}
}
