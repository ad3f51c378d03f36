package wire

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"google.golang.org/grpc/mem"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Field numbers of the two messages; the headers' numbers are in their encoders.
const (
	fieldCRC  = 14
	fieldRows = 15
)

// Protobuf wire types.
const (
	typeVarint  = 0
	typeFixed64 = 1
	typeBytes   = 2
	typeFixed32 = 5
)

// header is a sub-message that is encoded by hand: size first, so that the
// length stands before the bytes without moving them.
type header interface {
	// field returns the header's number in the frame.
	field() int
	// appendTo appends the header's encoded fields.
	appendTo(b []byte) []byte
	// bound returns an upper bound of its encoded size.
	bound() int
}

// frameOverhead bounds the bytes around header and rows: two tags, two lengths
// and the checksum.
const frameOverhead = 2*(1+binary.MaxVarintLen64) + 5

// marshal encodes a frame: header and checksum into a pooled buffer, the rows by reference.
func marshal(pool *Pool, h header, rows mem.Buffer) mem.BufferSlice {
	headerBound := 0
	if h != nil {
		headerBound = h.bound()
	}
	buf := pool.Get(headerBound + frameOverhead)
	b := (*buf)[:0]
	sum := uint32(0)
	if h != nil {
		b, sum = appendHeader(b, h)
	}
	rowBytes := bufferBytes(rows)
	sum = crc32.Update(sum, castagnoli, rowBytes)
	if sum != 0 {
		b = append(b, fieldCRC<<3|typeFixed32)
		b = binary.LittleEndian.AppendUint32(b, sum)
	}
	if len(rowBytes) == 0 {
		*buf = b
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}
	}
	b = append(b, fieldRows<<3|typeBytes)
	b = binary.AppendUvarint(b, uint64(len(rowBytes)))
	*buf = b
	rows.Ref()
	return mem.BufferSlice{mem.NewBuffer(buf, pool), rows}
}

// appendHeader appends the header as a length-delimited field and returns its
// checksum. The length takes as many bytes as the bound needs would not be
// canonical, so the body is encoded behind the widest length and moved down.
func appendHeader(b []byte, h header) ([]byte, uint32) {
	b = append(b, byte(h.field()<<3|typeBytes))
	start := len(b)
	b = h.appendTo(append(b, make([]byte, binary.MaxVarintLen32)...))
	bodyStart := start + binary.MaxVarintLen32
	n := len(b) - bodyStart
	width := uvarintSize(uint64(n))
	copy(b[start+width:], b[bodyStart:])
	binary.PutUvarint(b[start:], uint64(n))
	b = b[:start+width+n]
	return b, headerChecksum(h.field(), b[start+width:])
}

// headerChecksum is the checksum of a header: of its number first, so that one kind of
// frame is not taken for another, then of its bytes.
func headerChecksum(field int, header []byte) uint32 {
	return crc32.Update(fieldChecksums[field], castagnoli, header)
}

// fieldChecksums are those of the headers' numbers.
var fieldChecksums = [...]uint32{
	1: crc32.Checksum([]byte{1}, castagnoli),
	2: crc32.Checksum([]byte{2}, castagnoli),
	3: crc32.Checksum([]byte{3}, castagnoli),
	4: crc32.Checksum([]byte{4}, castagnoli),
}

func uvarintSize(v uint64) int { return max(1, (bits.Len64(v)+6)/7) }

// appendUint appends a number, omitted if zero, as proto3 does.
func appendUint(b []byte, field int, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(field<<3|typeVarint)), v)
}

// appendText appends bytes or a string, omitted if empty.
func appendText[T ~string | ~[]byte](b []byte, field int, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, byte(field<<3|typeBytes)), uint64(len(v)))
	return append(b, v...)
}

// appendPacked appends numbers as one packed field, omitted if there are none.
func appendPacked[T ~uint32](b []byte, field int, vs []T) []byte {
	if len(vs) == 0 {
		return b
	}
	n := 0
	for _, v := range vs {
		n += uvarintSize(uint64(v))
	}
	b = binary.AppendUvarint(append(b, byte(field<<3|typeBytes)), uint64(n))
	for _, v := range vs {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

// numberBound bounds one number or the tag and length of one field.
const numberBound = 1 + binary.MaxVarintLen64

func (h *Hello) field() int { return 1 }

func (h *Hello) bound() int {
	return 10*numberBound + len(h.ModelDigest) + len(h.NumericMode) + len(h.KernelClass) +
		binary.MaxVarintLen32*len(h.DTypes) + len(h.NodeID)
}

func (h *Hello) appendTo(b []byte) []byte {
	b = appendUint(b, 1, uint64(h.ProtocolVersion))
	b = appendText(b, 2, h.ModelDigest)
	b = appendText(b, 3, h.NumericMode)
	b = appendText(b, 4, h.KernelClass)
	b = appendUint(b, 5, h.Epoch)
	b = appendUint(b, 6, uint64(h.HiddenSize))
	b = appendPacked(b, 7, h.DTypes)
	b = appendUint(b, 8, uint64(h.MaxFrameBytes))
	b = appendUint(b, 9, h.CreditBytes)
	return appendText(b, 10, h.NodeID)
}

func (d *Dispatch) field() int { return 2 }

func (d *Dispatch) bound() int {
	return 8*numberBound + binary.MaxVarintLen32*(len(d.ExpertIDs)+len(d.ExpertRowCounts))
}

func (d *Dispatch) appendTo(b []byte) []byte {
	b = appendUint(b, 1, d.FrameID)
	b = appendUint(b, 2, d.PlacementRevision)
	b = appendUint(b, 3, uint64(d.Layer))
	b = appendUint(b, 4, uint64(d.DType))
	b = appendUint(b, 5, uint64(d.RowCount))
	b = appendPacked(b, 6, d.ExpertIDs)
	b = appendPacked(b, 7, d.ExpertRowCounts)
	return appendUint(b, 8, uint64(d.BudgetMicros))
}

func (c *Combine) field() int { return 2 }

func (c *Combine) bound() int {
	return 9*numberBound + binary.MaxVarintLen32*len(c.Statuses) + len(c.Detail)
}

func (c *Combine) appendTo(b []byte) []byte {
	b = appendUint(b, 1, c.FrameID)
	b = appendUint(b, 2, uint64(c.RowCount))
	b = appendUint(b, 3, uint64(c.DType))
	b = appendPacked(b, 4, c.Statuses)
	b = appendUint(b, 5, c.NodeRevision)
	b = appendUint(b, 6, uint64(c.QueueMicros))
	b = appendUint(b, 7, uint64(c.ComputeMicros))
	b = appendUint(b, 8, c.CreditBytes)
	return appendText(b, 9, c.Detail)
}

// number is a header of one number, as Cancel, Ping and Pong are.
type number struct {
	at    int
	value uint64
}

func (n number) field() int               { return n.at }
func (n number) bound() int               { return numberBound }
func (n number) appendTo(b []byte) []byte { return appendUint(b, 1, n.value) }

// header returns the header that Kind names, nil for KindNone.
func (r *Request) header() header {
	switch r.Kind {
	case KindHello:
		return &r.Hello
	case KindDispatch:
		return &r.Dispatch
	case KindCancel:
		return number{3, r.CancelID}
	case KindPing:
		return number{4, r.PingNonce}
	}
	return nil
}

// header returns the header that Kind names, nil for KindNone.
func (r *Response) header() header {
	switch r.Kind {
	case KindHello:
		return &r.Hello
	case KindCombine:
		return &r.Combine
	case KindPong:
		return number{3, r.PongNonce}
	}
	return nil
}
