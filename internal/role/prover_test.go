package role

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestProver lets tries go well, fail and hang, and wants the coordinator to be ready
// exactly while its last proof is young and nothing has failed since.
func TestProver(t *testing.T) {
	well := func(context.Context) error { return nil }
	fails := func(context.Context) error { return errors.New("no replica") }
	hangs := func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	slow := func(ctx context.Context) error {
		time.Sleep(canaryTimeout - 100*time.Millisecond)
		return ctx.Err()
	}
	stuck := func(context.Context) error {
		time.Sleep(time.Minute)
		return errors.New("stuck")
	}
	type said []string
	for name, tc := range map[string]struct {
		tries []func(context.Context) error // one after another; the last again and again
		want  said
	}{
		"well":  {[]func(context.Context) error{well}, said{"ready"}},
		"slow":  {[]func(context.Context) error{slow}, said{"ready"}},
		"late":  {[]func(context.Context) error{fails, hangs, well}, said{"ready"}},
		"fails": {[]func(context.Context) error{well, well, fails, fails, well}, said{"ready", "no replica", "ready"}},
		"hangs": {[]func(context.Context) error{well, hangs, hangs, slow}, said{"ready", "deadline", "ready"}},
		"stuck": {[]func(context.Context) error{well, stuck, well}, said{"ready", "for 5s", "ready"}},
		"gone":  {[]func(context.Context) error{well, fails}, said{"ready", "no replica"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex // guards proved and got
				var proved time.Time
				var got said
				tries := slices.Clone(tc.tries)
				p := newProver(func(ctx context.Context) error {
					now := tries[0]
					tries = tries[min(1, len(tries)-1):]
					err := now(ctx)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						proved = time.Now()
					}
					return err
				}, func(unready error) {
					mu.Lock()
					defer mu.Unlock()
					if unready == nil {
						got = append(got, "ready")
					} else {
						got = append(got, unready.Error())
					}
				})
				if p.reason() == nil {
					t.Error("ready without a try")
				}
				ctx, cancel := context.WithCancel(t.Context())
				if err := p.wait(ctx, func(time.Duration, error) {}); err != nil {
					t.Fatal(err)
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					p.keep(ctx)
				}()
				for range 3000 {
					time.Sleep(33 * time.Millisecond)
					synctest.Wait()
					mu.Lock()
					age, last := time.Since(proved), got[len(got)-1]
					mu.Unlock()
					if age >= proofLasts && p.reason() == nil {
						t.Fatalf("ready %v after the last proof", age)
					}
					if ready := p.reason() == nil; ready != (last == "ready") {
						t.Fatalf("ready is %v, said was %q", ready, last)
					}
				}
				cancel()
				<-done
				if fmt.Sprint(len(got)) != fmt.Sprint(len(tc.want)) {
					t.Fatalf("said %q, want %q", got, tc.want)
				}
				for i := range got {
					if !strings.Contains(got[i], tc.want[i]) {
						t.Errorf("said %q, want %q", got, tc.want)
					}
				}
			})
		})
	}
}

// TestProverGivesUp ends the wait for a coordinator that is never ready.
func TestProverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProver(func(context.Context) error { return errors.New("no nodes") },
			func(error) { t.Error("it changed") })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		told := 0
		err := p.wait(ctx, func(since time.Duration, why error) {
			if told++; since <= 0 || why == nil {
				t.Errorf("waiting for %v: %v", since, why)
			}
		})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no nodes") {
			t.Errorf("wait = %v, want the deadline and the reason", err)
		}
		if told < 10 || told > 12 {
			t.Errorf("told %d times in a minute, want about one each 5 s", told)
		}
	})
}

func TestHolds(t *testing.T) {
	for revisions, want := range map[[2]uint64]bool{ // committed, loaded
		{}:     false, // no placement yet
		{0, 1}: false, // loaded an intent
		{1, 0}: false, // a life that has yet to load
		{1, 1}: true,
		{1, 2}: true, // loaded the next, too
		{3, 2}: false,
	} {
		var h holds
		h.committed.Store(revisions[0])
		h.loaded.Store(revisions[1])
		if h.ready() != want {
			t.Errorf("%v is ready: %v, want %v", revisions, !want, want)
		}
	}
}
