package expertnode_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"

	"drover/expertnode"
	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// refusals collects what a node tells of frames that it does not compute.
type refusals struct {
	mu  sync.Mutex // guards the field below
	all []string
}

func (r *refusals) add(address string, frameID uint64, s wire.Status, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !strings.Contains(address, ":") || detail == "" {
		detail = "no address or no detail"
	}
	r.all = append(r.all, fmt.Sprintf("%d %v: %s", frameID, s, detail))
}

// want checks the newest of them.
func (r *refusals) want(t *testing.T, count int, parts ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) != count {
		t.Fatalf("told of %q, want %d", r.all, count)
	}
	for _, part := range parts {
		if last := r.all[count-1]; !strings.Contains(last, part) {
			t.Errorf("told of %q, want %q in it", last, part)
		}
	}
}

// TestRefusedFramesAreTold sends frames that must not be computed: each is answered and
// told of, and the stream goes on.
func TestRefusedFramesAreTold(t *testing.T) {
	var told refusals
	s := serve(t, func(o *expertnode.Options) { o.Events.FrameRefused = told.add })
	s.server.SetRevision(9)
	l := s.greeted(t)
	l.send(frame(5, 1))
	l.wantCombine(5, 1)
	told.want(t, 0)

	l.send(frame(5, 1))
	l.wantCombine(5, 0, wire.StatusBadShape)
	told.want(t, 1, "5 bad shape", "replay")
	l.send(frame(4, 1, 2))
	l.wantCombine(4, 0, wire.StatusBadShape, wire.StatusBadShape)
	told.want(t, 2, "frame 4 comes after frame 5")

	l.send(frame(6, 1, 7))
	l.wantCombine(6, 1, wire.StatusOK, wire.StatusNotHosted)
	told.want(t, 3, "6 not hosted", "expert 7")

	wide := frame(7, 1)
	wide.Dispatch.Layer = 2
	l.send(wide)
	l.wantCombine(7, 0, wire.StatusBadShape)
	told.want(t, 4, "layer 2")

	if n := s.stub.rows.Load(); n != 2 {
		t.Errorf("%d rows were computed, want the two of sound frames", n)
	}
	other := s.greeted(t) // ids are a stream's own
	other.send(frame(1, 1))
	other.wantCombine(1, 1)
	told.want(t, 4)
}

// raw sends bytes as they are.
type raw struct{ wire.Codec }

func (c *raw) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.Codec.Marshal(v)
}

// TestMalformedMessages sends what is no message at all: the stream ends with an error,
// nothing is computed, and the next stream is served.
func TestMalformedMessages(t *testing.T) {
	s := serve(t, nil)
	codec := &raw{wire.Codec{Pool: new(wire.Pool)}}
	data, err := codec.Marshal(frame(1, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	whole := data.Materialize()
	for name, tc := range map[string]struct {
		message []byte
		code    codes.Code
	}{
		"cut in the rows":     {whole[:len(whole)-1], codes.Internal},
		"cut in the header":   {whole[:5], codes.Internal},
		"length of 1 TiB":     {[]byte{0x7a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20}, codes.Internal},
		"random":              {[]byte("GET / HTTP/1.1\r\n\r\n"), codes.Internal},
		"larger than allowed": {make([]byte, wire.MaxMessageBytes+1), codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := s.conn.NewStream(t.Context(), &droverv1.ExpertService_ServiceDesc.Streams[0],
				droverv1.ExpertService_Execute_FullMethodName, grpc.ForceCodecV2(codec))
			if err != nil {
				t.Fatal(err)
			}
			l := &lane{t, stream}
			l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
			l.receive()
			if err := stream.SendMsg(tc.message); err != nil {
				t.Log(err) // the stream's end may come first
			}
			l.wantEnd(tc.code)
			next := s.greeted(t)
			next.send(frame(1, 1))
			next.wantCombine(1, 1)
		})
	}
	if n := s.stub.rows.Load(); n != 5 {
		t.Errorf("%d rows were computed, want the five of sound frames", n)
	}
}
