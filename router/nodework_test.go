package router

import (
	"fmt"
	"testing"
)

// TestWorkCountsAreBounded has nodes come and go whose IDs change for ever, beside some that
// stay: counts are kept of those that are there and of those that left last.
func TestWorkCountsAreBounded(t *testing.T) {
	w := workCounts{byID: map[string]*workCount{}}
	stays := w.enter("stays", 2)
	stays.rows.Add(7)
	name := func(i int) string { return fmt.Sprintf("n%d", i) }
	const nodes = 3 * maxGone
	for i := range nodes {
		w.enter(name(i), 2).rows.Add(1)
		if w.enter("stays", 2) != stays { // another life of it
			t.Fatal("the counts of a node that stays begin anew")
		}
		w.leave(name(i))
		if i%3 == 0 { // it comes back, and leaves again
			if n := w.enter(name(i), 2).rows.Load(); n != 1 {
				t.Fatalf("%d rows counted of a node that comes back, want 1", n)
			}
			w.leave(name(i))
		}
		if want := min(i+1, maxGone) + 1; len(w.byID) != want || w.gone != want-1 {
			t.Fatalf("after %d nodes %d counts, %d of nodes that left, want %d and %d", i+1,
				len(w.byID), w.gone, want, want-1)
		}
	}
	for i, want := range map[int]bool{0: false, nodes - maxGone - 1: false,
		nodes - maxGone: true, nodes - 1: true} {
		if got := w.byID[name(i)] != nil; got != want {
			t.Errorf("node %d of %d is known: %t, want %t", i, nodes, got, want)
		}
	}
	w.leave("stays")
	if w.byID["stays"] != stays || len(w.byID) != maxGone || stays.rows.Load() != 7 {
		t.Errorf("the last that left is not kept, or more than %d are", maxGone)
	}
}
