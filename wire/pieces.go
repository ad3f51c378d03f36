package wire

import (
	"encoding/binary"

	"google.golang.org/grpc/mem"
)

// maxFieldNumber is protobuf's largest field number.
const maxFieldNumber = 1<<29 - 1

// pieces reads a message that arrived as several buffers, across their borders.
type pieces struct {
	rest mem.BufferSlice // after cur
	cur  []byte
	left int // bytes in cur and rest
}

func newPieces(data mem.BufferSlice) pieces {
	return pieces{rest: data, left: data.Len()}
}

// advance makes cur non-empty unless nothing is left.
func (p *pieces) advance() {
	for len(p.cur) == 0 && len(p.rest) > 0 {
		p.cur, p.rest = p.rest[0].ReadOnlyData(), p.rest[1:]
	}
}

func (p *pieces) uvarint() (uint64, error) {
	p.advance()
	if v, n := binary.Uvarint(p.cur); n > 0 {
		p.cur, p.left = p.cur[n:], p.left-n
		return v, nil
	}
	var bytes [binary.MaxVarintLen64]byte
	for i := range bytes {
		if err := p.copyTo(bytes[i : i+1]); err != nil {
			return 0, err
		}
		if bytes[i] < 0x80 {
			v, n := binary.Uvarint(bytes[:i+1])
			if n <= 0 {
				break
			}
			return v, nil
		}
	}
	return 0, malformed("number beyond 64 bits")
}

// length reads the length of a field and checks it against what is left.
func (p *pieces) length() (int, error) {
	n, err := p.uvarint()
	if err != nil {
		return 0, err
	}
	if n > uint64(p.left) {
		return 0, malformed("field runs past the frame")
	}
	return int(n), nil
}

func (p *pieces) copyTo(dst []byte) error {
	if len(dst) > p.left {
		return malformed("frame ends early")
	}
	p.left -= len(dst)
	for len(dst) > 0 {
		p.advance()
		n := copy(dst, p.cur)
		dst, p.cur = dst[n:], p.cur[n:]
	}
	return nil
}

// take returns the next n bytes: a view if they lie in one piece, else a copy in scratch.
func (p *pieces) take(n int, scratch *[]byte) ([]byte, error) {
	if n > p.left {
		return nil, malformed("frame ends early")
	}
	p.advance()
	if n <= len(p.cur) {
		out := p.cur[:n]
		p.cur, p.left = p.cur[n:], p.left-n
		return out, nil
	}
	if cap(*scratch) < n {
		*scratch = make([]byte, n)
	}
	out := (*scratch)[:n]
	return out, p.copyTo(out)
}

// skip drops an unknown field. Groups are obsolete and refused.
func (p *pieces) skip(field uint64, wireType int) error {
	if field == 0 || field > maxFieldNumber {
		return malformed("field number out of range")
	}
	n := 0
	switch wireType {
	case typeVarint:
		_, err := p.uvarint()
		return err
	case typeFixed64:
		n = 8
	case typeFixed32:
		n = 4
	case typeBytes:
		var err error
		if n, err = p.length(); err != nil {
			return err
		}
	default:
		return malformed("wire type of an unknown field")
	}
	if n > p.left {
		return malformed("frame ends early")
	}
	p.left -= n
	for n > 0 {
		p.advance()
		k := min(n, len(p.cur))
		p.cur, n = p.cur[k:], n-k
	}
	return nil
}
