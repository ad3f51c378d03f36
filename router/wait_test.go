package router_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"drover/kernel"
	"drover/moe"
	"drover/router"
)

// slowLocal is a last resort that loads for long: each expert, once, whoever asks; a call ends
// before that when its context does.
type slowLocal struct {
	localFake
	takes time.Duration
	ready map[int32]time.Time // by expert
}

func newSlowLocal(takes time.Duration) *slowLocal {
	return &slowLocal{localFake: *newLocal(), takes: takes, ready: map[int32]time.Time{}}
}

// ComputeBatch is called by one goroutine at a time: the Router has one lane.
func (s *slowLocal) ComputeBatch(ctx context.Context, b *moe.Batch, errs []error) {
	for _, expert := range b.Experts {
		if s.ready[expert].IsZero() {
			s.ready[expert] = time.Now().Add(s.takes)
		}
		select {
		case <-time.After(time.Until(s.ready[expert])):
		case <-ctx.Done():
			for i := range errs {
				errs[i] = context.Cause(ctx)
			}
			return
		}
	}
	s.localFake.ComputeBatch(ctx, b, errs)
}

// pipedRouter starts nodes and a Router of them in a bubble of virtual time.
func pipedRouter(t *testing.T, change func(*router.Options), names ...string) (
	*router.Router, []*testNode) {
	t.Helper()
	var nodes []*testNode
	byName := map[string]*pipes{}
	for _, name := range names {
		p, n := startPiped(t, name)
		byName[name] = p
		nodes = append(nodes, n)
	}
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.DialOptions = []grpc.DialOption{grpc.WithContextDialer(
			func(ctx context.Context, name string) (net.Conn, error) {
				return byName[name].dial(ctx)
			})}
		change(o)
	})
	r.Update(viewOf(testSpec, 1, len(names), nodes...))
	waitReady(t, r)
	return r, nodes
}

// TestSlowLastResort has rows wait for a machine that loads an expert for 50 s: no longer than
// FailAfter, and the next request finds what was loaded.
func TestSlowLastResort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := newSlowLocal(50 * time.Second)
		r, nodes := pipedRouter(t, func(o *router.Options) { o.Local = local }, "n0")
		nodes[0].stop()
		began := time.Now()
		err := r.Forward(t.Context(), oneRow(3, 7), nil)
		wantNoReplica(t, err, "layer 3 expert 7", "node n0: ",
			"on this machine: not loaded and computed within 30s, loading goes on")
		if took := time.Since(began); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("rows waited for %v, want 30 s", took)
		}
		check(t, r, &local.fake, oneRow(3, 7))
		if took := time.Since(began); took < 50*time.Second || took > 51*time.Second {
			t.Errorf("the expert was loaded after %v, want 50 s", took)
		}
	})
}

// TestSlowVerdict has rows wait for this machine's opinion: one node's is used after FailAfter,
// of two that differ none is.
func TestSlowVerdict(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes []string
		lies  bool
	}{
		"one opinion": {nodes: []string{"n0"}},
		"a dispute":   {nodes: []string{"n0", "n1"}, lies: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				local := newSlowLocal(time.Hour)
				r, nodes := pipedRouter(t, func(o *router.Options) {
					o.Local, o.CheckFraction = local, 1
				}, tc.nodes...)
				time.Sleep(time.Minute) // all are connected
				if tc.lies {
					nodes[1].fake.setLies(always)
				}
				began, b := time.Now(), oneRow(3, 7)
				err := r.Forward(t.Context(), b, nil)
				if took := time.Since(began); took < 30*time.Second || took > 31*time.Second {
					t.Errorf("rows waited for %v, want 30 s", took)
				}
				if tc.lies {
					wantNoReplica(t, err, "layer 3 expert 7", "differently")
					return
				}
				want := oneRow(3, 7)
				if err := local.Forward(t.Context(), want, nil); err != nil {
					t.Fatal(err)
				}
				if err != nil || !slices.Equal(b.Y.Data, want.Y.Data) {
					t.Errorf("Forward = %v, want the rows of the only node", err)
				}
			})
		})
	}
}
