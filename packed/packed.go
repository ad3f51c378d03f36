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
// A piece may also come from another machine: Body is its bytes to send, Partial takes them
// in. They are the same wherever the same weights were packed, so their SHA-256 tells whether
// they arrived whole.
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
	"math"
	"os"
	"path/filepath"
	"sync/atomic"

	"drover/kernel"
)

// Store is a folder of packed pieces. It is safe for concurrent use.
type Store struct {
	dir  string
	opts Options

	mapped, built, fetched atomic.Int64
	bytes                  atomic.Int64
	warned                 atomic.Bool
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

// InMemory returns a Store that keeps no files.
func InMemory() *Store { return &Store{opts: Options{SmallestBytes: math.MaxInt}} }

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
	// Mapped, Built and Fetched are the pieces found in files, those packed and those that
	// came from elsewhere.
	Mapped, Built, Fetched int64
	// Bytes is the size of all these pieces' weights.
	Bytes int64
}

// Stats says what the Store has done so far.
func (s *Store) Stats() Stats {
	return Stats{s.mapped.Load(), s.built.Load(), s.fetched.Load(), s.bytes.Load()}
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
	return s.piece(l, nil, build)
}

// Fetched is Matrices for a piece that may come from elsewhere: if there is no sound file
// of it, fetch brings its weights, and build fills them only if fetch fails. What fetch got
// until then is there again for the next one, also in another process.
func (s *Store) Fetched(key string, shapes []kernel.Shape, fetch func(*Partial) error,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	l, err := newLayout(key, shapes)
	if err != nil {
		return nil, err
	}
	s.bytes.Add(int64(l.bodyBytes))
	return s.piece(l, fetch, build)
}

// piece returns the matrices of a piece; fetch may be nil.
func (s *Store) piece(l *layout, fetch func(*Partial) error,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	if l.bodyBytes < s.opts.SmallestBytes {
		m, _, err := s.fill(l, "", fetch, build)
		return m, err
	}
	name := hex.EncodeToString(l.key[:])
	path := filepath.Join(s.dir, name[:2], name+suffix)
	m, err := s.open(path, l)
	if err == nil {
		return m, nil
	}
	return s.make(path, l, fetch, build)
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

// make puts a piece into its file, unless another process is just doing that.
func (s *Store) make(path string, l *layout, fetch func(*Partial) error,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	tmp, err := lock(path + ".tmp")
	if err != nil {
		s.unwritable(err)
		m, _, err := s.fill(l, "", fetch, build)
		return m, err
	}
	defer tmp.Close() // which unlocks it; what it holds was written or does not count
	if m, err := mapPiece(path, l); err == nil {
		s.mapped.Add(1)
		return m, nil
	}
	_ = os.Remove(path) // if it is there, it is damaged, and replacing a file is slow
	m, p, err := s.fill(l, path+partSuffix, fetch, build)
	if err != nil {
		return nil, err
	}
	if err := write(tmp, path, l, p.buffer.Bytes(), p.content); err != nil {
		s.unwritable(err)
		return m, nil
	}
	_ = os.Remove(path + partSuffix) // if there is one, it is of no use any more
	if mapped, err := mapPiece(path, l); err == nil {
		return mapped, nil // and the memory is free again
	}
	return m, nil
}

// fill makes a piece in memory: it is fetched or else packed. The Partial holds it, whole,
// with its SHA-256. Without a path nothing outlives the call.
func (s *Store) fill(l *layout, path string, fetch func(*Partial) error,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, *Partial, error) {
	buf, m, err := l.memory()
	if err != nil {
		return nil, nil, err
	}
	p := &Partial{layout: l, buffer: buf, hash: sha256.New()}
	if fetch != nil {
		if path != "" {
			p.open(path)
		}
		err := fetch(p)
		p.close()
		if err == nil && !p.whole {
			return nil, nil, errors.New("fetch packed weights: they are not complete")
		}
		if err == nil {
			s.fetched.Add(1)
			return m, p, nil
		}
		if build == nil {
			return nil, nil, err
		}
		clear(buf.Bytes()) // of what was fetched, which build need not overwrite
	}
	if err := build(m); err != nil {
		return nil, nil, err
	}
	s.built.Add(1)
	if path != "" {
		p.content = sha256.Sum256(buf.Bytes())
	}
	return m, p, nil
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
	fmt.Fprintf(h, "drover packed weights, version %d\n%q\n", Version, key)
	for _, s := range shapes {
		fmt.Fprintf(h, "%d %d %v\n", s.N, s.K, s.Format)
	}
	return [32]byte(h.Sum(nil))
}
