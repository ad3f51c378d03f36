package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

// The digest has two parts. The form is a SHA-256 over config.json, the index, and each
// weights file's name, header and size: what a model is without its weights. Over that and
// samples of the weights goes the digest.
//
// The samples are blocks of every tensor, and of every slice along the first dimension of
// tensors with three dimensions or more, since those stack experts. Where they lie is
// computed from the tensor's name and its form: everybody reads the same ones.
const (
	sampleBytes = 1 << 10
	// maxSamples and aimSamples bound what is read of one tensor or slice, and say about how
	// many blocks are read in all: few large tensors give several each, many give one.
	maxSamples = 4
	aimSamples = 16 << 10
	// maxPieces bounds the tensors and slices that are read: of more, only every second, third
	// and so on is. maxStack and leastSlice say which tensors count by slice.
	maxPieces  = 128 << 10
	maxStack   = 4096
	leastSlice = 4 * sampleBytes
	// sampling is how many reads wait for the disk at a time.
	sampling = 32
)

// piece is one tensor, or slice of one, from which samples are taken.
type piece struct {
	file       *File
	name       string
	slice      int
	begin, end int64 // in the file
}

// pieces lists what samples are taken from, in an order that names and shapes determine.
func (c *Checkpoint) pieces() []piece {
	var all []piece
	total := 0
	for _, name := range c.Names() {
		total += c.tensors[name].entries[name].slices()
	}
	step, n := (total+maxPieces-1)/maxPieces, 0
	for _, name := range c.Names() {
		f := c.tensors[name]
		e := f.entries[name]
		count := e.slices()
		size := (e.end - e.begin) / int64(count)
		for i := range count {
			if n++; n%step == 0 {
				begin := f.dataAt + e.begin + int64(i)*size
				all = append(all, piece{f, name, i, begin, begin + size})
			}
		}
	}
	return all
}

// slices is as how many pieces a tensor counts.
func (e entry) slices() int {
	if len(e.shape) < 3 || e.shape[0] == 0 || e.shape[0] > maxStack ||
		(e.end-e.begin)/int64(e.shape[0]) < leastSlice {
		return 1
	}
	return e.shape[0]
}

// sum hashes so many blocks of a piece, or all of it if it is no larger, each from its own
// part of the piece. It tells whether all that it read was zero.
func (p piece) sum(blocks int, buf []byte) (sum [32]byte, read int64, zero bool, err error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d\n", p.name, p.slice)
	zero = true
	take := func(off int64, n int) error {
		if _, err := p.file.file.ReadAt(buf[:n], off); err != nil {
			return fmt.Errorf("%s: tensor %s: %w (the file is cut off or cannot be read: download it again)",
				p.file.path, quote(p.name), err)
		}
		h.Write(buf[:n])
		read += int64(n)
		zero = zero && !slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 })
		return nil
	}
	for _, r := range p.samples(blocks) {
		if err := take(r.Begin, int(r.End-r.Begin)); err != nil {
			return sum, read, zero, err
		}
	}
	return [32]byte(h.Sum(nil)), read, zero, nil
}

// samples lists those blocks.
func (p piece) samples(blocks int) []Range {
	size := p.end - p.begin
	if size <= int64(blocks*sampleBytes) {
		return []Range{{p.begin, p.end}}
	}
	at := sha256.Sum256(fmt.Appendf(nil, "%q %d", p.name, p.slice))
	places := size / sampleBytes / int64(blocks) // of each part; one at least
	all := make([]Range, blocks)
	for i := range all {
		place := binary.LittleEndian.Uint64(at[8*i:]) % uint64(places)
		all[i].Begin = p.begin + (int64(i)*places+int64(place))*sampleBytes
		all[i].End = all[i].Begin + sampleBytes
	}
	return all
}

// blocksOf is how many blocks are read of each of so many pieces.
func blocksOf(pieces int) int { return max(1, min(maxSamples, aimSamples/pieces)) }

// sample computes the digest from the form and from samples of the weights.
func (c *Checkpoint) sample() error {
	all := c.pieces()
	blocks := blocksOf(len(all))
	sums := make([][32]byte, len(all))
	var next, read atomic.Int64
	var something atomic.Bool
	errs := make([]error, sampling)
	var running sync.WaitGroup
	for worker := range min(sampling, len(all)) {
		running.Go(func() {
			buf := make([]byte, maxSamples*sampleBytes)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				sum, n, zero, err := all[i].sum(blocks, buf)
				if err != nil {
					errs[worker] = err
					next.Store(int64(len(all)))
					return
				}
				sums[i] = sum
				read.Add(n)
				if !zero {
					something.Store(true)
				}
			}
		})
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	h := sha256.New()
	fmt.Fprintf(h, "drover weights 1\n%x\n%d %d\n", c.form, len(all), blocks)
	for _, sum := range sums {
		h.Write(sum[:])
	}
	c.digest = [32]byte(h.Sum(nil))
	c.sampled, c.hollow = read.Load(), !something.Load()
	return nil
}

// Form identifies the model without its weights: equal for all trainings of one
// configuration in files of the same names and sizes. It is a SHA-256 over config.json, the
// index, and each weights file's name, header and size.
func (c *Checkpoint) Form() [32]byte { return c.form }

// Digest identifies the model with its weights: equal models have equal digests wherever
// they lie. It covers the form and, of the weights, blocks of 1 KiB at places that follow
// from the tensors' names: of each tensor, and of each expert of a stacked one, at least one.
// Training changes nearly all weights of a tensor, so two trainings differ; it does not tell
// whether a single weight elsewhere was changed or damaged.
func (c *Checkpoint) Digest() [32]byte { return c.digest }

// Sampled returns how many bytes of weights were read for the digest.
func (c *Checkpoint) Sampled() int64 { return c.sampled }

// Hollow reports whether all samples of the weights are zeros: holes stand for them, and
// only the configuration and the headers are there.
func (c *Checkpoint) Hollow() bool { return c.hollow }

// formOf computes the form from the small files' bytes and the headers.
func (c *Checkpoint) formOf(config, index []byte) [32]byte {
	sum := sha256.New()
	sum.Write([]byte("drover checkpoint 1\n"))
	add := func(b []byte) { // with its length, so that parts cannot run together
		sum.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(b))))
		sum.Write(b)
	}
	add(config)
	add(index)
	for _, f := range c.files {
		add([]byte(filepath.Base(f.path)))
		add(f.headerSum[:])
		add(binary.LittleEndian.AppendUint64(nil, uint64(f.size)))
	}
	return [32]byte(sum.Sum(nil))
}
