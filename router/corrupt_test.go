package router_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
	"drover/wire"
)

// bitFlipper is the wire codec that flips one bit of the next frame with rows.
type bitFlipper struct {
	wire.Codec
	bit   atomic.Int64 // of the frame, modulo its length; negative for none
	count atomic.Int64
}

func newBitFlipper() *bitFlipper {
	f := &bitFlipper{Codec: wire.Codec{Pool: new(wire.Pool)}}
	f.bit.Store(-1)
	return f
}

func (c *bitFlipper) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.Codec.Marshal(v)
	if err != nil || len(data) < 2 {
		return data, err
	}
	bit := c.bit.Swap(-1)
	if bit < 0 {
		return data, nil
	}
	defer data.Free()
	b := bytes.Clone(data.Materialize())
	b[int(bit)/8%len(b)] ^= 1 << (bit % 8)
	c.count.Add(1)
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// TestAnyFlippedBitIsRepaired flips bits all over frames to the only node and back, one in
// each batch: the rows are right all the same, and every flip was noticed.
func TestAnyFlippedBitIsRepaired(t *testing.T) {
	var bits []int64 // of the outer tags all, of the others some
	for bit := int64(0); bit < 8*90; bit++ {
		if bit < 16 || bit%7 == 0 {
			bits = append(bits, bit)
		}
	}
	for name, out := range map[string]bool{"out": true, "back": false} {
		t.Run(name, func(t *testing.T) {
			codec := newBitFlipper()
			config := nodeConfig{id: "n0", fake: &fake{spec: testSpec, mode: kernel.BF16}}
			if !out {
				config.grpc = []grpc.ServerOption{grpc.ForceServerCodecV2(codec)}
			}
			node := startNode(t, config)
			var broken atomic.Int64
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				o.FrameTimeout = 40 * time.Millisecond
				o.Events.LinkDown = func(string, int, error) { broken.Add(1) }
				if out {
					o.DialOptions = []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec))}
				}
			})
			r.Update(viewOf(testSpec, 1, 1, node))
			waitReady(t, r)
			for _, bit := range bits {
				codec.bit.Store(bit)
				check(t, r, node.fake, oneRow(1, int(bit)%16))
			}
			noticed := int(r.Stats().CorruptFrames) + int(broken.Load())
			if flips := int(codec.count.Load()); flips != len(bits) || noticed < flips {
				t.Errorf("%d flips, %d noticed", flips, noticed)
			}
		})
	}
}

// liar is an ExpertService that answers each frame as the test says.
func startLiar(t *testing.T, answer func(*wire.Request) []*wire.Response) *testNode {
	t.Helper()
	execute := func(s grpc.ServerStream) error {
		for {
			var r wire.Request
			if err := s.RecvMsg(&r); err != nil {
				return err
			}
			var answers []*wire.Response
			switch r.Kind {
			case wire.KindHello:
				answers = []*wire.Response{{Kind: wire.KindHello, Hello: goodHello("n0")}}
			case wire.KindDispatch:
				answers = answer(&r)
			case wire.KindPing:
				answers = []*wire.Response{{Kind: wire.KindPong, PongNonce: r.PingNonce}}
			}
			r.Release()
			for _, a := range answers {
				if err := s.SendMsg(a); err != nil {
					return err
				}
			}
		}
	}
	return startNode(t, nodeConfig{id: "n0", fake: &fake{spec: testSpec, mode: kernel.BF16},
		grpc: []grpc.ServerOption{grpc.StreamInterceptor(
			func(_ any, s grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
				return execute(&grpc.GenericServerStream[droverv1.ExecuteRequest,
					droverv1.ExecuteResponse]{ServerStream: s})
			})}})
}

// rightAnswer is what a sound node answers to a frame.
func rightAnswer(r *wire.Request) *wire.Response {
	d := &r.Dispatch
	b := oneRow(int(d.Layer), int(d.ExpertIDs[0]))
	b.Counts[0] = int32(d.RowCount)
	wire.TakeRows(b.X.Data, r.RowBytes(), wire.BF16)
	if err := (&fake{spec: testSpec, mode: kernel.BF16}).Forward(context.Background(), b, nil); err != nil {
		return nil
	}
	out := make([]byte, len(r.RowBytes()))
	wire.PutRows(out, b.Y.Data, wire.BF16)
	return &wire.Response{Kind: wire.KindCombine, Rows: mem.SliceBuffer(out),
		Combine: wire.Combine{FrameID: d.FrameID, RowCount: d.RowCount, DType: wire.BF16}}
}

// TestBadAnswers has the preferred node answer what it was not asked: nothing of it is
// used, each is told of, and the other replica answers.
func TestBadAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(*wire.Request) []*wire.Response
		reason string
		used   bool // the right answer comes, too
	}{
		"another frame": {func(r *wire.Request) []*wire.Response {
			a := rightAnswer(r)
			a.Combine.FrameID += 1000
			return []*wire.Response{a}
		}, "no frame that waits", false},
		"twice": {func(r *wire.Request) []*wire.Response {
			return []*wire.Response{rightAnswer(r), rightAnswer(r)}
		}, "no frame that waits", true},
		"a row too many": {func(r *wire.Request) []*wire.Response {
			a := rightAnswer(r)
			a.Rows = mem.SliceBuffer(append(bytes.Clone(a.RowBytes()), a.RowBytes()...))
			a.Combine.RowCount = 2
			return []*wire.Response{a}
		}, "does not fit", false},
		"rows missing": {func(r *wire.Request) []*wire.Response {
			a := rightAnswer(r)
			a.Rows = nil
			return []*wire.Response{a}
		}, "does not fit", false},
		"another type": {func(r *wire.Request) []*wire.Response {
			a := rightAnswer(r)
			a.Combine.DType = wire.Float32
			return []*wire.Response{a}
		}, "does not fit", false},
		"statuses missing": {func(r *wire.Request) []*wire.Response {
			a := rightAnswer(r)
			a.Combine.Statuses = []wire.Status{wire.StatusOK, wire.StatusOK}
			return []*wire.Response{a}
		}, "does not fit", false},
	} {
		t.Run(name, func(t *testing.T) {
			liar, sound := startLiar(t, tc.answer), startNodes(t, 2, kernel.BF16, nil)[1]
			var mu sync.Mutex
			var reasons []error
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				o.SetPick(func(int) int { return 0 })
				o.Events.BadAnswer = func(id string, _ int, reason error) {
					mu.Lock()
					defer mu.Unlock()
					if id != "n0" {
						t.Errorf("told of %s", id)
					}
					reasons = append(reasons, reason)
				}
			})
			r.Update(viewOf(testSpec, 1, 2, liar, sound))
			waitReady(t, r)
			// On a busy machine the other replica may be asked, too, and answer first.
			told := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(reasons) > 0 && r.Stats().BadAnswers == uint64(len(reasons)) &&
					(r.RowsByNode()["n0"] > 0) == tc.used
			}
			for began := time.Now(); ; {
				for expert := range 4 {
					check(t, r, sound.fake, oneRow(3, expert))
				}
				if told() || time.Since(began) > 20*time.Second {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if len(reasons) == 0 || !strings.Contains(errors.Join(reasons...).Error(), tc.reason) {
				t.Errorf("told of %v, want %q", reasons, tc.reason)
			}
			// What it answers late is counted before it is told of.
			if got := r.Stats().BadAnswers; got < uint64(len(reasons)) {
				t.Errorf("%d bad answers counted, %d told of", got, len(reasons))
			}
			if used := r.RowsByNode()["n0"] > 0; used != tc.used {
				t.Errorf("rows of the node were used: %v, want %v", used, tc.used)
			}
		})
	}
}
