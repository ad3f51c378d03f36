package tokenizer

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// A text without a place to cut takes time that grows little faster than its length.
func TestLongPieces(t *testing.T) {
	for _, family := range families {
		tok := load(t, family)
		for _, unit := range strings.Split("a he \t \n ! 1 中 é \u0301 A\u0301", " ") {
			size := 100_000
			if unit == "a" {
				size = 1_000_000
			}
			text := strings.Repeat(unit, size/len(unit))
			begin := time.Now()
			ids := tok.Encode(text)
			if d := time.Since(begin); d > 20*time.Second {
				t.Errorf("%s: %q×%d took %v", family, unit, len(text)/len(unit), d)
			}
			if got := tok.Decode(ids, false); got != text && family != "qwen" {
				t.Errorf("%s: %q×%d does not come back", family, unit, len(text)/len(unit))
			}
		}
	}
}

// The heap, the plain search and the cuts must agree.
func TestMergeWaysAgree(t *testing.T) {
	for _, family := range families {
		m := &load(t, family).merger
		x := newTexts(5)
		var w workspace
		for range 3000 {
			text := x.next()
			ids := m.symbols(nil, text)
			if len(ids) < 2 || len(ids) > shortPiece {
				continue
			}
			long := m.mergeLong(append([]int32{}, ids...), &w)
			if short := m.merge(ids, &w); fmt.Sprint(short) != fmt.Sprint(long) {
				t.Fatalf("%s: %q: search gives %v, heap %v", family, text, short, long)
			}
		}
	}
}

func TestCutsChangeNothing(t *testing.T) {
	tok, whole := load(t, "gemma"), load(t, "gemma")
	if tok.merger.joints == nil {
		t.Fatal("gemma's text is not cut")
	}
	whole.merger.joints = nil
	text := sample(t)
	if got, want := tok.Encode(text), whole.Encode(text); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Error("the cut sample gives other tokens")
	}
	x := newTexts(6)
	for range 5000 {
		text := x.next() + " " + x.next()
		if got, want := tok.Encode(text), whole.Encode(text); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q: with cuts %v, without %v", text, got, want)
		}
	}
}

// A general pattern that backtracks without end is bounded for the whole call, however many
// texts it is asked to split, and loses no text.
func TestPatternTimeIsBounded(t *testing.T) {
	tok, err := Parse("t.json", []byte(`{
		"added_tokens": [{"id": 2, "content": "<x>"}],
		"pre_tokenizer": {"type": "Split", "behavior": "Isolated",
			"pattern": {"Regex": "(?<=a{1,30000})b|[ab]"}},
		"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}`))
	if err != nil {
		t.Fatal(err)
	}
	const sections, letters = 8, 100_000
	begin := time.Now()
	ids := tok.Encode(strings.Repeat(strings.Repeat("a", letters)+"<x>", sections))
	if d := time.Since(begin); len(ids) != sections*(letters+1) || d > 4*maxSplitTime {
		t.Errorf("%d tokens after %v, want %d in seconds", len(ids), d, sections*(letters+1))
	}
}

func TestConcurrentUse(t *testing.T) {
	tok := load(t, "llama4")
	text := sample(t)[:20000]
	want := fmt.Sprint(tok.Encode(text))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if fmt.Sprint(tok.Encode(text)) != want {
					t.Error("concurrent Encode differs")
				}
			}
		})
	}
	wg.Wait()
}
