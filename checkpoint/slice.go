package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
)

// SliceName is the file that says of which weights a directory holds the bytes, if not of
// all: its weights files have the full size and holes for the rest. What lies in a hole is
// refused rather than read as zeros.
const SliceName = "drover-slice.json"

// maxSliceBytes bounds that file.
const maxSliceBytes = 64 << 20

// Range is a part of a weights file, in bytes from the file's beginning.
type Range struct{ Begin, End int64 }

// Slice is the contents of the file SliceName.
type Slice struct {
	Version int `json:"version"`
	// Experts says in words which ones are there.
	Experts string `json:"experts"`
	// Files lists what is there of each weights file.
	Files map[string][]Range `json:"files"`
	// Commit and Tags say of what the slice is one: the hub's commit, empty elsewhere, and what
	// the source called the content of each weights file. They let the rest be pulled later.
	Commit string            `json:"commit,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
}

// ErrAbsent is wrapped by the error of reading weights that a slice lacks.
var ErrAbsent = errors.New("these weights were not pulled to this directory, which holds " +
	"a slice of the model")

// Merge sorts ranges and joins those that touch.
func Merge(ranges []Range) []Range {
	all := slices.Clone(ranges)
	slices.SortFunc(all, func(a, b Range) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End))
	})
	var merged []Range
	for _, r := range all {
		if n := len(merged); n > 0 && r.Begin <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// Covered reports whether one of the ranges, which Merge has made, contains r.
func Covered(ranges []Range, r Range) bool {
	i, found := slices.BinarySearchFunc(ranges, r.Begin, func(x Range, at int64) int {
		return cmp.Compare(x.Begin, at)
	})
	if !found {
		i--
	}
	return r.Begin == r.End || i >= 0 && ranges[i].End >= r.End
}

// openSlice reads which weights are there.
func (c *Checkpoint) openSlice() error {
	path := filepath.Join(c.dir, SliceName)
	b, err := readSmall(path, maxSliceBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s Slice
	if err := json.Unmarshal(b, &s); err != nil {
		return damaged(path, err)
	}
	if s.Version != 1 {
		return fmt.Errorf("%s: version %d is not known to this build: pull the model again",
			path, s.Version)
	}
	for _, f := range c.files {
		f.present = Merge(s.Files[filepath.Base(f.path)])
		f.partial, f.tag = true, s.Tags[filepath.Base(f.path)]
	}
	c.slice = &s
	return nil
}

// Slice says which weights the directory holds, nil if all.
func (c *Checkpoint) Slice() *Slice { return c.slice }

// here says whether the bytes of a file from begin to end are there.
func (f *File) here(begin, end int64) error {
	if f.partial && !Covered(f.present, Range{begin, end}) {
		return ErrAbsent
	}
	return nil
}

// Samples returns where the weights lie that the digest covers, by file name.
func (c *Checkpoint) Samples() map[string][]Range {
	all := map[string][]Range{}
	pieces := c.pieces()
	for _, p := range pieces {
		name := filepath.Base(p.file.path)
		all[name] = append(all[name], p.samples(blocksOf(len(pieces)))...)
	}
	for name, ranges := range all {
		all[name] = Merge(ranges)
	}
	return all
}

// Shards returns the names of the weights files of an index, sorted. They are plain names.
func Shards(index []byte) ([]string, error) {
	weightMap, err := parseIndex(index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	return slices.Compact(slices.Sorted(maps.Values(weightMap))), nil
}

// Present reports whether the tensor's bytes are there, which a slice may lack.
func (t Tensor) Present() bool { return t.file != nil && t.file.here(t.begin, t.end) == nil }

// Range returns where the tensor lies in its file.
func (t Tensor) Range() Range { return Range{t.begin, t.end} }
