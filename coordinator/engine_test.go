package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/model"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/scheduler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small makes steps and cache so small that 64 requests get in each other's way.
var small = Options{KVBytes: 10 * 12 * blockTokens, MaxSequences: 16, MaxBatchTokens: 24,
	MaxPrefillTokens: 5}

func TestManyClientsGetTheSameAnswersAsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(32)
		f.before = slow
		c := start(t, f, nil, small)
		var wg sync.WaitGroup
		for n := range 64 {
			wg.Go(func() {
				time.Sleep(time.Duration(1+n%7) * 3 * time.Millisecond)
				want, eos := f2().greedy(promptOf(n), 20)
				a := generate(t.Context(), c, tokensRequest(promptOf(n), 20))
				reason := droverv1.FinishReason_FINISH_REASON_LENGTH
				if eos {
					reason = droverv1.FinishReason_FINISH_REASON_STOP
				}
				if a.err != nil || !slices.Equal(a.ids, want) || a.finished.Reason != reason ||
					int(a.finished.TokenCount) != len(want) {
					t.Errorf("client %d: %v, want %v", n, a, want)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		st := c.Stats()
		if st.BlocksUsed != 0 || st.Running+st.Waiting != 0 || c.open != 0 {
			t.Errorf("left over: %+v, %d open", st, c.open)
		}
		if st.Preemptions == 0 {
			t.Error("the cache was too large for this test: nothing was preempted")
		}
		if st.DecodeTokens == 0 || st.PrefillTokens == 0 || st.StepTime == 0 || st.IdleTime == 0 {
			t.Errorf("counters: %+v", st)
		}
	})
}

func f2() *fakeModel { return newFake(32) }

func TestSeedDecidesWhateverTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newFake(32), nil, small)
		request := func(n int, seed *uint64) *droverv1.GenerateRequest {
			r := tokensRequest(promptOf(n), 16)
			temperature, topP, topK := float32(1.5), float32(0.9), uint32(n%3*10)
			r.Sampling = &droverv1.Sampling{Temperature: &temperature, TopP: &topP, TopK: &topK,
				Seed: seed, FrequencyPenalty: float32(n % 2), RepetitionPenalty: 1 + float32(n%4)}
			r.IgnoreEos = true
			return r
		}
		alone := make([]answer, 32)
		for n := range alone {
			alone[n] = generate(t.Context(), c, request(n, nil))
			if len(alone[n].ids) != 16 {
				t.Fatalf("alone: %v", alone[n])
			}
		}
		var wg sync.WaitGroup
		for n := range alone {
			wg.Go(func() {
				a := generate(t.Context(), c, request(n, &alone[n].started.Seed))
				if !slices.Equal(a.ids, alone[n].ids) {
					t.Errorf("request %d: %v, alone %v", n, a, alone[n])
				}
			})
		}
		wg.Wait()
		same := generate(t.Context(), c, request(3, nil))
		if slices.Equal(same.ids, alone[3].ids) {
			t.Error("another seed gave the same tokens")
		}
	})
}

func TestCancelFreesBlocksWithinOneStep(t *testing.T) {
	for name, stop := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"cancel": context.WithCancel,
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 5500*time.Microsecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(32)
				f.before = slow
				c := start(t, f, nil, small)
				ctx, cancel := stop(t.Context())
				defer cancel()
				var a answer
				var wg sync.WaitGroup
				wg.Go(func() {
					r := tokensRequest(promptOf(1), 0)
					r.IgnoreEos = true
					a = generate(ctx, c, r)
				})
				time.Sleep(5500 * time.Microsecond)
				if name == "cancel" {
					cancel()
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if st := c.Stats(); st.BlocksUsed != 0 || st.Running != 0 || st.Steps > 6 {
					t.Errorf("a step later: %+v", st)
				}
				wg.Wait()
				want := codes.Canceled
				if name == "deadline" {
					want = codes.DeadlineExceeded
				}
				if status.Code(a.err) != want {
					t.Errorf("got %v, want %v", a.err, want)
				}
			})
		})
	}
}

func TestEngineSurvives(t *testing.T) {
	for name, tc := range map[string]struct {
		fail func() error
		code codes.Code
		text string
	}{
		"error": {func() error { return errors.New("odd") }, codes.Internal, "odd"},
		"unavailable": {func() error { return fmt.Errorf("layer 3: %w", moe.ErrUnavailable) },
			codes.Unavailable, "layer 3"},
		"deadline": {func() error { return context.DeadlineExceeded }, codes.Unavailable, "deadline"},
		"panic":    {func() error { panic("secret") }, codes.Internal, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(32)
				var failed error
				o := small
				o.Events.StepFailed = func(err error) { failed = err }
				c := start(t, f, nil, o)
				steps := 0
				f.before = func(*model.Batch) error {
					if steps++; steps == 3 {
						return tc.fail()
					}
					return slow(nil)
				}
				var first, second answer
				var wg sync.WaitGroup
				wg.Go(func() { first = generate(t.Context(), c, tokensRequest(promptOf(3), 9)) })
				wg.Go(func() {
					time.Sleep(2500 * time.Microsecond) // its first step is the fourth
					second = generate(t.Context(), c, tokensRequest(promptOf(4), 9))
				})
				wg.Wait()
				if status.Code(first.err) != tc.code || !strings.Contains(first.err.Error(), tc.text) {
					t.Errorf("first got %v, want %v with %q", first.err, tc.code, tc.text)
				}
				if strings.Contains(first.err.Error(), "secret") || failed == nil {
					t.Errorf("client got %v, operator %v", first.err, failed)
				}
				if want, _ := f2().greedy(promptOf(4), 9); !slices.Equal(second.ids, want) {
					t.Errorf("second got %v, want %v", second, want)
				}
				if st := c.Stats(); st.FailedSteps != 1 || st.BlocksUsed != 0 {
					t.Errorf("stats %+v", st)
				}
			})
		})
	}
}

func TestNonFiniteLogits(t *testing.T) {
	for name, bad := range map[string]float64{"NaN": math.NaN(), "infinite": math.Inf(-1)} {
		t.Run(name, func(t *testing.T) {
			f := newFake(32)
			f.after = func(b *model.Batch) { b.Logits.Data[5] = float32(bad) }
			a := generate(t.Context(), start(t, f, nil, small), tokensRequest([]int32{3, 4, 5}, 4))
			want := "non-finite logits at position 2: token 5"
			if status.Code(a.err) != codes.Internal || !strings.Contains(a.err.Error(), want) {
				t.Errorf("got %v, want %q", a.err, want)
			}
		})
	}
}

// TestSchedulerPanic takes the batch from under the engine, which breaks a rule of the
// scheduler: all requests fail, and the engine goes on with a new scheduler.
func TestSchedulerPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(32)
		c := start(t, f, nil, small)
		f.before = func(*model.Batch) error {
			f.before = nil
			c.engine.sched = &scheduler.Scheduler{}
			return nil
		}
		a := generate(t.Context(), c, tokensRequest(promptOf(1), 5))
		if status.Code(a.err) != codes.Internal {
			t.Errorf("got %v, want INTERNAL", a)
		}
		want, _ := f2().greedy(promptOf(2), 5)
		if a = generate(t.Context(), c, tokensRequest(promptOf(2), 5)); !slices.Equal(a.ids, want) {
			t.Errorf("afterwards got %v, want %v", a, want)
		}
	})
}

func TestCloseEndsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(32)
		f.before = slow
		c := start(t, f, nil, small)
		var wg sync.WaitGroup
		for n := range 20 {
			wg.Go(func() {
				r := tokensRequest(promptOf(n), 0)
				r.IgnoreEos = true
				if a := generate(t.Context(), c, r); status.Code(a.err) != codes.Unavailable {
					t.Errorf("got %v, want UNAVAILABLE", a)
				}
			})
		}
		time.Sleep(3 * time.Millisecond)
		c.Close()
		wg.Wait()
		a := generate(t.Context(), c, tokensRequest(promptOf(1), 1))
		if status.Code(a.err) != codes.Unavailable {
			t.Errorf("after Close: %v", a)
		}
	})
}

func TestFullQueueIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(32)
		f.before = slow
		o := small
		o.MaxSequences, o.MaxWaiting = 2, 3
		c := start(t, f, nil, o)
		var wg sync.WaitGroup
		for n := range 5 {
			wg.Go(func() {
				if a := generate(t.Context(), c, tokensRequest(promptOf(n), 5)); a.err != nil {
					t.Error(a)
				}
			})
		}
		synctest.Wait()
		a := generate(t.Context(), c, tokensRequest(promptOf(1), 1))
		if status.Code(a.err) != codes.ResourceExhausted {
			t.Errorf("sixth request: %v", a)
		}
		wg.Wait()
	})
}

// TestSlowClient lets one client stop reading. The other's answer goes on, and what is
// kept for the slow one stays bounded.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(32)
		f.before = slow
		o := small
		o.MaxUnreadTokens = 3
		c := start(t, f, nil, o)
		open := make(chan struct{})
		cl := &client[droverv1.GenerateResponse]{ctx: t.Context()}
		cl.gate = func() error {
			if len(cl.got) > 0 { // all but Started
				<-open
			}
			return nil
		}
		r := tokensRequest(promptOf(5), 30)
		r.IgnoreEos = true
		var a answer
		var wg sync.WaitGroup
		wg.Go(func() { a = generateTo(cl, c, r) })
		other := generate(t.Context(), c, r)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := c.Stats().DecodeTokens; n > 29+6 {
			t.Errorf("%d tokens decoded while a client does not read", n)
		}
		close(open)
		wg.Wait()
		if len(a.ids) != 30 || !slices.Equal(a.ids, other.ids) {
			t.Errorf("slow: %v\nother: %v", a, other)
		}
	})
}
