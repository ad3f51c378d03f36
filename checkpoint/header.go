package checkpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"drover/tensor"
)

const (
	prefixBytes    = 8         // the header's length, little-endian
	maxHeaderBytes = 100 << 20 // of a file's header, and of an index
	maxDims        = 16
	metadataKey    = "__metadata__"
)

// entry is one tensor of a file. Its range counts from the start of the data,
// lies inside it and has exactly the size that its shape and type ask for.
type entry struct {
	dtype      tensor.DType
	shape      []int
	begin, end int64
}

// header is a safetensors file's header, checked.
type header struct {
	entries  map[string]entry
	metadata map[string]string
	dataAt   int64 // offset of the data in the file
	sum      [32]byte
}

// readHeader reads and checks the header of a file of the given size.
func readHeader(r io.ReaderAt, size int64) (*header, error) {
	if size < prefixBytes {
		return nil, fmt.Errorf("file is %d bytes, too short for a header", size)
	}
	var prefix [prefixBytes]byte
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, fmt.Errorf("read header length: %w", err)
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length == 0 || length > maxHeaderBytes {
		return nil, fmt.Errorf("header length is %d, must be 1..%d", length, maxHeaderBytes)
	}
	if int64(length) > size-prefixBytes {
		return nil, fmt.Errorf("header length is %d, but only %d bytes follow",
			length, size-prefixBytes)
	}
	text := make([]byte, length)
	if _, err := r.ReadAt(text, prefixBytes); err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	h, err := parseHeader(text)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	h.dataAt = prefixBytes + int64(length)
	h.sum = sha256.Sum256(text)
	return h, h.checkRanges(size - h.dataAt)
}

func parseHeader(text []byte) (*header, error) {
	js, err := newStrictJSON(text)
	if err != nil {
		return nil, err
	}
	h := &header{entries: map[string]entry{}}
	err = js.object(func(name string) error {
		if _, ok := h.entries[name]; ok || name == metadataKey && h.metadata != nil {
			return twice(name)
		}
		if name == metadataKey {
			h.metadata, err = parseStrings(js)
			if err != nil {
				return fmt.Errorf("%s: %w", metadataKey, err)
			}
			return nil
		}
		e, err := parseEntry(js)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", quote(name), err)
		}
		h.entries[name] = e
		return nil
	})
	return h, err
}

func parseStrings(js *strictJSON) (map[string]string, error) {
	m := map[string]string{}
	err := js.object(func(key string) error {
		if _, ok := m[key]; ok {
			return twice(key)
		}
		value, err := js.text()
		if err != nil {
			return fmt.Errorf("%s %w", quote(key), err)
		}
		m[key] = value
		return nil
	})
	return m, err
}

// parseEntry reads one tensor's entry and checks what can be checked without
// the rest of the file.
func parseEntry(js *strictJSON) (entry, error) {
	var dtype string
	var shape, offsets []int64
	err := js.object(func(key string) (err error) {
		var again bool
		switch key {
		case "dtype":
			again = dtype != ""
			dtype, err = js.text()
		case "shape":
			again = shape != nil
			shape, err = js.integers(maxDims)
		case "data_offsets":
			again = offsets != nil
			offsets, err = js.integers(2)
		default:
			err = errors.New("is not a known field")
		}
		if err != nil {
			return fmt.Errorf("%s %w", quote(key), err)
		}
		if again {
			return twice(key)
		}
		return nil
	})
	if err != nil {
		return entry{}, err
	}
	if dtype == "" || shape == nil || len(offsets) != 2 {
		return entry{}, errors.New("must have dtype, shape and two data_offsets")
	}
	e := entry{begin: offsets[0], end: offsets[1]}
	if e.begin > e.end {
		return entry{}, fmt.Errorf("data_offsets begin at %d, after their end %d", e.begin, e.end)
	}
	var ok bool
	if e.dtype, ok = tensor.ParseDType(dtype); !ok {
		return entry{}, fmt.Errorf("dtype %s is not known to this version", quote(dtype))
	}
	return e, e.setShape(shape)
}

// setShape takes a shape whose product, times the element size, is the entry's
// range. The product of the dimensions other than 0 has to be in range as well,
// so that no part of a shape can overflow later.
func (e *entry) setShape(shape []int64) error {
	product, empty := int64(e.dtype.Size()), false
	e.shape = make([]int, len(shape))
	for i, n := range shape {
		e.shape[i] = int(n)
		if n == 0 {
			empty = true
			continue
		}
		if n > math.MaxInt/product {
			return fmt.Errorf("shape %v is too large: its size overflows", shape)
		}
		product *= n
	}
	if empty {
		product = 0
	}
	if product != e.end-e.begin {
		return fmt.Errorf("%s of shape %v needs %d bytes, but data_offsets span %d",
			e.dtype, shape, product, e.end-e.begin)
	}
	return nil
}

// checkRanges checks that the tensors fill the data exactly: the format allows
// neither overlaps nor holes, and a hole could hide anything.
func (h *header) checkRanges(dataBytes int64) error {
	names := make([]string, 0, len(h.entries))
	for name := range h.entries {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := h.entries[a], h.entries[b]
		return cmp.Or(cmp.Compare(x.begin, y.begin), cmp.Compare(x.end, y.end), cmp.Compare(a, b))
	})
	for _, name := range names { // first, as it would make a hole or an overlap as well
		if e := h.entries[name]; e.end > dataBytes {
			return fmt.Errorf("tensor %s ends at %d, but the file has %d bytes of data: "+
				"it is cut off", quote(name), e.end, dataBytes)
		}
	}
	var at int64
	for i, name := range names {
		e := h.entries[name]
		switch {
		case e.begin < at:
			return fmt.Errorf("tensor %s overlaps tensor %s", quote(name), quote(names[i-1]))
		case e.begin > at:
			return fmt.Errorf("%d bytes before tensor %s belong to no tensor", e.begin-at, quote(name))
		}
		at = e.end
	}
	if at != dataBytes {
		return fmt.Errorf("the last %d bytes belong to no tensor", dataBytes-at)
	}
	return nil
}

// parseIndex returns the weight map of a model.safetensors.index.json: the name
// of the shard of each tensor, a plain file name.
func parseIndex(text []byte) (map[string]string, error) {
	js, err := newStrictJSON(text)
	if err != nil {
		return nil, err
	}
	var weightMap map[string]string
	err = js.object(func(key string) error {
		if key == "weight_map" && weightMap != nil {
			return twice(key)
		}
		if key != "weight_map" {
			nodes := maxConfigNodes
			_, err := js.value(maxConfigDepth, &nodes)
			return err
		}
		weightMap, err = parseStrings(js)
		if err != nil {
			return fmt.Errorf("weight_map: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if weightMap == nil {
		return nil, errors.New("has no weight_map")
	}
	for name, shard := range weightMap {
		if !plainName(shard) {
			return nil, fmt.Errorf("weight_map: tensor %s is in %s, which is not a plain file name",
				quote(name), quote(shard))
		}
	}
	return weightMap, nil
}

// plainName reports whether name is that of a weights file in its own directory.
func plainName(name string) bool {
	return strings.HasSuffix(name, ".safetensors") && filepath.IsLocal(name) &&
		!strings.ContainsAny(name, "/\\\x00") && len(name) <= 255
}
