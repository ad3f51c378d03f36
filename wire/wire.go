// Package wire turns the frames of the expert call into bytes and back: the
// frame's header as plain numbers, and the rows as one raw buffer behind it.
//
// A frame is a protobuf message (ExecuteRequest or ExecuteResponse of
// drover.v1.ExpertService), written and parsed by hand so that rows are neither
// copied through a protobuf library nor allocated for each frame. Codec is the
// gRPC codec that does so; any protobuf client still speaks the same bytes.
//
// Two rules hold for everything here:
//
//   - W1, nothing that a frame claims sizes, indexes or allocates before it was
//     checked against what arrived and against the codec's bounds.
//   - W2, a CRC-32C over the header's number, its encoded bytes and then the rows
//     travels with each frame. Verify tells whether it fitted; a frame that does not
//     verify is answered in band where its kind is known.
package wire

import (
	"errors"

	"google.golang.org/grpc/mem"
)

// ProtocolVersion is the version of the frames that this package reads and writes.
// From version 3 on a client whose stream is idle sends a Ping every second.
const ProtocolVersion = 3

// MaxStreamFrames bounds the Dispatches of one stream that wait for their Combine.
const MaxStreamFrames = 256

// DType is the type of the elements of rows.
type DType uint32

// The types of elements, numbered as on the wire.
const (
	BF16    DType = 1
	Float32 DType = 2
)

// Size returns the bytes of one element, 0 if the type is unknown.
func (t DType) Size() int {
	switch t {
	case BF16:
		return 2
	case Float32:
		return 4
	}
	return 0
}

// String names the type.
func (t DType) String() string {
	switch t {
	case BF16:
		return "bf16"
	case Float32:
		return "float32"
	}
	return "unknown type"
}

// Status says what became of one expert's rows.
type Status uint32

// The statuses, numbered as on the wire.
const (
	StatusOK        Status = 1
	StatusNotHosted Status = 2
	// StatusOverloaded means that the node's queue was full.
	StatusOverloaded Status = 3
	// StatusCorrupt means that the frame did not verify on arrival.
	StatusCorrupt  Status = 4
	StatusBadShape Status = 5
	// StatusDeadline means that the frame's budget was used up before its turn.
	StatusDeadline  Status = 6
	StatusCancelled Status = 7
	StatusDraining  Status = 8
	StatusInternal  Status = 9
)

var statusNames = [...]string{"unspecified", "ok", "not hosted", "overloaded", "corrupt",
	"bad shape", "deadline", "cancelled", "draining", "internal error"}

// String names the status.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "unknown status"
}

// Kind says which header a frame carries.
type Kind uint8

// The kinds of header. A Request is a Hello, Dispatch, Cancel or Ping; a
// Response is a Hello, Combine or Pong. KindNone is a frame without a header.
const (
	KindNone Kind = iota
	KindHello
	KindDispatch
	KindCancel
	KindPing
	KindCombine
	KindPong
)

// Hello opens a stream in each direction and fixes what both sides agree on.
type Hello struct {
	ProtocolVersion uint32
	ModelDigest     []byte
	NumericMode     string
	KernelClass     string
	Epoch           uint64
	HiddenSize      uint32
	DTypes          []DType
	MaxFrameBytes   uint32
	CreditBytes     uint64
	NodeID          string
}

// Dispatch asks for the outputs of some experts of one layer. Its rows lie
// expert by expert in the order of ExpertIDs.
type Dispatch struct {
	FrameID           uint64
	PlacementRevision uint64
	Layer             uint32
	DType             DType
	RowCount          uint32
	ExpertIDs         []uint32
	ExpertRowCounts   []uint32
	BudgetMicros      uint32
}

// Combine answers one Dispatch. Its rows are the outputs of the experts whose
// status is OK, in the order they were sent.
type Combine struct {
	FrameID uint64
	// RowCount counts the rows that came back.
	RowCount uint32
	DType    DType
	// Statuses holds one status for each expert asked for; empty means that all are OK.
	Statuses      []Status
	NodeRevision  uint64
	QueueMicros   uint32
	ComputeMicros uint32
	CreditBytes   uint64
	Detail        string
}

// Request is a frame to a node. Only the header that Kind names has a meaning.
type Request struct {
	Kind     Kind
	Hello    Hello
	Dispatch Dispatch
	// CancelID is the frame to withdraw, for KindCancel.
	CancelID uint64
	// PingNonce is echoed in the Pong, for KindPing.
	PingNonce uint64
	// Rows holds the rows' bytes, nil if there are none. To send, the caller keeps
	// its own reference: marshalling takes another, which gRPC drops when the bytes
	// are written, and the caller frees its own after Send. What was received
	// belongs to the receiver, who frees it. Nobody writes to a buffer once sent.
	Rows mem.Buffer

	check check
}

// Response is a frame from a node. Only the header that Kind names has a meaning.
type Response struct {
	Kind    Kind
	Hello   Hello
	Combine Combine
	// PongNonce echoes the Ping's, for KindPong.
	PongNonce uint64
	// Rows is owned as in Request.
	Rows mem.Buffer

	check check
}

// ErrCorrupt is returned by Verify for a frame whose checksum does not fit.
var ErrCorrupt = errors.New("wire: checksum does not fit the frame")

// ErrMalformed is wrapped by the errors of frames that are no valid message.
var ErrMalformed = errors.New("wire: malformed frame")

// check is the checksum as claimed and as computed, and scratch for parsing.
type check struct {
	claimed, computed uint32
	scratch           []byte // a header that arrived in pieces
}

func (c *check) verify() error {
	if c.claimed != c.computed {
		return ErrCorrupt
	}
	return nil
}

// Verify tells whether the checksum of a received frame fits: nil or ErrCorrupt.
func (r *Request) Verify() error { return r.check.verify() }

// Verify tells whether the checksum of a received frame fits: nil or ErrCorrupt.
func (r *Response) Verify() error { return r.check.verify() }

// Release frees the rows, if there are any, and forgets them.
func (r *Request) Release() { release(&r.Rows) }

// Release frees the rows, if there are any, and forgets them.
func (r *Response) Release() { release(&r.Rows) }

func release(b *mem.Buffer) {
	if *b != nil {
		(*b).Free()
		*b = nil
	}
}

// RowBytes returns the rows' bytes, nil if there are none. They are valid until Release.
func (r *Request) RowBytes() []byte { return bufferBytes(r.Rows) }

// RowBytes returns the rows' bytes, nil if there are none. They are valid until Release.
func (r *Response) RowBytes() []byte { return bufferBytes(r.Rows) }

func bufferBytes(b mem.Buffer) []byte {
	if b == nil {
		return nil
	}
	return b.ReadOnlyData()
}
