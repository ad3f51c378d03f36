package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

var codec = &wire.Codec{Pool: new(wire.Pool)}

// split cuts bytes into pieces of random sizes, as a transport may deliver them.
func split(b []byte, seed uint64) mem.BufferSlice {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out mem.BufferSlice
	for len(b) > 0 {
		n := min(len(b), rng.IntN(40))
		out = append(out, mem.SliceBuffer(b[:n]))
		b = b[n:]
	}
	return out
}

func rowsBuffer(b []byte) mem.Buffer {
	if len(b) == 0 {
		return nil
	}
	buf, dst := codec.Pool.NewBuffer(len(b))
	copy(dst, b)
	return buf
}

func convert[T, S ~uint32 | ~int32](in []S) []T {
	var out []T
	for _, v := range in {
		out = append(out, T(v))
	}
	return out
}

func helloProto(h *wire.Hello) *droverv1.Hello {
	return &droverv1.Hello{ProtocolVersion: h.ProtocolVersion, ModelDigest: h.ModelDigest,
		NumericMode: h.NumericMode, KernelClass: h.KernelClass, Epoch: h.Epoch,
		HiddenSize: h.HiddenSize, Dtypes: convert[droverv1.Dtype](h.DTypes),
		MaxFrameBytes: h.MaxFrameBytes, CreditBytes: h.CreditBytes, NodeId: h.NodeID}
}

// requestProto is the same request as the generated type.
func requestProto(r *wire.Request, crc uint32) *droverv1.ExecuteRequest {
	out := &droverv1.ExecuteRequest{Crc32C: crc, Rows: bytes.Clone(r.RowBytes())}
	switch d := &r.Dispatch; r.Kind {
	case wire.KindHello:
		out.Kind = &droverv1.ExecuteRequest_Hello{Hello: helloProto(&r.Hello)}
	case wire.KindDispatch:
		out.Kind = &droverv1.ExecuteRequest_Dispatch{Dispatch: &droverv1.Dispatch{
			FrameId: d.FrameID, PlacementRevision: d.PlacementRevision, Layer: d.Layer,
			Dtype: droverv1.Dtype(d.DType), RowCount: d.RowCount,
			ExpertIds: d.ExpertIDs, ExpertRowCounts: d.ExpertRowCounts,
			BudgetMicros: d.BudgetMicros}}
	case wire.KindCancel:
		out.Kind = &droverv1.ExecuteRequest_Cancel{Cancel: &droverv1.Cancel{FrameId: r.CancelID}}
	case wire.KindPing:
		out.Kind = &droverv1.ExecuteRequest_Ping{Ping: &droverv1.Ping{Nonce: r.PingNonce}}
	}
	return out
}

// responseProto is the same response as the generated type.
func responseProto(r *wire.Response, crc uint32) *droverv1.ExecuteResponse {
	out := &droverv1.ExecuteResponse{Crc32C: crc, Rows: bytes.Clone(r.RowBytes())}
	switch c := &r.Combine; r.Kind {
	case wire.KindHello:
		out.Kind = &droverv1.ExecuteResponse_Hello{Hello: helloProto(&r.Hello)}
	case wire.KindCombine:
		out.Kind = &droverv1.ExecuteResponse_Combine{Combine: &droverv1.Combine{
			FrameId: c.FrameID, RowCount: c.RowCount, Dtype: droverv1.Dtype(c.DType),
			Statuses:     convert[droverv1.ExpertStatus](c.Statuses),
			NodeRevision: c.NodeRevision, QueueMicros: c.QueueMicros,
			ComputeMicros: c.ComputeMicros, CreditBytes: c.CreditBytes, Detail: c.Detail}}
	case wire.KindPong:
		out.Kind = &droverv1.ExecuteResponse_Pong{Pong: &droverv1.Pong{Nonce: r.PongNonce}}
	}
	return out
}

func drawHello(t *rapid.T) wire.Hello {
	return wire.Hello{
		ProtocolVersion: rapid.Uint32().Draw(t, "version"),
		ModelDigest:     rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "digest"),
		NumericMode:     rapid.StringN(0, 10, -1).Draw(t, "mode"),
		KernelClass:     rapid.StringN(0, 10, -1).Draw(t, "class"),
		Epoch:           rapid.Uint64().Draw(t, "epoch"),
		HiddenSize:      rapid.Uint32().Draw(t, "hidden"),
		DTypes: rapid.SliceOfN(rapid.Map(rapid.Uint32Range(0, math.MaxInt32),
			func(v uint32) wire.DType { return wire.DType(v) }), 0, 4).Draw(t, "dtypes"),
		MaxFrameBytes: rapid.Uint32().Draw(t, "frame bytes"),
		CreditBytes:   rapid.Uint64().Draw(t, "credit"),
		NodeID:        rapid.StringN(0, 10, -1).Draw(t, "node"),
	}
}

func drawRequest(t *rapid.T) *wire.Request {
	r := &wire.Request{Kind: wire.Kind(rapid.IntRange(0, 4).Draw(t, "kind"))}
	r.Rows = rowsBuffer(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "rows"))
	switch r.Kind {
	case wire.KindHello:
		r.Hello = drawHello(t)
	case wire.KindDispatch:
		r.Dispatch = wire.Dispatch{
			FrameID:           rapid.Uint64().Draw(t, "frame"),
			PlacementRevision: rapid.Uint64().Draw(t, "revision"),
			Layer:             rapid.Uint32().Draw(t, "layer"),
			DType:             wire.DType(rapid.Uint32Range(0, math.MaxInt32).Draw(t, "dtype")),
			RowCount:          rapid.Uint32().Draw(t, "rows"),
			ExpertIDs:         rapid.SliceOfN(rapid.Uint32(), 0, 130).Draw(t, "experts"),
			ExpertRowCounts:   rapid.SliceOfN(rapid.Uint32(), 0, 130).Draw(t, "counts"),
			BudgetMicros:      rapid.Uint32().Draw(t, "budget"),
		}
	case wire.KindCancel:
		r.CancelID = rapid.Uint64().Draw(t, "cancel")
	case wire.KindPing:
		r.PingNonce = rapid.Uint64().Draw(t, "nonce")
	}
	return r
}

func drawResponse(t *rapid.T) *wire.Response {
	kinds := []wire.Kind{wire.KindNone, wire.KindHello, wire.KindCombine, wire.KindPong}
	r := &wire.Response{Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
	r.Rows = rowsBuffer(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "rows"))
	switch r.Kind {
	case wire.KindHello:
		r.Hello = drawHello(t)
	case wire.KindCombine:
		r.Combine = wire.Combine{
			FrameID:  rapid.Uint64().Draw(t, "frame"),
			RowCount: rapid.Uint32().Draw(t, "rows"),
			DType:    wire.DType(rapid.Uint32Range(0, math.MaxInt32).Draw(t, "dtype")),
			Statuses: rapid.SliceOfN(rapid.Map(rapid.Uint32Range(0, math.MaxInt32),
				func(v uint32) wire.Status { return wire.Status(v) }), 0, 9).Draw(t, "statuses"),
			NodeRevision:  rapid.Uint64().Draw(t, "revision"),
			QueueMicros:   rapid.Uint32().Draw(t, "queue"),
			ComputeMicros: rapid.Uint32().Draw(t, "compute"),
			CreditBytes:   rapid.Uint64().Draw(t, "credit"),
			Detail:        rapid.StringN(0, 30, -1).Draw(t, "detail"),
		}
	case wire.KindPong:
		r.PongNonce = rapid.Uint64().Draw(t, "nonce")
	}
	return r
}

// TestWhatWeWriteProtobufReads checks the encoder against the generated code.
func TestWhatWeWriteProtobufReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		request, response := drawRequest(t), drawResponse(t)
		defer request.Release()
		defer response.Release()

		encoded := encode(t, request)
		got := new(droverv1.ExecuteRequest)
		if err := proto.Unmarshal(encoded, got); err != nil {
			t.Fatalf("request: %v", err)
		}
		want := requestProto(request, sumOf(encoded))
		if !proto.Equal(got, want) {
			t.Fatalf("request: got %v, want %v", got, want)
		}

		encoded = encode(t, response)
		gotResponse := new(droverv1.ExecuteResponse)
		if err := proto.Unmarshal(encoded, gotResponse); err != nil {
			t.Fatalf("response: %v", err)
		}
		wantResponse := responseProto(response, sumOf(encoded))
		if !proto.Equal(gotResponse, wantResponse) {
			t.Fatalf("response: got %v, want %v", gotResponse, wantResponse)
		}
	})
}

// TestWhatProtobufWritesWeRead checks the decoder against the generated code,
// with unknown fields in between and in pieces of any size.
func TestWhatProtobufWritesWeRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		request, response := drawRequest(t), drawResponse(t)
		defer request.Release()
		defer response.Release()
		seed := rapid.Uint64().Draw(t, "seed")
		unknown := protowire.AppendTag(nil, 99, protowire.BytesType)
		unknown = protowire.AppendBytes(unknown, []byte("from a later version"))
		unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 20, protowire.VarintType), 7)

		message := requestProto(request, 0)
		encoded, err := proto.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		var got wire.Request
		if err := codec.Unmarshal(split(append(unknown, encoded...), seed), &got); err != nil {
			t.Fatalf("request: %v", err)
		}
		defer got.Release()
		if again := requestProto(&got, 0); !proto.Equal(again, message) {
			t.Fatalf("request: got %v, want %v", again, message)
		}

		reply := responseProto(response, 0)
		if encoded, err = proto.Marshal(reply); err != nil {
			t.Fatal(err)
		}
		var gotResponse wire.Response
		err = codec.Unmarshal(split(append(encoded, unknown...), seed), &gotResponse)
		if err != nil {
			t.Fatalf("response: %v", err)
		}
		defer gotResponse.Release()
		if again := responseProto(&gotResponse, 0); !proto.Equal(again, reply) {
			t.Fatalf("response: got %v, want %v", again, reply)
		}
	})
}

// encode marshals with the codec under test.
func encode(t interface{ Fatal(...any) }, v any) []byte {
	data, err := codec.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Free()
	return data.Materialize()
}

// sumOf computes the checksum as the protocol describes it, with protobuf's own tools.
func sumOf(b []byte) uint32 {
	var header, rows []byte
	number := protowire.Number(0)
	for len(b) > 0 {
		field, wireType, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		m := protowire.ConsumeFieldValue(field, wireType, b[n:])
		if m < 0 {
			return 0
		}
		if wireType == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[n:])
			if field == 15 {
				rows = v
			} else if field < 5 {
				number, header = field, v
			}
		}
		b = b[n+m:]
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := uint32(0)
	if number > 0 {
		sum = crc32.Checksum([]byte{byte(number)}, table)
	}
	return crc32.Update(crc32.Update(sum, table, header), table, rows)
}

func TestRowsAreLast(t *testing.T) {
	r := &wire.Request{Kind: wire.KindDispatch, Dispatch: wire.Dispatch{FrameID: 1, RowCount: 3},
		Rows: rowsBuffer([]byte("the rows"))}
	defer r.Release()
	if encoded := encode(t, r); !bytes.HasSuffix(encoded, []byte("the rows")) {
		t.Errorf("encoded = %q, want the rows at its end", encoded)
	}
}

func TestRowsTravelByReference(t *testing.T) {
	rows := rowsBuffer(make([]byte, 4096))
	r := &wire.Request{Kind: wire.KindDispatch, Rows: rows}
	data, err := codec.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	last := data[len(data)-1].ReadOnlyData()
	if &last[0] != &rows.ReadOnlyData()[0] {
		t.Error("marshalling copied the rows")
	}
	r.Release()
	if got := last[:cap(last)]; &got[0] != &data[len(data)-1].ReadOnlyData()[0] {
		t.Error("the rows moved when the caller released its reference")
	}
	data.Free()
}

// TestEveryFlippedBitIsNoticed flips each bit of a frame: it must not verify,
// unless the flip left header and rows as they were (an unknown field, an emptied
// checksum cannot).
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	r := &wire.Response{Kind: wire.KindCombine, Rows: rowsBuffer([]byte("sixteen bytes..."))}
	r.Combine = wire.Combine{FrameID: 300, RowCount: 2, DType: wire.BF16, NodeRevision: 7,
		Statuses: []wire.Status{wire.StatusOK, wire.StatusNotHosted}, Detail: "a detail"}
	defer r.Release()
	encoded := encode(t, r)
	for bit := range len(encoded) * 8 {
		flipped := bytes.Clone(encoded)
		flipped[bit/8] ^= 1 << (bit % 8)
		var got wire.Response
		err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(flipped)}, &got)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("bit %d: error %v, want ErrMalformed", bit, err)
			}
			continue
		}
		if err := got.Verify(); !errors.Is(err, wire.ErrCorrupt) && got.Kind == wire.KindCombine {
			t.Errorf("bit %d: Verify() = %v, want ErrCorrupt", bit, err)
		}
		got.Release()
	}
}

func TestMalformedFrames(t *testing.T) {
	field := func(number protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), body)
	}
	header := field(2, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 5))
	huge := append(bytes.Repeat([]byte{0xff}, 8), 0x7f)
	negative := append(bytes.Repeat([]byte{0xff}, 9), 1)
	for name, encoded := range map[string][]byte{
		"rows longer than the frame":  {15<<3 | 2, 0xff, 0xff, 0xff, 0x7f, 1, 2},
		"huge length":                 append([]byte{15<<3 | 2}, huge...),
		"endless number":              bytes.Repeat([]byte{0xff}, 12),
		"field number zero":           {0, 1},
		"group":                       {9<<3 | 3},
		"two headers":                 append(slices.Clone(header), header...),
		"rows twice":                  append(field(15, []byte{1}), field(15, []byte{2})...),
		"header runs past itself":     field(2, []byte{6<<3 | 2, 9, 1}),
		"header number past 32 bits":  field(2, []byte{3 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 1}),
		"header over its bound":       field(2, make([]byte, 70<<10)),
		"rows over the bound":         field(15, make([]byte, wire.MaxRowBytes+1)),
		"checksum cut":                {14<<3 | 5, 1, 2},
		"packed number cut":           field(2, []byte{6<<3 | 2, 1, 0x80}),
		"negative type of an element": field(2, append([]byte{4 << 3}, negative...)),
	} {
		t.Run(name, func(t *testing.T) {
			var r wire.Request
			err := codec.Unmarshal(split(encoded, 3), &r)
			if !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
			if r.Rows != nil {
				t.Error("rows left after an error")
			}
		})
	}
}

func TestRowLimit(t *testing.T) {
	small := &wire.Codec{RowLimit: 64, Pool: codec.Pool}
	for size, ok := range map[int]bool{64: true, 65: false} {
		r := &wire.Request{Rows: rowsBuffer(make([]byte, size))}
		encoded := encode(t, r)
		r.Release()
		err := small.Unmarshal(split(encoded, 1), r)
		if (err == nil) != ok {
			t.Errorf("%d bytes of rows: error %v, want ok %v", size, err, ok)
		}
		r.Release()
	}
}

func TestOtherMessagesUseTheStandardCodec(t *testing.T) {
	want := &droverv1.StatusResponse{NodeId: "n1", Epoch: 4}
	encoded := encode(t, want)
	got := new(droverv1.StatusResponse)
	if err := codec.Unmarshal(split(encoded, 1), got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := codec.Marshal("no message"); err == nil {
		t.Error("marshalling a string: no error")
	}
}

func TestPoolReusesAndBounds(t *testing.T) {
	pool := new(wire.Pool)
	for _, n := range []int{0, 1, 2048, 2049, 8 << 20, 9 << 20} {
		b := pool.Get(n)
		if len(*b) != n {
			t.Errorf("Get(%d) has length %d", n, len(*b))
		}
		if capacity := cap(*b); n <= 8<<20 && (capacity < 2048 || capacity > max(2048, 2*n)) {
			t.Errorf("Get(%d) has capacity %d", n, capacity)
		}
		pool.Put(b)
	}
	if raceEnabled {
		return // sync.Pool drops values at random under the race detector
	}
	first := pool.Get(5000)
	address := &(*first)[:1][0]
	pool.Put(first)
	if second := pool.Get(6000); &(*second)[0] != address {
		t.Error("a buffer of the same class was not reused")
	}
}

func ExampleStatus_String() {
	fmt.Println(wire.StatusNotHosted, wire.StatusDraining, wire.Status(77))
	// Output: not hosted draining unknown status
}
