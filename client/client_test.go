package client

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	droverv1 "drover/proto/drover/v1"
)

// TestResumesWhenKilled kills the coordinator of an answer in its midst.
func TestResumesWhenKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeNode("a"), newFakeNode("b")
		var lost []Lost
		var resumed []Resumed
		c := pool(t, Options{Events: Events{Lost: func(l Lost) { lost = append(lost, l) },
			Resumed: func(r Resumed) { resumed = append(resumed, r) }}}, a, b)
		synctest.Wait()
		s := c.Generate(t.Context(), ask(20))
		first, second := a, b
		err := read(t, s, func(n int) {
			if n == 5 {
				if len(b.calls) > 0 {
					first, second = b, a
				}
				first.kill()
			}
		})
		if err != nil || s.Resumes() != 1 || len(lost) != 1 || len(resumed) != 1 {
			t.Fatalf("%v, resumed %d times, told %v %v", err, s.Resumes(), lost, resumed)
		}
		id := first.name + "-id"
		if l := lost[0]; l.RequestID != id || l.Address != first.name || l.Tokens != 5 || l.Err == nil {
			t.Errorf("told %+v", l)
		}
		if r := resumed[0]; r.RequestID != id || r.Address != second.name || r.Tokens != 5 ||
			r.After > time.Second {
			t.Errorf("told %+v", r)
		}
		got := second.calls[0].GetResume()
		if got.GetRequestId() != id || got.GetSeed() != 7 || len(got.GetTokenIds()) != 5 ||
			got.GetTextBytes() != uint64(5*len(word(0))) {
			t.Errorf("asked with %v", got)
		}
	})
}

// TestEveryCut ends streams anywhere, in every way that may go better elsewhere.
func TestEveryCut(t *testing.T) {
	errs := []error{status.Error(codes.Unavailable, "x"), status.Error(codes.Aborted, "x"),
		status.Error(codes.ResourceExhausted, "x"), status.Error(codes.Canceled, "x"), io.EOF}
	rapid.Check(t, func(rt *rapid.T) {
		cuts := rapid.SliceOfN(rapid.IntRange(0, 8), 0, 20).Draw(rt, "cuts")
		hows := rapid.SliceOfN(rapid.SampledFrom(errs), len(cuts), len(cuts)).Draw(rt, "errors")
		size := rapid.IntRange(0, 30).Draw(rt, "tokens")
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			calls := 0
			cut := func(int) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				if calls++; calls > len(cuts) {
					return -1, nil
				}
				return cuts[calls-1], hows[calls-1]
			}
			nodes := []*fake{newFakeNode("a"), newFakeNode("b"), newFakeNode("c")}
			for _, n := range nodes {
				n.cut = cut
			}
			c := pool(t, Options{}, nodes...)
			if err := read(t, c.Generate(t.Context(), ask(size)), nil); err != nil {
				t.Error(err)
			}
			c.Close()
			synctest.Wait()
			for _, n := range nodes {
				if n.open != 0 {
					t.Errorf("%d streams of %s are open", n.open, n.name)
				}
			}
		})
	})
}

// TestRefusals hands errors that are no better elsewhere to the caller at once.
func TestRefusals(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.FailedPrecondition,
		codes.Internal, codes.PermissionDenied, codes.NotFound, codes.DeadlineExceeded,
		codes.Unauthenticated, codes.Unimplemented, codes.Unknown, codes.DataLoss} {
		for after := range 3 {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFakeNode("a"), newFakeNode("b")
				a.cut = func(int) (int, error) { return after, status.Error(code, "no") }
				b.cut = a.cut
				s := pool(t, Options{}, a, b).Generate(t.Context(), ask(5))
				err := read(t, s, nil)
				if status.Code(err) != code || len(a.calls)+len(b.calls) != 1 {
					t.Errorf("%v after %d messages: got %v after %d calls", code, after, err,
						len(a.calls)+len(b.calls))
				}
				if _, again := s.Recv(); again != err {
					t.Errorf("the error changed to %v", again)
				}
			})
		}
	}
}

// TestBounds keeps waits within the deadline and within Patience (K2).
func TestBounds(t *testing.T) {
	t.Run("deadline, nobody there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeNode("a")
			a.up = false
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			began := time.Now()
			err := read(t, pool(t, Options{}, a).Generate(ctx, ask(5)), nil)
			if status.Code(err) != codes.DeadlineExceeded || time.Since(began) != 3*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
	t.Run("patience, nobody there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := newFakeNode("a"), newFakeNode("b")
			a.up, b.up = false, false
			c := pool(t, Options{Patience: 4 * time.Second}, a, b)
			for i, want := range []time.Duration{4 * time.Second, 0} { // then no more
				began := time.Now()
				err := read(t, c.Generate(t.Context(), ask(5)), nil)
				if status.Code(err) != codes.Unavailable || time.Since(began) != want ||
					!strings.Contains(err.Error(), "connection refused") {
					t.Errorf("request %d: %v after %v", i, err, time.Since(began))
				}
			}
			a.restart()
			time.Sleep(2 * time.Second)
			if err := read(t, c.Generate(t.Context(), ask(5)), nil); err != nil {
				t.Errorf("when one is back: %v", err)
			}
		})
	})
	t.Run("patience, all full", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeNode("a")
			a.cut = func(int) (int, error) { return 0, status.Error(codes.ResourceExhausted, "full") }
			began := time.Now()
			err := read(t, pool(t, Options{Patience: 10 * time.Second}, a).Generate(t.Context(), ask(5)),
				nil)
			took := time.Since(began)
			if status.Code(err) != codes.ResourceExhausted || took < 10*time.Second ||
				took > 12*time.Second || !strings.HasPrefix(status.Convert(err).Message(), "full (no") {
				t.Errorf("%v after %v", err, took)
			}
			if n := len(a.calls); n < 10 || n > 25 {
				t.Errorf("asked %d times in %v", n, took)
			}
		})
	})
	t.Run("too large for gRPC", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeNode("a")
			a.cut = func(int) (int, error) {
				return 0, status.Error(codes.ResourceExhausted,
					"grpc: received message larger than max (9000000 vs. 8388608)")
			}
			err := read(t, pool(t, Options{}, a).Generate(t.Context(), ask(5)), nil)
			if status.Code(err) != codes.ResourceExhausted || len(a.calls) != 1 {
				t.Errorf("%v after %d calls, want one", err, len(a.calls))
			}
		})
	})
	t.Run("progress renews patience", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeNode("a")
			a.cut = func(n int) (int, error) { // a token each sixth time
				return 1 + n%6/5, status.Error(codes.Unavailable, "x")
			}
			began := time.Now()
			s := pool(t, Options{Patience: 2 * time.Second}, a).Generate(t.Context(), ask(20))
			err := read(t, s, nil)
			if took := time.Since(began); err != nil || took < 4*time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
}

// TestSilence takes streams for lost that are silent, unless their coordinator is well or
// none is better.
func TestSilence(t *testing.T) {
	for name, tc := range map[string]struct {
		stuck, silent bool // what happens to the coordinator after three tokens
		here, there   healthv1.HealthCheckResponse_ServingStatus
		resumes       int
	}{
		"black hole":              {silent: true, here: serves, there: serves, resumes: 1},
		"black hole, none better": {silent: true, here: serves, there: servesNot, resumes: 1},
		"long prefill":            {stuck: true, here: serves, there: serves},
		"not ready":               {stuck: true, here: servesNot, there: serves, resumes: 1},
		"not ready, none better":  {stuck: true, here: servesNot, there: servesNot},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFakeNode("a"), newFakeNode("b")
				b.healthy = servesNot // so that a is chosen
				c := pool(t, Options{}, a, b)
				synctest.Wait()
				time.AfterFunc(time.Minute, func() {
					a.change(func() { a.stuck, a.silent = false, false })
				})
				began := time.Now()
				s := c.Generate(t.Context(), ask(10))
				err := read(t, s, func(n int) {
					if n == 3 {
						b.change(func() { b.healthy = tc.there })
						a.change(func() { a.stuck, a.silent, a.healthy = tc.stuck, tc.silent, tc.here })
					}
				})
				atMost := 2100 * time.Millisecond // StallAfter and the check
				if tc.resumes == 0 {
					atMost = time.Minute + time.Second
				}
				if took := time.Since(began); err != nil || s.Resumes() != tc.resumes || took > atMost {
					t.Errorf("%v, resumed %d times, took %v", err, s.Resumes(), took)
				}
			})
		})
	}
}

// TestOldCoordinator refuses to mix answers when a coordinator does not know Resume.
func TestOldCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeNode("a"), newFakeNode("b")
		b.old = true
		b.up = false
		c := pool(t, Options{}, a, b)
		synctest.Wait()
		s := c.Generate(t.Context(), ask(10))
		err := read(t, s, func(n int) {
			if n == 4 {
				b.restart()
				time.Sleep(2 * time.Second)
				a.kill()
			}
		})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "b did not resume") {
			t.Errorf("got %v", err)
		}
	})
}

// TestChoice spreads streams over what is ready, and over what is there if nothing is.
func TestChoice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := []*fake{newFakeNode("a"), newFakeNode("b"), newFakeNode("c")}
		c := pool(t, Options{}, nodes...)
		counts := func() (n []int) {
			synctest.Wait()
			for _, f := range nodes {
				n = append(n, f.open)
			}
			return n
		}
		begin := func(n int) (all []*Stream) {
			for range n {
				s := c.Generate(t.Context(), ask(100))
				if _, err := s.Recv(); err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			}
			return all
		}
		closeAll := func(all []*Stream) {
			for _, s := range all {
				s.Close()
			}
		}
		for _, tc := range []struct {
			name   string
			change func()
			want   []int
		}{
			{"all ready", func() {}, []int{4, 4, 4}},
			{"one is not", func() { nodes[0].change(func() { nodes[0].healthy = servesNot }) },
				[]int{0, 6, 6}},
			{"one is dead too", func() { nodes[1].kill() }, []int{0, 0, 12}},
			{"none is ready", func() { nodes[2].change(func() { nodes[2].healthy = servesNot }) },
				[]int{6, 0, 6}},
			{"one is ready again", func() { nodes[1].restart() }, []int{0, 12, 0}},
		} {
			tc.change()
			time.Sleep(3 * time.Second)
			all := begin(12)
			if got := counts(); !slices.Equal(got, tc.want) {
				t.Errorf("%s: %v streams, want %v", tc.name, got, tc.want)
			}
			closeAll(all)
			if got := counts(); !slices.Equal(got, []int{0, 0, 0}) {
				t.Errorf("%s: %v streams when all are closed", tc.name, got)
			}
		}
	})
}

// TestForgottenStreams ends streams by their context alone, without another Recv.
func TestForgottenStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeNode("a")
		c := pool(t, Options{}, a)
		ctx, cancel := context.WithCancel(t.Context())
		for range 5 {
			if _, err := c.Generate(ctx, ask(10)).Recv(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		synctest.Wait()
		if a.open != 0 || c.endpoints[0].active != 0 {
			t.Errorf("%d streams are open, %d count", a.open, c.endpoints[0].active)
		}
	})
}

// TestProbe looks whether anybody is there.
func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		up, ready bool
		ok        bool
	}{"nobody": {}, "not ready": {up: true, ok: true}, "ready": {up: true, ready: true, ok: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFakeNode("a"), newFakeNode("b")
				a.up, b.up = false, tc.up
				if !tc.ready {
					b.healthy = servesNot
				}
				began := time.Now()
				err := pool(t, Options{}, a, b).Probe(t.Context())
				if (err == nil) != tc.ok || time.Since(began) != 0 {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// TestClosed ends streams with the client, and calls after it.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeNode("a")
		c := pool(t, Options{}, a)
		s := c.Generate(t.Context(), ask(10))
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		c.Close()
		a.kill() // a closed connection fails its streams
		err := read(t, s, nil)
		if status.Code(err) != codes.Canceled {
			t.Errorf("open stream: %v", err)
		}
		if err := read(t, c.Generate(t.Context(), ask(10)), nil); status.Code(err) != codes.Canceled {
			t.Errorf("new stream: %v", err)
		}
	})
}

// TestService drives the pool through the generated interface.
func TestService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeNode("a"), newFakeNode("b")
		c := pool(t, Options{}, a, b)
		synctest.Wait()
		svc := c.Service()
		a.up = false // without telling: the next call finds it out
		for range 4 {
			d, err := svc.Describe(t.Context(), &droverv1.DescribeRequest{})
			if err != nil || d.Model != "b" {
				t.Errorf("Describe: %v, %v", d, err)
			}
		}
		stream, err := svc.Generate(t.Context(), ask(4))
		if err != nil {
			t.Fatal(err)
		}
		if err := read(t, stream.(*serviceStream).Stream, nil); err != nil {
			t.Error(err)
		}
		again, _ := svc.Generate(t.Context(), ask(4))
		var r droverv1.GenerateResponse
		if err := again.RecvMsg(&r); err != nil || r.GetStarted() == nil {
			t.Errorf("%v, %v", &r, err)
		}
		again.(interface{ Close() }).Close()
		if _, err := again.Recv(); status.Code(err) != codes.Canceled {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no address":     {},
		"empty address":  {Addresses: []string{"a", ""}},
		"too many":       {Addresses: slices.Repeat([]string{"a"}, maxAddresses+1)},
		"patience":       {Addresses: []string{"a"}, Patience: -1},
		"stall":          {Addresses: []string{"a"}, StallAfter: -1},
		"no credentials": {Addresses: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := New(o); err == nil {
				c.Close()
				t.Error("accepted")
			}
		})
	}
}

// TestManyStreams kills coordinators by turns under many streams.
func TestManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := []*fake{newFakeNode("a"), newFakeNode("b"), newFakeNode("c")}
		c := pool(t, Options{}, nodes...)
		ctx, stop := context.WithCancel(t.Context())
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			for i := 0; ctx.Err() == nil; i++ {
				n := nodes[i%3]
				time.Sleep(7 * time.Millisecond)
				n.kill()
				time.Sleep(11 * time.Millisecond)
				n.restart()
			}
		}()
		var wg sync.WaitGroup
		errs, resumes := make([]error, 64), make([]int, 64)
		for i := range errs {
			wg.Go(func() {
				s := c.Generate(t.Context(), ask(50+i))
				errs[i] = read(t, s, nil)
				resumes[i] = s.Resumes()
			})
		}
		wg.Wait()
		stop()
		<-killed
		for i, err := range errs {
			if err != nil || resumes[i] == 0 {
				t.Errorf("stream %d: %v, resumed %d times", i, err, resumes[i])
			}
		}
	})
}
