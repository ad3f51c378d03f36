package wire_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/mem"

	"drover/wire"
)

// frame is a Request or a Response.
type frame interface {
	Verify() error
	Release()
}

// TestEveryFlippedBitIsFound flips each bit of each kind of frame: what arrives is either no
// message at all or does not verify.
func TestEveryFlippedBitIsFound(t *testing.T) {
	rows := func() mem.Buffer { return rowsBuffer([]byte("0123456789abcdef0123456789ABCDEF")) }
	hello := wire.Hello{ProtocolVersion: wire.ProtocolVersion, ModelDigest: []byte("digest"),
		NumericMode: "bf16", KernelClass: "cpu", Epoch: 7, HiddenSize: 16,
		DTypes: []wire.DType{wire.BF16}, MaxFrameBytes: 1 << 20, CreditBytes: 1 << 24, NodeID: "n"}
	for name, tc := range map[string]struct {
		sent  frame
		empty func() frame
	}{
		"hello out": {&wire.Request{Kind: wire.KindHello, Hello: hello},
			func() frame { return new(wire.Request) }},
		"dispatch": {&wire.Request{Kind: wire.KindDispatch, Rows: rows(), Dispatch: wire.Dispatch{
			FrameID: 5, PlacementRevision: 3, Layer: 1, DType: wire.BF16, RowCount: 1,
			ExpertIDs: []uint32{3}, ExpertRowCounts: []uint32{1}, BudgetMicros: 1000}},
			func() frame { return new(wire.Request) }},
		"cancel": {&wire.Request{Kind: wire.KindCancel, CancelID: 5},
			func() frame { return new(wire.Request) }},
		"ping": {&wire.Request{Kind: wire.KindPing, PingNonce: 5},
			func() frame { return new(wire.Request) }},
		"hello back": {&wire.Response{Kind: wire.KindHello, Hello: hello},
			func() frame { return new(wire.Response) }},
		"combine": {&wire.Response{Kind: wire.KindCombine, Rows: rows(), Combine: wire.Combine{
			FrameID: 5, RowCount: 1, DType: wire.BF16, NodeRevision: 3, QueueMicros: 1,
			ComputeMicros: 2, CreditBytes: 32}},
			func() frame { return new(wire.Response) }},
		"refusal": {&wire.Response{Kind: wire.KindCombine, Combine: wire.Combine{FrameID: 5,
			Statuses: []wire.Status{wire.StatusOK, wire.StatusNotHosted}, Detail: "why"}},
			func() frame { return new(wire.Response) }},
		"pong": {&wire.Response{Kind: wire.KindPong, PongNonce: 5},
			func() frame { return new(wire.Response) }},
	} {
		t.Run(name, func(t *testing.T) {
			defer tc.sent.Release()
			b := encode(t, tc.sent)
			malformed := 0
			for bit := range 8 * len(b) {
				b[bit/8] ^= 1 << (bit % 8)
				got := tc.empty()
				err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, got)
				switch {
				case err != nil:
					malformed++
				case !errors.Is(got.Verify(), wire.ErrCorrupt):
					t.Errorf("bit %d of byte %d flipped: verifies as %+v", bit%8, bit/8, got)
				}
				got.Release()
				b[bit/8] ^= 1 << (bit % 8)
			}
			if malformed == 8*len(b) {
				t.Error("no flipped bit was left to the checksum")
			}
		})
	}
}
