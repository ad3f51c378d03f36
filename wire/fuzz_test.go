package wire_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// FuzzRequest feeds arbitrary bytes: what the codec accepts, protobuf accepts
// with the same content, and the codec's own encoding of it reads back the same.
func FuzzRequest(f *testing.F) {
	for _, m := range []*droverv1.ExecuteRequest{
		{Kind: &droverv1.ExecuteRequest_Hello{Hello: &droverv1.Hello{NodeId: "n", Epoch: 3,
			ModelDigest: []byte{1, 2}, Dtypes: []droverv1.Dtype{1, 2}}}, Crc32C: 5},
		{Kind: &droverv1.ExecuteRequest_Dispatch{Dispatch: &droverv1.Dispatch{FrameId: 1, Layer: 2,
			ExpertIds: []uint32{1, 300}, ExpertRowCounts: []uint32{1, 1}}}, Rows: []byte("rows")},
		{Kind: &droverv1.ExecuteRequest_Cancel{Cancel: &droverv1.Cancel{FrameId: 1 << 40}}},
		{Kind: &droverv1.ExecuteRequest_Ping{Ping: &droverv1.Ping{Nonce: 9}}},
	} {
		encoded, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded, uint64(1))
	}
	f.Fuzz(func(t *testing.T, encoded []byte, seed uint64) {
		var got wire.Request
		if codec.Unmarshal(split(encoded, seed), &got) != nil {
			return
		}
		defer got.Release()
		want := new(droverv1.ExecuteRequest)
		if err := proto.Unmarshal(encoded, want); err != nil {
			t.Fatalf("accepted what protobuf refuses: %v", err)
		}
		want.ProtoReflect().SetUnknown(nil)
		again := requestProto(&got, want.Crc32C)
		if a, b := canonical(t, again), canonical(t, want); a != b {
			t.Fatalf("got %q, want %q", a, b)
		}
		var twice wire.Request
		if err := codec.Unmarshal(split(encode(t, &got), seed), &twice); err != nil {
			t.Fatalf("own encoding: %v", err)
		}
		defer twice.Release()
		if err := twice.Verify(); err != nil {
			t.Fatalf("own encoding: %v", err)
		}
	})
}

// FuzzResponse does for responses what FuzzRequest does for requests.
func FuzzResponse(f *testing.F) {
	for _, m := range []*droverv1.ExecuteResponse{
		{Kind: &droverv1.ExecuteResponse_Hello{Hello: &droverv1.Hello{KernelClass: "c"}}},
		{Kind: &droverv1.ExecuteResponse_Combine{Combine: &droverv1.Combine{FrameId: 1, Detail: "d",
			Statuses: []droverv1.ExpertStatus{1, 2, 9}}}, Rows: []byte("rows"), Crc32C: 1},
		{Kind: &droverv1.ExecuteResponse_Pong{Pong: &droverv1.Pong{Nonce: 1}}},
	} {
		encoded, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded, uint64(1))
	}
	f.Fuzz(func(t *testing.T, encoded []byte, seed uint64) {
		var got wire.Response
		if codec.Unmarshal(split(encoded, seed), &got) != nil {
			return
		}
		defer got.Release()
		want := new(droverv1.ExecuteResponse)
		if err := proto.Unmarshal(encoded, want); err != nil {
			t.Fatalf("accepted what protobuf refuses: %v", err)
		}
		want.ProtoReflect().SetUnknown(nil)
		again := responseProto(&got, want.Crc32C)
		if a, b := canonical(t, again), canonical(t, want); a != b {
			t.Fatalf("got %q, want %q", a, b)
		}
		var twice wire.Response
		if err := codec.Unmarshal(split(encode(t, &got), seed), &twice); err != nil {
			t.Fatalf("own encoding: %v", err)
		}
		defer twice.Release()
		if err := twice.Verify(); err != nil {
			t.Fatalf("own encoding: %v", err)
		}
	})
}

// canonical encodes a message without unknown fields, deterministically.
func canonical(t *testing.T, m proto.Message) string {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	clean := m.ProtoReflect().New().Interface()
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(encoded, clean); err != nil {
		t.Fatal(err)
	}
	if encoded, err = (proto.MarshalOptions{Deterministic: true}).Marshal(clean); err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

func BenchmarkFrame(b *testing.B) {
	for _, size := range []int{10240, 163840, 2621440} {
		b.Run(map[int]string{10240: "1row", 163840: "16rows", 2621440: "256rows"}[size],
			func(b *testing.B) { benchmarkFrame(b, size) })
	}
}

// benchmarkFrame encodes and decodes one frame of rows.
func benchmarkFrame(b *testing.B, size int) {
	rows, _ := codec.Pool.NewBuffer(size)
	defer rows.Free()
	out := wire.Request{Kind: wire.KindDispatch, Rows: rows}
	out.Dispatch = wire.Dispatch{FrameID: 1, RowCount: 1, ExpertIDs: []uint32{3, 9},
		ExpertRowCounts: []uint32{1, 1}}
	var in wire.Request
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		data, err := codec.Marshal(&out)
		if err != nil {
			b.Fatal(err)
		}
		if err := codec.Unmarshal(data, &in); err != nil {
			b.Fatal(err)
		}
		if err := in.Verify(); err != nil {
			b.Fatal(err)
		}
		in.Release()
		data.Free()
	}
}
