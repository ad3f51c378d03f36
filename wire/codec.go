package wire

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec for everything else
	"google.golang.org/grpc/mem"
)

// MaxRowBytes is the default bound of one frame's rows, and the largest.
const MaxRowBytes = 8 << 20

// MaxMessageBytes is the gRPC message size that fits every frame of MaxRowBytes.
const MaxMessageBytes = MaxRowBytes + maxHeaderBytes + frameOverhead

// Codec is the gRPC codec of the expert call: *Request and *Response are encoded
// here, every other message by gRPC's own protobuf codec. It is used with
// grpc.ForceCodecV2 and grpc.ForceServerCodecV2 and is safe for concurrent use.
type Codec struct {
	// RowLimit bounds the bytes of rows that a frame may bring. Zero means MaxRowBytes;
	// lower saves memory, too low refuses frames.
	RowLimit int
	// Pool is where received rows and sent headers live; required.
	Pool *Pool
}

var _ encoding.CodecV2 = (*Codec)(nil)

// Name returns "proto": on the wire the frames are protobuf messages.
func (c *Codec) Name() string { return "proto" }

func (c *Codec) maxRowBytes() int {
	if c.RowLimit <= 0 || c.RowLimit > MaxRowBytes {
		return MaxRowBytes
	}
	return c.RowLimit
}

// Marshal encodes a message. The rows of a frame are passed on by reference.
func (c *Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Request:
		return marshal(c.Pool, m.header(), m.Rows), nil
	case *Response:
		return marshal(c.Pool, m.header(), m.Rows), nil
	}
	return encoding.GetCodecV2(c.Name()).Marshal(v)
}

// Unmarshal decodes a message. A frame's slices are reused; its previous rows are released.
func (c *Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *Request:
		return c.unmarshalRequest(data, m)
	case *Response:
		return c.unmarshalResponse(data, m)
	}
	return encoding.GetCodecV2(c.Name()).Unmarshal(data, v)
}

func (c *Codec) unmarshalRequest(data mem.BufferSlice, r *Request) error {
	r.Release()
	r.Kind = KindNone
	p := newPieces(data)
	parts, err := parseFrame(&p, c, &r.check, 4, &r.Rows)
	if err == nil {
		switch parts.headerField {
		case 1:
			r.Kind, err = KindHello, r.Hello.parse(parts.header)
		case 2:
			r.Kind, err = KindDispatch, r.Dispatch.parse(parts.header)
		case 3:
			r.Kind = KindCancel
			r.CancelID, err = parseNumber(parts.header)
		case 4:
			r.Kind = KindPing
			r.PingNonce, err = parseNumber(parts.header)
		}
	}
	if err != nil {
		r.Release()
	}
	return err
}

func (c *Codec) unmarshalResponse(data mem.BufferSlice, r *Response) error {
	r.Release()
	r.Kind = KindNone
	p := newPieces(data)
	parts, err := parseFrame(&p, c, &r.check, 3, &r.Rows)
	if err == nil {
		switch parts.headerField {
		case 1:
			r.Kind, err = KindHello, r.Hello.parse(parts.header)
		case 2:
			r.Kind, err = KindCombine, r.Combine.parse(parts.header)
		case 3:
			r.Kind = KindPong
			r.PongNonce, err = parseNumber(parts.header)
		}
	}
	if err != nil {
		r.Release()
	}
	return err
}
