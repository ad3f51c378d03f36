package packed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"drover/kernel"
)

// A file is a header, padded to whole pages, and the body: each matrix's packed weights
// from a multiple of a page on. All numbers are little-endian.
//
//	magic       8 bytes
//	version     uint32
//	matrices    uint32
//	body        uint64, its size in bytes
//	key         32 bytes, the hash that names the file
//	content     32 bytes, SHA-256 of the body
//	checksums   uint32 for each chunk of the body, CRC-32C
//	header      32 bytes, SHA-256 of all before; then zeros
const (
	magic = "DRVRPACK"
	// Version counts the changes of this form and of the formats of packed weights: two
	// processes of one version have the same bytes for the same weights.
	Version   = 1
	pageBytes = 4096
	// chunkBytes of the body have a checksum together.
	chunkBytes = 1 << 20
	fixedBytes = 8 + 4 + 4 + 8 + 32 + 32
	// maxMatrices and maxBody bound a piece, so that no number from outside is
	// multiplied or allocated unchecked.
	maxMatrices = 1 << 10
	maxBody     = 1 << 42
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// layout is where a piece's matrices lie in its body.
type layout struct {
	key       [32]byte
	shapes    []kernel.Shape
	offsets   []int
	bodyBytes int
}

func newLayout(key string, shapes []kernel.Shape) (*layout, error) {
	if len(shapes) == 0 || len(shapes) > maxMatrices {
		return nil, fmt.Errorf("pack %d matrices: must be 1 to %d", len(shapes), maxMatrices)
	}
	l := &layout{key: keyOf(key, shapes), shapes: shapes}
	for _, s := range shapes {
		if err := s.Check(); err != nil {
			return nil, err
		}
		size := kernel.MatrixBytes(s.N, s.K, s.Format)
		if size > maxBody-l.bodyBytes-pageBytes {
			return nil, fmt.Errorf("pack a %d × %d matrix: it is too large", s.N, s.K)
		}
		l.offsets = append(l.offsets, l.bodyBytes)
		l.bodyBytes += wholePages(size)
	}
	return l, nil
}

func wholePages(n int) int { return (n + pageBytes - 1) / pageBytes * pageBytes }

func (l *layout) chunks() int { return (l.bodyBytes + chunkBytes - 1) / chunkBytes }

// headerBytes is the size of the header with its padding.
func (l *layout) headerBytes() int { return wholePages(fixedBytes + 4*l.chunks() + 32) }

// memory returns the piece's matrices, of zeros, in new memory.
func (l *layout) memory() (*kernel.Buffer, []*kernel.Matrix, error) {
	buf, err := kernel.NewBuffer(l.bodyBytes)
	if err != nil {
		return nil, nil, err
	}
	m, err := l.matrices(buf.Bytes(), buf)
	return buf, m, err
}

// matrices returns the piece's matrices over a body that owner keeps.
func (l *layout) matrices(body []byte, owner any) ([]*kernel.Matrix, error) {
	out := make([]*kernel.Matrix, len(l.shapes))
	for i, s := range l.shapes {
		at := l.offsets[i]
		w := body[at : at+kernel.MatrixBytes(s.N, s.K, s.Format)]
		var err error
		if out[i], err = kernel.MapMatrix(s.N, s.K, s.Format, w, owner); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// header returns the header of a piece with a body, whose SHA-256 is content.
func (l *layout) header(body []byte, content [32]byte) []byte {
	b := make([]byte, 0, l.headerBytes())
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.shapes)))
	b = binary.LittleEndian.AppendUint64(b, uint64(l.bodyBytes))
	b = append(b, l.key[:]...)
	b = append(b, content[:]...)
	for i := range l.chunks() {
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(chunk(body, i), castagnoli))
	}
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	return b[:l.headerBytes()]
}

func chunk(body []byte, i int) []byte {
	return body[i*chunkBytes : min((i+1)*chunkBytes, len(body))]
}

// lock opens a file for a piece to be, alone among all processes.
func lock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
	}
}

// write fills the locked file with a piece and gives it its name. Whoever waited for
// the lock of the same file then finds the piece under its name. A process that died
// while it wrote left its file behind, which is begun again.
func write(f *os.File, path string, l *layout, body []byte, content [32]byte) error {
	if st, err := os.Stat(f.Name()); err != nil || !same(f, st) {
		// Another process finished this very file while we waited for its lock, and what
		// it wrote is damaged by now: the next start begins a new one.
		return fmt.Errorf("%s: has been replaced meanwhile", path)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	for _, part := range []struct {
		b  []byte
		at int64
	}{{l.header(body, content), 0}, {body, int64(l.headerBytes())}} {
		if _, err := f.WriteAt(part.b, part.at); err != nil {
			_ = f.Truncate(0) // a full disk needs the room; the file does not count anyway
			_ = os.Remove(f.Name())
			return err
		}
	}
	return os.Rename(f.Name(), path)
}

func same(f *os.File, st os.FileInfo) bool {
	own, err := f.Stat()
	return err == nil && os.SameFile(own, st)
}

// mapPiece maps a piece's file after it has checked it.
func mapPiece(path string, l *layout) ([]*kernel.Matrix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if want := int64(l.headerBytes() + l.bodyBytes); !st.Mode().IsRegular() || st.Size() != want {
		return nil, fmt.Errorf("is %d bytes, must be %d", st.Size(), want)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED|mapPopulate)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", st.Size(), err)
	}
	owner := &mapping{b}
	runtime.AddCleanup(owner, func(b []byte) { _ = unix.Munmap(b) }, b)
	if err := l.check(b); err != nil {
		return nil, err
	}
	return l.matrices(b[l.headerBytes():], owner)
}

// mapping is unmapped when nothing refers to it any more.
type mapping struct{ b []byte }

// check compares a file's header with what is expected, and its body with the header.
func (l *layout) check(file []byte) error {
	if want := l.headerBytes() + l.bodyBytes; len(file) != want {
		return fmt.Errorf("is %d bytes, must be %d", len(file), want)
	}
	header, body := file[:l.headerBytes()], file[l.headerBytes():]
	end := fixedBytes + 4*l.chunks()
	sum := sha256.Sum256(header[:end])
	switch {
	case string(header[:8]) != magic:
		return errors.New("is no file of packed weights")
	case binary.LittleEndian.Uint32(header[8:]) != Version:
		return fmt.Errorf("is of version %d, this program reads %d",
			binary.LittleEndian.Uint32(header[8:]), Version)
	case !bytes.Equal(header[end:end+32], sum[:]):
		return errors.New("its header is damaged")
	case binary.LittleEndian.Uint32(header[12:]) != uint32(len(l.shapes)) ||
		binary.LittleEndian.Uint64(header[16:]) != uint64(l.bodyBytes) ||
		!bytes.Equal(header[24:56], l.key[:]):
		return errors.New("holds other weights")
	case len(bytes.Trim(header[end+32:], "\x00")) > 0:
		return errors.New("its header ends in odd bytes")
	}
	for i := range l.chunks() {
		want := binary.LittleEndian.Uint32(header[fixedBytes+4*i:])
		if got := crc32.Checksum(chunk(body, i), castagnoli); got != want {
			return fmt.Errorf("its weights are damaged: chunk %d has checksum %08x, must be %08x",
				i, got, want)
		}
	}
	return nil
}
