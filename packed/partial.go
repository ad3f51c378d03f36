package packed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"

	"drover/kernel"
)

// MaxChunkBytes bounds what Append takes at a time.
const MaxChunkBytes = 1 << 20

// ErrCorrupt is wrapped by errors about weights that are not what was sent or announced.
var ErrCorrupt = errors.New("packed weights are corrupt")

// A part is a file beside a piece's, with what came of it so far:
//
//	magic       8 bytes
//	version     uint32
//	body        uint64, the size of the whole body in bytes
//	key         32 bytes, the hash that names the piece
//	content     32 bytes, SHA-256 of the whole body
//	checksum    uint32, CRC-32C of all before
//
// then records, from the body's first byte on:
//
//	length      uint32
//	checksum    uint32, CRC-32C of the length, the offset in the body as uint64, the bytes
//	bytes
//
// Whoever goes on with a part checks each record and keeps those before the first that is
// damaged or cut off.
const (
	partMagic       = "DRVRPART"
	partSuffix      = ".part"
	partHeaderBytes = 8 + 4 + 8 + 32 + 32 + 4
	partRecordBytes = 4 + 4
)

// Partial is a piece's body on its way from elsewhere. It belongs to one goroutine.
type Partial struct {
	layout *layout
	buffer *kernel.Buffer

	file    *os.File // nil: what came so far is in memory only
	begun   bool     // content is known
	content [32]byte // that was announced for the whole
	have    int      // bytes of the buffer that are there
	hash    hash.Hash
	whole   bool
}

// Size is the size of the whole body in bytes.
func (p *Partial) Size() int64 { return int64(p.layout.bodyBytes) }

// Have is how many of its bytes are there and checked.
func (p *Partial) Have() int64 { return int64(p.have) }

// Content is the announced SHA-256 of the body of which Have bytes are there. It is false
// if there are none.
func (p *Partial) Content() ([32]byte, bool) { return p.content, p.begun && p.have > 0 }

// Begin says what the whole body's SHA-256 will be. What is there of a body with another
// is given up.
func (p *Partial) Begin(content [32]byte) {
	if p.begun && p.content == content {
		return
	}
	p.restart()
	p.begun, p.content = true, content
	if p.file == nil {
		return
	}
	b := make([]byte, 0, partHeaderBytes)
	b = append(b, partMagic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.layout.bodyBytes))
	b = append(b, p.layout.key[:]...)
	b = append(b, content[:]...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	p.write(b)
}

// restart gives up what is there.
func (p *Partial) restart() {
	p.begun, p.have, p.whole, p.hash = false, 0, false, sha256.New()
	if p.file == nil {
		return
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil || p.file.Truncate(0) != nil {
		p.forget()
	}
}

// write appends to the part. A part that cannot be written is done without: it only saves
// time later.
func (p *Partial) write(b []byte) {
	if p.file == nil {
		return
	}
	if _, err := p.file.Write(b); err != nil {
		p.forget()
	}
}

// forget removes the part and goes on in memory.
func (p *Partial) forget() {
	if p.file != nil {
		_ = p.file.Truncate(0) // a full disk needs the room
		_ = os.Remove(p.file.Name())
		_ = p.file.Close()
		p.file = nil
	}
}

func (p *Partial) close() {
	if p.file != nil {
		_ = p.file.Close() // what it did not keep fails its checksums
		p.file = nil
	}
}

// Sum is the checksum under which a chunk travels: CRC-32C of its offset, as a
// little-endian uint64, and its bytes.
func Sum(offset int64, chunk []byte) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(offset))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, chunk)
}

// Append takes the next bytes of the body, which begin at offset and have a checksum of
// Sum. What does not fit or does not match is refused with ErrCorrupt and changes nothing.
func (p *Partial) Append(offset int64, chunk []byte, sum uint32) error {
	switch {
	case !p.begun:
		return errors.New("append to packed weights: Begin comes first")
	case offset != int64(p.have):
		return fmt.Errorf("%w: a chunk begins at %d, %d is next", ErrCorrupt, offset, p.have)
	case len(chunk) == 0 || len(chunk) > min(MaxChunkBytes, p.layout.bodyBytes-p.have):
		return fmt.Errorf("%w: a chunk of %d bytes at %d of %d", ErrCorrupt, len(chunk), p.have,
			p.layout.bodyBytes)
	}
	if got := Sum(offset, chunk); got != sum {
		return fmt.Errorf("%w: the chunk at %d has checksum %08x, must be %08x", ErrCorrupt,
			offset, got, sum)
	}
	if p.file != nil {
		record := make([]byte, partRecordBytes, partRecordBytes+len(chunk))
		binary.LittleEndian.PutUint32(record, uint32(len(chunk)))
		binary.LittleEndian.PutUint32(record[4:], recordSum(p.have, chunk))
		p.write(append(record, chunk...))
	}
	p.take(chunk)
	return nil
}

// take adds checked bytes to the body.
func (p *Partial) take(chunk []byte) {
	copy(p.buffer.Bytes()[p.have:], chunk)
	p.hash.Write(chunk)
	p.have += len(chunk)
}

func recordSum(offset int, chunk []byte) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint32(b[:], uint32(len(chunk)))
	binary.LittleEndian.PutUint64(b[4:], uint64(offset))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, chunk)
}

// Finish compares the body with what was announced. If it is another, all of it is given
// up and the error wraps ErrCorrupt.
func (p *Partial) Finish() error {
	if !p.begun || p.have != p.layout.bodyBytes {
		return fmt.Errorf("%w: %d of %d bytes came", ErrCorrupt, p.have, p.layout.bodyBytes)
	}
	if got, want := [32]byte(p.hash.Sum(nil)), p.content; got != want {
		p.restart()
		return fmt.Errorf("%w: their SHA-256 is %x, was announced as %x", ErrCorrupt, got, want)
	}
	p.whole = true
	return nil
}

// open opens the part at path and takes over what is sound of it. The caller holds the
// piece's lock.
func (p *Partial) open(path string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return
	}
	p.file = f
	sound := p.resume(f)
	if !p.begun {
		p.restart()
		return
	}
	if _, err := f.Seek(sound, io.SeekStart); err != nil || f.Truncate(sound) != nil {
		p.forget()
	}
}

// resume reads a part and returns the size of what is sound of it.
func (p *Partial) resume(f *os.File) int64 {
	header := make([]byte, partHeaderBytes)
	if _, err := io.ReadFull(f, header); err != nil {
		return 0
	}
	end := partHeaderBytes - 4
	sum := binary.LittleEndian.Uint32(header[end:])
	switch {
	case crc32.Checksum(header[:end], castagnoli) != sum, string(header[:8]) != partMagic,
		binary.LittleEndian.Uint32(header[8:]) != Version,
		binary.LittleEndian.Uint64(header[12:]) != uint64(p.layout.bodyBytes),
		!bytes.Equal(header[20:52], p.layout.key[:]):
		return 0
	}
	p.begun, p.content = true, [32]byte(header[52:84])
	sound, chunk := int64(partHeaderBytes), make([]byte, MaxChunkBytes)
	var head [partRecordBytes]byte
	for p.have < p.layout.bodyBytes {
		if _, err := io.ReadFull(f, head[:]); err != nil {
			break
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n == 0 || n > uint32(min(MaxChunkBytes, p.layout.bodyBytes-p.have)) {
			break
		}
		if _, err := io.ReadFull(f, chunk[:n]); err != nil ||
			recordSum(p.have, chunk[:n]) != binary.LittleEndian.Uint32(head[4:]) {
			break
		}
		p.take(chunk[:n])
		sound += partRecordBytes + int64(n)
	}
	return sound
}
