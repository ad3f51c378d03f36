// Package packed keeps packed weights in files that are mapped, so that a model is
// packed once and every later start only maps it.
//
// A piece is a few matrices that are packed and used together: an expert, a layer's
// attention, the head. Its file is named by a hash of its key, which says where the
// weights come from and how they are packed; its header holds the SHA-256 of the
// weights, by which two machines can tell that they hold the same. A file is never
// trusted: whoever maps it checks its header and a checksum of every chunk, which
// brings its pages into memory as well. What is damaged is packed again.
//
// Files are written beside their place and renamed, without waiting for the disk: one
// that a power failure tears fails its checksums. Any number of processes may use a
// Store's folder at a time; one of them packs a piece, the others wait for it.
package packed

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"drover/kernel"
)

// Store is a folder of packed pieces. It is safe for concurrent use.
type Store struct {
	dir  string
	opts Options

	mapped, built atomic.Int64
	bytes         atomic.Int64
	warned        atomic.Bool
}

// Options tunes a Store. The zero value is ready for use.
type Options struct {
	// SmallestBytes is the size below which a piece is packed in memory: opening a file
	// would take longer. Zero means 256 KiB; negative means that every piece has a file.
	SmallestBytes int
	// Damaged, if not nil, is called with the reason for which a file is not used but
	// packed again.
	Damaged func(path string, err error)
	// Unwritable, if not nil, is called once when pieces cannot be written and are
	// packed in memory instead.
	Unwritable func(err error)
}

const defaultSmallest = 256 << 10

// Open opens a folder of packed pieces, which is made for the first piece.
func Open(dir string, o Options) (*Store, error) {
	if o.SmallestBytes == 0 {
		o.SmallestBytes = defaultSmallest
	}
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: errors.New("is not a folder")}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the cache of packed weights: %w (choose another, or none)", err)
	}
	return &Store{dir: dir, opts: o}, nil
}

// Stats says what a Store has done since it was opened.
type Stats struct {
	// Mapped and Built are the pieces found in files and those packed.
	Mapped, Built int64
	// Bytes is the size of all these pieces' weights.
	Bytes int64
}

// Stats says what the Store has done so far.
func (s *Store) Stats() Stats {
	return Stats{s.mapped.Load(), s.built.Load(), s.bytes.Load()}
}

// Matrices returns the matrices of the piece with a key. If there is no sound file of
// them, build fills new ones. The key names everything that the weights depend on.
func (s *Store) Matrices(key string, shapes []kernel.Shape,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	l, err := newLayout(key, shapes)
	if err != nil {
		return nil, err
	}
	s.bytes.Add(int64(l.bodyBytes))
	if l.bodyBytes < s.opts.SmallestBytes {
		return s.inMemory(l, build)
	}
	name := hex.EncodeToString(l.key[:])
	path := filepath.Join(s.dir, name[:2], name+suffix)
	m, err := s.open(path, l)
	if err == nil {
		return m, nil
	}
	return s.build(path, l, build)
}

const suffix = ".packed"

// open maps a piece's file if it is there and sound.
func (s *Store) open(path string, l *layout) ([]*kernel.Matrix, error) {
	m, err := mapPiece(path, l)
	switch {
	case err == nil:
		s.mapped.Add(1)
	case !errors.Is(err, fs.ErrNotExist) && s.opts.Damaged != nil:
		s.opts.Damaged(path, err)
	}
	return m, err
}

// build packs a piece into its file, unless another process is just doing that.
func (s *Store) build(path string, l *layout,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	tmp, err := lock(path + ".tmp")
	if err != nil {
		s.unwritable(err)
		return s.inMemory(l, build)
	}
	defer tmp.Close() // which unlocks it; what it holds was written or does not count
	if m, err := mapPiece(path, l); err == nil {
		s.mapped.Add(1)
		return m, nil
	}
	_ = os.Remove(path) // if it is there, it is damaged, and replacing a file is slow
	buf, m, err := l.memory()
	if err != nil {
		return nil, err
	}
	if err := build(m); err != nil {
		return nil, err
	}
	s.built.Add(1)
	if err := write(tmp, path, l, buf.Bytes()); err != nil {
		s.unwritable(err)
		return m, nil
	}
	if mapped, err := mapPiece(path, l); err == nil {
		return mapped, nil // and the memory is free again
	}
	return m, nil
}

// inMemory packs a piece without a file.
func (s *Store) inMemory(l *layout, build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	_, m, err := l.memory()
	if err != nil {
		return nil, err
	}
	s.built.Add(1)
	return m, build(m)
}

// unwritable reports that pieces stay in memory, once.
func (s *Store) unwritable(err error) {
	if !s.warned.Swap(true) && s.opts.Unwritable != nil {
		s.opts.Unwritable(fmt.Errorf("write packed weights to %s: %w", s.dir, err))
	}
}

// keyOf hashes a key with what else a file depends on.
func keyOf(key string, shapes []kernel.Shape) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "drover packed weights, version %d\n%q\n", version, key)
	for _, s := range shapes {
		fmt.Fprintf(h, "%d %d %v\n", s.N, s.K, s.Format)
	}
	return [32]byte(h.Sum(nil))
}
