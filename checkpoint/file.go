package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is an open safetensors file. Its methods may be used concurrently.
type File struct {
	path      string
	size      int64
	dataAt    int64
	entries   map[string]entry
	metadata  map[string]string
	headerSum [32]byte
	partial   bool    // the weights are there only in the ranges below
	present   []Range // merged
	tag       string  // what the source calls the content; empty if unknown
	touched   atomic.Int64

	mu      sync.RWMutex // guards the fields below; held for reading while the mapping is read
	file    *os.File
	mapping []byte // the whole file; nil once closed
}

// OpenFile opens one safetensors file: it reads and checks the header and maps
// the rest.
func OpenFile(path string) (*File, error) {
	file, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	f, err := mapFile(path, file, size)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func mapFile(path string, file *os.File, size int64) (*File, error) {
	h, err := readHeader(file, size)
	if err != nil {
		return nil, fmt.Errorf("%w (damaged or no safetensors file: download it again)", err)
	}
	if int64(int(size)) != size {
		return nil, fmt.Errorf("file of %d bytes is too large for this machine's addresses", size)
	}
	mapping, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	// Without readahead a slice's pages are read and its neighbours' are not; prefetch
	// makes up for the speed. It is advice: where it is refused, reads are still right.
	_ = unix.Madvise(mapping, unix.MADV_RANDOM)
	return &File{
		path: path, size: size, dataAt: h.dataAt, entries: h.entries, metadata: h.metadata,
		headerSum: h.sum, file: file, mapping: mapping,
	}, nil
}

// Close unmaps the file, after reads in progress. Reading a tensor afterwards
// returns an error; slices that Tensor.Raw returned must not be used any more.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mapping == nil {
		return nil
	}
	err := unix.Munmap(f.mapping)
	f.mapping = nil
	if closeErr := f.file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Names returns the names of all tensors, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.entries)) }

// Has reports whether there is a tensor of that name.
func (f *File) Has(name string) bool {
	_, ok := f.entries[name]
	return ok
}

// Metadata returns the header's free-form strings, none if it has none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Tensor returns the named tensor. If there is none, the error wraps ErrNoTensor.
func (f *File) Tensor(name string) (Tensor, error) {
	e, ok := f.entries[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%s: tensor %s: %w", f.path, quote(name), ErrNoTensor)
	}
	return Tensor{
		Name: name, DType: e.dtype, Shape: slices.Clone(e.shape),
		file: f, begin: f.dataAt + e.begin, end: f.dataAt + e.end,
	}, nil
}

// read calls use with the mapped bytes from begin to end. The file may have been
// cut off since it was opened: touching what is gone raises a signal, so the size
// is compared first, and a fault in the moment between becomes an error too.
func (f *File) read(begin, end int64, use func(src []byte)) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := f.usable(); err != nil {
		return err
	}
	if err := f.here(begin, end); err != nil {
		return err
	}
	f.prefetch(begin, end)
	err := guarded(func() { use(f.mapping[begin:end:end]) })
	if err == nil {
		f.touched.Add(end - begin)
	}
	return err
}

// share is read by n goroutines, each with a number of its own.
func (f *File) share(begin, end int64, n int, use func(i int, src []byte)) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := f.usable(); err != nil {
		return err
	}
	if err := f.here(begin, end); err != nil {
		return err
	}
	f.prefetch(begin, end)
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			errs[i] = guarded(func() { use(i, f.mapping[begin:end:end]) })
		})
	}
	all.Wait()
	err := errors.Join(errs...)
	if err == nil {
		f.touched.Add(end - begin)
	}
	return err
}

// guarded makes an error of a fault in use.
func guarded(use func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			err = errors.New("the file was cut off or its disk failed while it was read")
		}
	}()
	use()
	return nil
}

// usable says why the mapping must not be read, if so. The caller holds mu.
func (f *File) usable() error {
	if f.mapping == nil {
		return os.ErrClosed
	}
	st, err := f.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() != f.size {
		return fmt.Errorf("the file has %d bytes, but had %d when it was opened: "+
			"restore it and start again", st.Size(), f.size)
	}
	return nil
}

// prefetch asks for exactly the pages from begin to end, all at once: page after
// page, as they are touched, a cold read would wait for the disk thousands of
// times. The caller holds mu.
func (f *File) prefetch(begin, end int64) {
	if begin == end {
		return
	}
	begin -= begin % int64(os.Getpagesize())
	_ = unix.Madvise(f.mapping[begin:end], unix.MADV_WILLNEED) // advice again
}
