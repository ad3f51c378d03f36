// Package checkpoint reads a model directory in the Hugging Face layout:
// config.json and one or more safetensors files. It opens headers, and reads small
// samples of the weights to tell one training from another; the weights are mapped
// read-only and touched when somebody asks for them, slice by slice, so a node that
// serves a few experts reads those experts and nothing else.
//
// Files are not trusted. Every number in a header or a configuration is checked
// before it sizes, indexes or allocates anything, and a file that is cut off
// while it is in use gives an error, not a signal.
package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoTensor is wrapped by the error of a lookup of a tensor that is not there.
var ErrNoTensor = errors.New("no such tensor")

const (
	singleName     = "model.safetensors"
	indexName      = "model.safetensors.index.json"
	configName     = "config.json"
	generationName = "generation_config.json"
)

// Checkpoint is an open model directory. Its methods may be used concurrently.
type Checkpoint struct {
	dir        string
	config     *Config
	generation *Config
	files      []*File          // ascending by name
	slice      *Slice           // nil if all weights are there
	tensors    map[string]*File // where each tensor is
	bytes      int64
	form       [32]byte
	digest     [32]byte
	sampled    int64 // bytes of weights that the digest covers
	hollow     bool  // they are all zero
}

// Open opens the model in dir: its config.json, its generation_config.json if it
// has one, and the headers of model.safetensors or, if there is no such file, of
// the shards that model.safetensors.index.json names. Of a shard's tensors only
// those in the index exist. Of the weights it reads the samples that the digest covers.
func Open(dir string) (*Checkpoint, error) { return open(dir, nil) }

// OpenHeaders is Open for a model whose weights lie elsewhere: it reads none, and takes its
// digest from identify, which gets the form.
func OpenHeaders(dir string, identify func(form [32]byte) (digest [32]byte, err error)) (
	*Checkpoint, error) {
	return open(dir, identify)
}

func open(dir string, identify func([32]byte) ([32]byte, error)) (*Checkpoint, error) {
	c := &Checkpoint{dir: dir}
	if err := c.open(identify); err != nil {
		c.Close() // the first error says more than a second one from closing
		return nil, err
	}
	return c, nil
}

func (c *Checkpoint) open(identify func([32]byte) ([32]byte, error)) error {
	config, err := readSmall(filepath.Join(c.dir, configName), maxConfigBytes)
	if err != nil {
		return hint(err, "a model directory needs a config.json")
	}
	if c.config, err = parseConfig(configName, config); err != nil {
		return damaged(filepath.Join(c.dir, configName), err)
	}
	if err := c.openGeneration(); err != nil {
		return err
	}
	index, err := c.openWeights()
	if err != nil {
		return err
	}
	if err := c.openSlice(); err != nil {
		return err
	}
	c.form = c.formOf(config, index)
	if identify == nil {
		return c.sample()
	}
	c.digest, err = identify(c.form)
	return err
}

// hint adds what to do to the error of a missing file.
func hint(err error, what string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w (%s: check the directory or download it again)", err, what)
	}
	return err
}

func damaged(path string, err error) error {
	return fmt.Errorf("%s: %w (mend it or download it again)", path, err)
}

func (c *Checkpoint) openGeneration() error {
	path := filepath.Join(c.dir, generationName)
	b, err := readSmall(path, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		c.generation = &Config{name: generationName}
		return nil
	}
	if err != nil {
		return err
	}
	if c.generation, err = parseConfig(generationName, b); err != nil {
		return damaged(path, err)
	}
	return nil
}

// openWeights opens the single weights file, or the shards; it returns the
// index's bytes if there is one.
func (c *Checkpoint) openWeights() ([]byte, error) {
	c.tensors = map[string]*File{}
	f, err := OpenFile(filepath.Join(c.dir, singleName))
	if err == nil {
		c.files = []*File{f}
		for name := range f.entries {
			c.add(name, f)
		}
		return nil, c.notEmpty()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path := filepath.Join(c.dir, indexName)
	index, err := readSmall(path, maxHeaderBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: neither %s nor %s is there: check the directory or download it again",
			c.dir, singleName, indexName)
	}
	if err != nil {
		return nil, err
	}
	weightMap, err := parseIndex(index)
	if err != nil {
		return nil, damaged(path, err)
	}
	if err := c.openShards(weightMap); err != nil {
		return nil, err
	}
	return index, c.notEmpty()
}

func (c *Checkpoint) openShards(weightMap map[string]string) error {
	shards := map[string]*File{}
	for _, shard := range slices.Sorted(maps.Values(weightMap)) {
		if shards[shard] != nil {
			continue
		}
		f, err := OpenFile(filepath.Join(c.dir, shard))
		if err != nil {
			return hint(err, "the index names this shard")
		}
		shards[shard] = f
		c.files = append(c.files, f)
	}
	for name, shard := range weightMap {
		f := shards[shard]
		if !f.Has(name) {
			return fmt.Errorf("%s: tensor %s is not in %s, where the index puts it: "+
				"index and shards are of different models, download them again",
				filepath.Join(c.dir, indexName), quote(name), f.path)
		}
		c.add(name, f)
	}
	return nil
}

func (c *Checkpoint) add(name string, f *File) {
	c.tensors[name] = f
	e := f.entries[name]
	c.bytes += e.end - e.begin
}

func (c *Checkpoint) notEmpty() error {
	if len(c.tensors) == 0 {
		return fmt.Errorf("%s: the model has no tensors: download it again", c.dir)
	}
	return nil
}

// Close unmaps the weights. Reading a tensor afterwards returns an error; slices
// that Tensor.Raw returned must not be used any more.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Dir returns the directory that was opened.
func (c *Checkpoint) Dir() string { return c.dir }

// Config returns the contents of config.json.
func (c *Checkpoint) Config() *Config { return c.config }

// Generation returns the contents of generation_config.json; it has no keys if
// there is no such file.
func (c *Checkpoint) Generation() *Config { return c.generation }

// Tensor returns the named tensor. If there is none, the error wraps ErrNoTensor.
func (c *Checkpoint) Tensor(name string) (Tensor, error) {
	f, ok := c.tensors[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%s: tensor %s: %w", c.dir, quote(name), ErrNoTensor)
	}
	return f.Tensor(name)
}

// Has reports whether there is a tensor of that name.
func (c *Checkpoint) Has(name string) bool {
	_, ok := c.tensors[name]
	return ok
}

// Names returns the names of all tensors, sorted.
func (c *Checkpoint) Names() []string { return slices.Sorted(maps.Keys(c.tensors)) }

// Bytes returns the size of all tensors together.
func (c *Checkpoint) Bytes() int64 { return c.bytes }

// BytesTouched returns how many bytes of tensors have been handed out so far
// through Float32, Read and Raw, counting a byte as often as it was read.
func (c *Checkpoint) BytesTouched() int64 {
	var n int64
	for _, f := range c.files {
		n += f.touched.Load()
	}
	return n
}

// readSmall reads a file that must not be larger than limit.
func readSmall(path string, limit int64) ([]byte, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s: is %d bytes, must be at most %d: it is not what its name says",
			path, size, limit)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

// openRegular opens a file, if it is one: opening a pipe could block forever.
func openRegular(path string) (f *os.File, size int64, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: is not a regular file", path)
	}
	if f, err = os.Open(path); err != nil {
		return nil, 0, err
	}
	if st, err = f.Stat(); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}
