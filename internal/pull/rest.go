package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"drover/checkpoint"
)

// Rest reads experts from the source that a directory was pulled without. What it reads it
// keeps in memory, and only while somebody packs it. It is safe for concurrent use.
//
// The source must still be what the directory was pulled from (D3): the files' sizes and tags
// are compared, on a hub they are asked for by the same commit, and what comes is compared with
// the samples of it that the directory has, which the model's digest covers.
type Rest struct {
	client  *client
	dir     string
	files   map[string]*file
	samples map[string][]checkpoint.Range
	largest int64         // bytes of the largest matrix of an expert
	slots   chan struct{} // holds a token for each matrix in memory
	read    atomic.Int64
}

// restSlots is how many matrices are in memory at a time: while one is packed another one comes.
const restSlots = 2

// OpenRest returns the rest of a model's directory. It does not ask the source yet.
func OpenRest(o Options, ck *checkpoint.Checkpoint) (*Rest, error) {
	o.Dir = ck.Dir()
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	from, err := parseSource(o.Source, o.Hub)
	if err != nil {
		return nil, err
	}
	c, err := newClient(&o, from)
	if err != nil {
		return nil, err
	}
	r := &Rest{client: c, dir: o.Dir, files: map[string]*file{}, samples: ck.Samples(),
		slots: make(chan struct{}, restSlots)}
	if err := r.open(ck); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// open learns what the directory was pulled from. One that holds all weights has no rest.
func (r *Rest) open(ck *checkpoint.Checkpoint) error {
	s := ck.Slice()
	if s == nil {
		return nil
	}
	if r.client.from.hub {
		r.client.from.commit = s.Commit
	}
	all, err := Experts{slice: 1, of: 1}.ofExperts(ck)
	if err != nil {
		return err
	}
	for name, ranges := range all {
		for _, one := range ranges {
			r.largest = max(r.largest, one.End-one.Begin)
		}
		tag, ok := s.Tags[name]
		if !ok {
			return fmt.Errorf("%s: %s does not say what %s was pulled from, as an older drover left it: "+
				"pull the directory again", r.dir, checkpoint.SliceName, name)
		}
		local, err := os.Open(filepath.Join(r.dir, name))
		if err != nil {
			return err
		}
		f := &file{name: name, tag: tag, local: local}
		r.files[name] = f
		st, err := local.Stat()
		if err != nil {
			return err
		}
		f.size = st.Size()
	}
	return nil
}

// Close gives back what a Rest has open. Nobody may read any more.
func (r *Rest) Close() {
	for _, f := range r.files {
		_ = f.local.Close() // nothing is written
	}
	r.client.http.CloseIdleConnections()
}

// Bytes is how many bytes were read from the source.
func (r *Rest) Bytes() int64 { return r.read.Load() }

// MemoryBytes is the most memory that is taken for what is read.
func (r *Rest) MemoryBytes() int64 { return restSlots * r.largest }

// Tensor reads a tensor, or a slice of one, and calls use with its bytes, which are gone when
// use has returned. The error is use's own, or says what the source did.
func (r *Rest) Tensor(ctx context.Context, t checkpoint.Tensor, use func(src []byte) error) error {
	name, at := filepath.Base(t.File()), t.Range()
	size, f := at.End-at.Begin, r.files[name]
	if f == nil || size <= 0 || size > r.largest {
		return fmt.Errorf("tensor %s of %s: %w, and is no expert that can be pulled alone", t.Name,
			t.File(), checkpoint.ErrAbsent)
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Of the system and not of Go's heap, so that it is gone at once: it may be large.
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("memory for %d bytes of tensor %s: %w", size, t.Name, err)
	}
	defer func() { _ = unix.Munmap(b) }() // it was mapped
	if err := r.fill(ctx, f, at.Begin, b); err != nil {
		return err
	}
	if err := r.compare(f, at, b); err != nil {
		return err
	}
	return use(b)
}

// fill reads the bytes of a file from begin on, in parts.
func (r *Rest) fill(ctx context.Context, f *file, begin int64, b []byte) error {
	streams := int64(r.client.opts.Streams)
	size := (int64(len(b))/streams/minPartBytes + 1) * minPartBytes
	size = min(size, maxPartBytes)
	parts := split(f, []checkpoint.Range{{Begin: 0, End: int64(len(b))}}, size)
	get := func(ctx context.Context, p job) error {
		err := r.client.part(ctx, f, begin+p.Begin, b[p.Begin:p.End])
		if err == nil {
			r.read.Add(p.End - p.Begin)
		}
		return err
	}
	if len(parts) == 1 {
		return get(ctx, parts[0])
	}
	return each(ctx, len(parts), int(streams), func(ctx context.Context, _, i int) error {
		if r.client.opts.Background != nil && i < int(streams) { // once for each goroutine
			r.client.opts.Background()
		}
		return get(ctx, parts[i])
	})
}

// compare wants what came to have the samples that the directory has of it.
func (r *Rest) compare(f *file, at checkpoint.Range, b []byte) error {
	for _, s := range r.samples[f.name] {
		begin, end := max(s.Begin, at.Begin), min(s.End, at.End)
		if begin >= end {
			continue
		}
		want := make([]byte, end-begin)
		if _, err := f.local.ReadAt(want, begin); err != nil {
			return err
		}
		if !bytes.Equal(b[begin-at.Begin:end-at.Begin], want) {
			return errors.New("pull " + f.name + " from " + r.client.from.base.Host + ": " +
				fmt.Sprintf("bytes %d-%d are other weights than those that %s has: the source changed, or "+
					"the disk did: pull the directory again", begin, end-1, r.dir))
		}
	}
	return nil
}
