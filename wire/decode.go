package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
)

// maxHeaderBytes bounds one header: room for thousands of experts.
const maxHeaderBytes = 64 << 10

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// frameParts are the fields of either message, found before anything is interpreted.
type frameParts struct {
	headerField int
	header      []byte // of headerField, valid until the next parse
}

// parseFrame walks the outer message. Rows are copied once, into a buffer of the
// pool. A header or rows given twice is malformed: no encoder does it.
func parseFrame(p *pieces, c *Codec, ch *check, maxField int, out *mem.Buffer) (
	frameParts, error) {
	parts := frameParts{}
	ch.claimed, ch.computed = 0, 0
	var rows []byte
	for p.left > 0 {
		tag, err := p.uvarint()
		if err != nil {
			return parts, err
		}
		field, wireType := tag>>3, int(tag&7)
		switch {
		case field >= 1 && field <= uint64(maxField) && wireType == typeBytes:
			if parts.headerField != 0 {
				return parts, malformed("two headers")
			}
			parts.headerField = int(field)
			if parts.header, err = takeHeader(p, ch); err != nil {
				return parts, err
			}
		case field == fieldCRC && wireType == typeFixed32:
			var fixed [4]byte
			if err := p.copyTo(fixed[:]); err != nil {
				return parts, err
			}
			ch.claimed = binary.LittleEndian.Uint32(fixed[:])
		case field == fieldRows && wireType == typeBytes:
			n, err := p.length()
			if err != nil {
				return parts, err
			}
			if n > c.maxRowBytes() {
				return parts, malformed(
					fmt.Sprintf("%d bytes of rows, limit %d", n, c.maxRowBytes()))
			}
			if rows != nil {
				return parts, malformed("rows given twice")
			}
			if n > 0 {
				*out, rows = c.Pool.NewBuffer(n)
				if err := p.copyTo(rows); err != nil {
					return parts, err
				}
			}
		default:
			if err := p.skip(field, wireType); err != nil {
				return parts, err
			}
		}
	}
	ch.computed = crc32.Update(headerChecksum(parts.headerField, parts.header), castagnoli, rows)
	return parts, nil
}

func takeHeader(p *pieces, ch *check) ([]byte, error) {
	n, err := p.length()
	if err != nil {
		return nil, err
	}
	if n > maxHeaderBytes {
		return nil, malformed(fmt.Sprintf("header of %d bytes, limit %d", n, maxHeaderBytes))
	}
	return p.take(n, &ch.scratch)
}

// fields walks the encoded fields of one header.
type fields struct {
	b        []byte
	field    int
	wireType int
	number   uint64 // of a varint
	text     []byte // of a length-delimited field
	err      error
}

// next reads one field and reports whether there was one.
func (f *fields) next() bool {
	if f.err != nil || len(f.b) == 0 {
		return false
	}
	tag := f.uvarint()
	f.wireType = int(tag & 7)
	if f.err == nil && (tag>>3 == 0 || tag>>3 > maxFieldNumber) {
		f.err = malformed("field number out of range")
	}
	f.field = int(tag >> 3)
	switch f.wireType {
	case typeVarint:
		f.number = f.uvarint()
	case typeFixed64:
		f.cut(8)
	case typeFixed32:
		f.cut(4)
	case typeBytes:
		n := f.uvarint()
		if f.err == nil && n > uint64(len(f.b)) {
			f.err = malformed("field runs past the header")
			return false
		}
		f.text = f.cut(int(n))
	default:
		f.err = malformed("wire type of a header's field")
	}
	return f.err == nil
}

func (f *fields) cut(n int) []byte {
	if f.err != nil {
		return nil
	}
	if n > len(f.b) {
		f.err = malformed("field runs past the header")
		return nil
	}
	out := f.b[:n]
	f.b = f.b[n:]
	return out
}

func (f *fields) uvarint() uint64 {
	if f.err != nil {
		return 0
	}
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.err = malformed("number in the header")
		return 0
	}
	f.b = f.b[n:]
	return v
}

// u64 stores a number if the field is one; another wire type is an unknown field.
func (f *fields) u64(v *uint64) {
	if f.wireType == typeVarint {
		*v = f.number
	}
}

// u32 stores a number of 32 bits.
func u32[T ~uint32](f *fields, v *T) {
	if f.wireType != typeVarint {
		return
	}
	if f.number > math.MaxUint32 {
		f.err = malformed("number beyond 32 bits")
		return
	}
	*v = T(f.number)
}

// enum stores a number of an enumeration, which is never negative here.
func enum[T ~uint32](f *fields, v *T) {
	if f.wireType == typeVarint && f.number > math.MaxInt32 {
		f.err = malformed("enumeration out of range")
		return
	}
	u32(f, v)
}

// list appends numbers, packed or not. The header's own size bounds them.
func list[T ~uint32](f *fields, vs *[]T, limit uint64) {
	switch f.wireType {
	case typeVarint:
		if f.number > limit {
			f.err = malformed("number out of range")
			return
		}
		*vs = append(*vs, T(f.number))
	case typeBytes:
		in := fields{b: f.text}
		for len(in.b) > 0 {
			v := in.uvarint()
			if in.err == nil && v > limit {
				in.err = malformed("number out of range")
			}
			if in.err != nil {
				f.err = in.err
				return
			}
			*vs = append(*vs, T(v))
		}
	}
}

func (f *fields) str(v *string) {
	if f.wireType != typeBytes {
		return
	}
	if !utf8.Valid(f.text) {
		f.err = malformed("text is not UTF-8")
		return
	}
	if *v != string(f.text) {
		*v = string(f.text)
	}
}

func (h *Hello) parse(b []byte) error {
	*h = Hello{ModelDigest: h.ModelDigest[:0], DTypes: h.DTypes[:0]}
	f := fields{b: b}
	for f.next() {
		switch f.field {
		case 1:
			u32(&f, &h.ProtocolVersion)
		case 2:
			if f.wireType == typeBytes {
				h.ModelDigest = append(h.ModelDigest[:0], f.text...)
			}
		case 3:
			f.str(&h.NumericMode)
		case 4:
			f.str(&h.KernelClass)
		case 5:
			f.u64(&h.Epoch)
		case 6:
			u32(&f, &h.HiddenSize)
		case 7:
			list(&f, &h.DTypes, math.MaxInt32)
		case 8:
			u32(&f, &h.MaxFrameBytes)
		case 9:
			f.u64(&h.CreditBytes)
		case 10:
			f.str(&h.NodeID)
		}
	}
	return f.err
}

func (d *Dispatch) parse(b []byte) error {
	*d = Dispatch{ExpertIDs: d.ExpertIDs[:0], ExpertRowCounts: d.ExpertRowCounts[:0]}
	f := fields{b: b}
	for f.next() {
		switch f.field {
		case 1:
			f.u64(&d.FrameID)
		case 2:
			f.u64(&d.PlacementRevision)
		case 3:
			u32(&f, &d.Layer)
		case 4:
			enum(&f, &d.DType)
		case 5:
			u32(&f, &d.RowCount)
		case 6:
			list(&f, &d.ExpertIDs, math.MaxUint32)
		case 7:
			list(&f, &d.ExpertRowCounts, math.MaxUint32)
		case 8:
			u32(&f, &d.BudgetMicros)
		}
	}
	return f.err
}

func (c *Combine) parse(b []byte) error {
	*c = Combine{Statuses: c.Statuses[:0]}
	f := fields{b: b}
	for f.next() {
		switch f.field {
		case 1:
			f.u64(&c.FrameID)
		case 2:
			u32(&f, &c.RowCount)
		case 3:
			enum(&f, &c.DType)
		case 4:
			list(&f, &c.Statuses, math.MaxInt32)
		case 5:
			f.u64(&c.NodeRevision)
		case 6:
			u32(&f, &c.QueueMicros)
		case 7:
			u32(&f, &c.ComputeMicros)
		case 8:
			f.u64(&c.CreditBytes)
		case 9:
			f.str(&c.Detail)
		}
	}
	return f.err
}

// parseNumber reads a header of one number.
func parseNumber(b []byte) (uint64, error) {
	v := uint64(0)
	f := fields{b: b}
	for f.next() {
		if f.field == 1 {
			f.u64(&v)
		}
	}
	return v, f.err
}
