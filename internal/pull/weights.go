package pull

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"drover/checkpoint"
)

const (
	// maxFiles, maxFileBytes and maxTotalBytes bound a model's weights.
	maxFiles      = 10_000
	maxFileBytes  = 1 << 40
	maxTotalBytes = 1 << 46
	// maxHeaderBytes bounds a weights file's header.
	maxHeaderBytes = 100 << 20
	prefixBytes    = 8
	// A part is about 1/partsOfAll of the model, so that those which are under way when a pull
	// is interrupted are less than a hundredth of it. It does not depend on the options: a pull
	// goes on with others.
	partsOfAll   = 2048
	minPartBytes = 64 << 10
	maxPartBytes = 8 << 20
	// spareBytes of the disk stay free.
	spareBytes = 64 << 20
)

// job is a part to fetch.
type job struct {
	file *file
	checkpoint.Range
}

// weights fetches the weights files, or what is wanted of them.
func (p *puller) weights(ctx context.Context, index []byte) error {
	names := []string{singleName}
	if index != nil {
		var err error
		if names, err = checkpoint.Shards(index); err != nil {
			return err
		}
	}
	if len(names) > maxFiles {
		return fmt.Errorf("%s names %d files, at most %d", indexName, len(names), maxFiles)
	}
	headers, err := p.probe(ctx, names)
	if err != nil {
		return err
	}
	size := p.partBytes()
	if p.opts.Experts.All() {
		var jobs []job
		for _, name := range p.order {
			f := p.files[name]
			jobs = append(jobs, split(f, []checkpoint.Range{{Begin: 0, End: f.size}}, size)...)
		}
		return p.fetch(ctx, jobs)
	}
	var jobs []job
	for i, name := range p.order {
		if f := p.files[name]; !f.ranged {
			return fmt.Errorf("pull %s from %s: the server sends no parts of files: pull the whole model",
				name, p.client.from.base.Host)
		} else {
			jobs = append(jobs, split(f, []checkpoint.Range{{Begin: 0, End: headers[i]}}, size)...)
		}
	}
	if err := p.fetch(ctx, jobs); err != nil {
		return err
	}
	return p.slice(ctx, size)
}

// slice fetches the wanted experts and the samples of everything that a model's digest
// covers: with them a slice has the digest of the whole.
func (p *puller) slice(ctx context.Context, size int64) error {
	ck, err := checkpoint.OpenHeaders(p.work, func([32]byte) (d [32]byte, _ error) { return d, nil })
	if err != nil {
		return err
	}
	defer ck.Close()
	present, err := p.opts.Experts.choose(ck)
	if err != nil {
		return err
	}
	var jobs []job
	samples := ck.Samples()
	for _, name := range p.order {
		present[name] = checkpoint.Merge(present[name])
		jobs = append(jobs, split(p.files[name], present[name], size)...)
		for _, r := range samples[name] {
			if !checkpoint.Covered(present[name], r) {
				jobs = append(jobs, split(p.files[name], []checkpoint.Range{r}, size)...)
			}
		}
	}
	if err := p.saveSlice(present); err != nil {
		return err
	}
	return p.fetch(ctx, jobs)
}

// split cuts ranges into parts.
func split(f *file, ranges []checkpoint.Range, size int64) []job {
	var jobs []job
	for _, r := range ranges {
		for at := r.Begin; at < r.End; at += size {
			jobs = append(jobs, job{f, checkpoint.Range{Begin: at, End: min(at+size, r.End)}})
		}
	}
	return jobs
}

func (p *puller) partBytes() int64 {
	var all int64
	for _, name := range p.order {
		all += p.files[name].size
	}
	size := all / partsOfAll / minPartBytes * minPartBytes
	return min(max(size, minPartBytes), maxPartBytes)
}

// probe asks for the first bytes of the weights files: their sizes, whether the server sends
// parts, and where their headers end.
func (p *puller) probe(ctx context.Context, names []string) (headers []int64, err error) {
	headers = make([]int64, len(names))
	files := make([]*file, len(names))
	err = each(ctx, len(names), p.opts.Streams, func(ctx context.Context, _, i int) (err error) {
		files[i], headers[i], err = p.client.probe(ctx, names[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	var all int64
	for i, f := range files {
		if all += f.size; all > maxTotalBytes {
			return nil, fmt.Errorf("the model has more than %d bytes", int64(maxTotalBytes))
		}
		if err := p.journal.know(f); err != nil {
			return nil, err
		}
		f.local, err = os.OpenFile(filepath.Join(p.work, f.name), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		p.files[names[i]] = f
		if err := f.local.Truncate(f.size); err != nil {
			return nil, err
		}
	}
	p.order = names
	return headers, nil
}

func (c *client) probe(ctx context.Context, name string) (f *file, header int64, err error) {
	err = c.retry(ctx, name, func() error {
		a, err := c.get(ctx, name, 0, prefixBytes)
		if errors.Is(err, fs.ErrNotExist) {
			return refusal{fmt.Errorf("the model has no such file: %w", err)}
		}
		if err != nil {
			return err
		}
		defer a.body.Close()
		if a.total < prefixBytes+2 || a.total > maxFileBytes {
			return refusef("the server says that it has %d bytes, must be %d to %d", a.total,
				prefixBytes+2, int64(maxFileBytes))
		}
		var b [prefixBytes]byte
		if _, err := io.ReadFull(a.body, b[:]); err != nil {
			return err
		}
		length := binary.LittleEndian.Uint64(b[:])
		if length == 0 || length > uint64(min(maxHeaderBytes, a.total-prefixBytes)) {
			return refusef("is no safetensors file: its header would have %d bytes", length)
		}
		header = prefixBytes + int64(length)
		f, err = c.describe(name, a.total, a)
		return err
	})
	return f, header, err
}

// fetch fetches the parts that are not there yet.
func (p *puller) fetch(ctx context.Context, jobs []job) error {
	var missing []job
	var bytes int64
	streamed := map[*file]bool{}
	for _, j := range jobs {
		p.total += j.End - j.Begin
		switch {
		case p.journal.has(j.file.name, j.Begin, j.End):
			p.done.Add(j.End - j.Begin)
			continue
		case j.file.ranged:
			missing = append(missing, j)
		case !streamed[j.file]:
			streamed[j.file] = true
		}
		bytes += j.End - j.Begin
	}
	if err := p.room(bytes); err != nil {
		return err
	}
	bufs := make([][]byte, p.opts.Streams)
	var mu sync.Mutex // guards the calls of Progress
	progress := func() {
		mu.Lock()
		defer mu.Unlock()
		if p.opts.Progress != nil {
			p.opts.Progress(int(p.done.Load()/1e6), int(max(p.total/1e6, 1)))
		}
	}
	err := each(ctx, len(missing), p.opts.Streams, func(ctx context.Context, worker, i int) error {
		j := missing[i]
		n := int(j.End - j.Begin)
		bufs[worker] = slices.Grow(bufs[worker][:0], n)
		b := bufs[worker][:n]
		if err := p.client.part(ctx, j.file, j.Begin, b); err != nil {
			return err
		}
		defer progress()
		return p.put(j.file, j.Begin, b)
	})
	if err != nil {
		return err
	}
	for _, f := range slices.SortedFunc(maps.Keys(streamed), byName) {
		if err := p.stream(ctx, f, progress); err != nil {
			return err
		}
	}
	return nil
}

func byName(a, b *file) int {
	if a.name < b.name {
		return -1
	}
	return 1
}

// put writes a part and notes it.
func (p *puller) put(f *file, begin int64, b []byte) error {
	if _, err := f.local.WriteAt(b, begin); err != nil {
		return err
	}
	p.done.Add(int64(len(b)))
	p.fetched.Add(int64(len(b)))
	sum := fmt.Sprintf("%x", sha256.Sum256(b))
	return p.journal.add(f.name, part{begin, begin + int64(len(b)), sum})
}

// stream fetches a whole file in one go, from a server that sends no parts. What was there
// of it is fetched again.
func (p *puller) stream(ctx context.Context, f *file, progress func()) error {
	size := p.partBytes()
	b := make([]byte, size)
	return p.client.retry(ctx, f.name, func() error {
		a, err := p.client.get(ctx, f.name, 0, 0)
		if err != nil {
			return err
		}
		defer a.body.Close()
		if a.length != f.size || a.facts.tag != f.tag && !p.client.from.hub {
			return refusef("the file changed at the source while it was pulled: pull again")
		}
		for at := int64(0); at < f.size; at += size {
			n := min(size, f.size-at)
			if _, err := io.ReadFull(a.body, b[:n]); err != nil {
				return err
			}
			if p.journal.has(f.name, at, at+n) {
				p.done.Add(-n) // it is counted again
			}
			if err := p.put(f, at, b[:n]); err != nil {
				return refusal{err}
			}
			progress()
		}
		return nil
	})
}

// room says whether the disk has room for so many bytes more.
func (p *puller) room(bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(p.work, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * int64(st.Bsize); bytes > free-spareBytes {
		return fmt.Errorf("%s: %d MB are needed and %d MB are free: make room, name another disk, "+
			"or pull fewer experts", p.work, (bytes+spareBytes)/1e6, free/1e6)
	}
	return nil
}

// check reads all that is there once more: whole files against what the source says of them,
// others against what was written. It returns how many there were of the former.
func (p *puller) check(ctx context.Context) (int, error) {
	names := slices.Sorted(maps.Keys(p.files))
	var checked atomic.Int64
	err := each(ctx, len(names), min(p.opts.Streams, runtime.GOMAXPROCS(0)),
		func(ctx context.Context, _, i int) error {
			f := p.files[names[i]]
			whole := p.opts.Experts.All() || !slices.Contains(p.order, f.name)
			if whole && f.sum != "" {
				checked.Add(1)
				return p.damaged(f, f.checkWhole())
			}
			for _, part := range p.journal.list(f.name) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := f.checkPart(part); err != nil {
					return p.damaged(f, err)
				}
			}
			return nil
		})
	return int(checked.Load()), err
}

// damaged forgets a file that is wrong.
func (p *puller) damaged(f *file, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: it is dropped, pull again", f.name,
		errors.Join(err, p.journal.drop(f.name)))
}

func (f *file) checkWhole() error {
	var h hash.Hash
	if len(f.sum) == 40 { // git's name of a small file
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", f.size)
	} else {
		h = sha256.New()
	}
	if _, err := io.Copy(h, io.NewSectionReader(f.local, 0, f.size)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.sum {
		return fmt.Errorf("its hash is %s, the source says %s", got, f.sum)
	}
	return nil
}

func (f *file) checkPart(p part) error {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f.local, p.begin, p.end-p.begin)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != p.sum {
		return fmt.Errorf("bytes %d-%d are not on the disk as they came", p.begin, p.end-1)
	}
	return nil
}

// each calls use for every i below n, on so many goroutines at most, each with a number of
// its own. The first error ends the others and is returned.
func each(ctx context.Context, n, goroutines int,
	use func(ctx context.Context, worker, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for worker := range min(n, goroutines) {
		running.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := use(ctx, worker, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
