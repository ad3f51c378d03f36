package router_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"drover/expertnode"
	"drover/kernel"
	"drover/router"
	"drover/wire"
)

// tells returns an event that tells of links that are down as long as somebody listens.
func tells(down chan<- error) func(string, int, error) {
	return func(_ string, _ int, err error) {
		select {
		case down <- err:
		default:
		}
	}
}

// whyRefused waits for the reason why a link is refused. On a busy machine some hellos are late.
func whyRefused(down <-chan error) error {
	for {
		if err := <-down; !strings.Contains(err.Error(), "no hello in time") {
			return err
		}
	}
}

// TestRefusedLinks lists what keeps a link from being used, and that the reason
// names both values.
func TestRefusedLinks(t *testing.T) {
	for name, tc := range map[string]struct {
		hello  func(*wire.Hello)
		router func(*router.Options)
		want   []string
	}{
		"protocol": {hello: func(h *wire.Hello) { h.ProtocolVersion = 9 },
			want: []string{"3", "9"}},
		"old protocol": {hello: func(h *wire.Hello) { h.ProtocolVersion = 2 },
			want: []string{"router speaks 3", "node 2"}},
		"node id": {hello: func(h *wire.Hello) { h.NodeID = "other" },
			want: []string{"n0", "other"}},
		"epoch": {hello: func(h *wire.Hello) { h.Epoch = 0 },
			want: []string{"life 1", "0 answers"}},
		"digest": {hello: func(h *wire.Hello) { h.ModelDigest = []byte("x") },
			want: []string{"78", fmt.Sprintf("%x", digest)}},
		"mode": {hello: func(h *wire.Hello) { h.NumericMode = "exact" },
			want: []string{"bf16", "exact"}},
		"hidden": {hello: func(h *wire.Hello) { h.HiddenSize = 25 },
			want: []string{"24", "25"}},
		"kernel class": {router: func(o *router.Options) { o.KernelClass = "other" },
			want: []string{"other", kernel.Class(kernel.BF16)}},
		"frame": {hello: func(h *wire.Hello) { h.MaxFrameBytes = 100 },
			want: []string{"100", fmt.Sprint(256 * 48)}},
		"credit": {hello: func(h *wire.Hello) { h.CreditBytes = 100 }, want: []string{"100"}},
	} {
		t.Run(name, func(t *testing.T) {
			hello := goodHello("n0")
			if tc.hello != nil {
				tc.hello(&hello)
			}
			node := startMute(t, &mute{hello: hello})
			node.node.ID = "n0"
			down := make(chan error, 10)
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				o.Events.LinkDown = tells(down)
				o.FailAfter = time.Millisecond
				if tc.router != nil {
					tc.router(o)
				}
			})
			view := viewOf(testSpec, 1, 1, node)
			r.Update(view)
			err := whyRefused(down)
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("link down: %v, want %q in it", err, want)
				}
			}
			if r.NodeMetrics()[0].LinksLost == 0 {
				t.Error("no link counts as lost")
			}
			waitFor(t, func() error { // an attempt may end without a hello
				if got := r.Forward(context.Background(), oneRow(1, 0), nil); got == nil ||
					!strings.Contains(got.Error(), err.Error()) {
					return fmt.Errorf("Forward: %v, want %v in it", got, err)
				}
				return nil
			})
			wantNoReplica(t, r.Forward(context.Background(), oneRow(1, 0), nil))
			if err := r.Ready(); err == nil {
				t.Error("Ready() = nil without a link")
			}
		})
	}
}

// TestNodeRefusesRouter checks the other side: the node's status reaches the error.
func TestNodeRefusesRouter(t *testing.T) {
	node := startNodes(t, 1, kernel.BF16, func(o *expertnode.Options) {
		o.MaxFrameBytes = 480
	})[0]
	down := make(chan error, 10)
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.MaxFrameBytes = 960
		o.Events.LinkDown = tells(down)
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	err := whyRefused(down)
	if got := err.Error(); !strings.Contains(got, "960") || !strings.Contains(got, "480") {
		t.Errorf("link down: %v, want both frame sizes in it", err)
	}
}
