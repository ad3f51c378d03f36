package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"drover/tensor"
)

func TestReadHeader(t *testing.T) {
	one := func(entry string) string { return `{"a":` + entry + `}` }
	shaped := func(shape string, end int) string {
		return one(fmt.Sprintf(`{"dtype":"U8","shape":%s,"data_offsets":[0,%d]}`, shape, end))
	}
	for name, tc := range map[string]struct {
		header string
		data   int
		want   string // part of the error, "" if there is none
	}{
		"one tensor":     {one(`{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`), 8, ""},
		"padding":        {shaped(`[2]`, 2) + "   ", 2, ""},
		"scalar":         {one(`{"dtype":"F64","shape":[],"data_offsets":[0,8]}`), 8, ""},
		"no elements":    {one(`{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}`), 0, ""},
		"no tensors":     {`{}`, 0, ""},
		"metadata":       {`{"__metadata__":{"format":"pt"}}`, 0, ""},
		"empty header":   {``, 0, "length is 0"},
		"string":         {`"a"`, 0, "must be an object"},
		"two values":     {`{} {}`, 0, "not valid JSON"},
		"bare NaN":       {shaped(`[NaN]`, 0), 0, "at byte"},
		"not UTF-8":      {"{\"\xff\":1}", 0, "not UTF-8"},
		"metadata list":  {`{"__metadata__":[]}`, 0, "__metadata__: is a list"},
		"metadata value": {`{"__metadata__":{"n":1}}`, 0, `"n" is 1, must be a string`},
		"entry null":     {one(`null`), 0, `tensor "a": is null, must be an object`},
		"no shape":       {one(`{"dtype":"U8","data_offsets":[0,0]}`), 0, "must have dtype, shape"},
		"one offset":     {one(`{"dtype":"U8","shape":[0],"data_offsets":[0]}`), 0, "must have dtype"},
		"three offsets":  {one(`{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}`), 0, "more than 2"},
		"extra field": {one(`{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":0}`), 0,
			`"x" is not`},
		"field twice": {one(`{"dtype":"U8","dtype":"U8","shape":[0]}`), 0, `"dtype" stands`},
		"tensor twice": {`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},` +
			`"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2, `"a" stands there twice`},
		"dtype number":   {one(`{"dtype":5,"shape":[0],"data_offsets":[0,0]}`), 0, `"dtype" is 5`},
		"dtype case":     {one(`{"dtype":"f32","shape":[1],"data_offsets":[0,4]}`), 4, "not known"},
		"shape object":   {shaped(`{}`, 0), 0, "must be a list"},
		"shape float":    {shaped(`[1.0]`, 1), 1, "holds 1.0"},
		"shape string":   {shaped(`["1"]`, 1), 1, "must be an integer"},
		"shape 2^64":     {shaped(`[18446744073709551616]`, 1), 1, "2^63-1"},
		"many dims":      {shaped("["+strings.Repeat("1,", 99)+"1]", 1), 1, "more than 16"},
		"wraps to 0":     {shaped(`[4294967296,4294967296]`, 0), 0, "overflows"},
		"overflows by 0": {shaped(`[0,4294967296,4294967296]`, 0), 0, "overflows"},
		"largest bytes": {one(`{"dtype":"F64","shape":[9223372036854775807],"data_offsets":[0,8]}`), 8,
			"overflows"},
		"too few bytes": {one(`{"dtype":"F32","shape":[2],"data_offsets":[0,7]}`), 7, "needs 8 bytes"},
		"reversed":      {one(`{"dtype":"U8","shape":[1],"data_offsets":[1,0]}`), 1, "after their end"},
		"past the end":  {shaped(`[2]`, 2), 1, "cut off"},
		"hole at start": {one(`{"dtype":"U8","shape":[1],"data_offsets":[1,2]}`), 2, "to no tensor"},
		"hole at end":   {shaped(`[1]`, 1), 2, "the last 1 bytes"},
		"overlap": {`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},` +
			`"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3, `"b" overlaps tensor "a"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := rawFile(tc.header, make([]byte, tc.data))
			h, err := readHeader(bytes.NewReader(b), int64(len(b)))
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkHeader(t, h, int64(len(b)))
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

// checkHeader checks what the rest of the package relies on.
func checkHeader(t testing.TB, h *header, size int64) {
	t.Helper()
	var total int64
	for name, e := range h.entries {
		bytes := int64(e.dtype.Size())
		for _, n := range e.shape {
			if n < 0 {
				t.Fatalf("tensor %q has shape %v", name, e.shape)
			}
			bytes *= int64(n)
		}
		if e.begin < 0 || e.end-e.begin != bytes || h.dataAt+e.end > size {
			t.Fatalf("tensor %q: %+v in a file of %d bytes, data at %d", name, e, size, h.dataAt)
		}
		total += bytes
	}
	if h.dataAt+total != size {
		t.Fatalf("tensors have %d bytes, the file has room for %d", total, size-h.dataAt)
	}
}

// A length prefix alone must not make anybody allocate.
func TestHeaderLength(t *testing.T) {
	for _, length := range []uint64{math.MaxUint64, 1 << 63, maxHeaderBytes + 1, maxHeaderBytes, 3} {
		b := append(binary.LittleEndian.AppendUint64(nil, length), "{}"...)
		var err error
		got := allocated(func() { _, err = readHeader(bytes.NewReader(b), int64(len(b))) })
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(length)) {
			t.Errorf("length %d: error = %v", length, err)
		}
		if got > 64<<10 {
			t.Errorf("length %d: allocated %d bytes", length, got)
		}
	}
}

// allocated returns how many bytes f allocates in all, freed ones included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// The headers that cost most memory a byte stay within a small multiple of their
// size, even if garbage counts.
func TestHeaderAllocation(t *testing.T) {
	const n = 20_000
	headers := map[string]string{
		"tensors":    `"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`,
		"dimensions": `"%d":{"shape":[0,0,0,0,0,0,0,0,0],"dtype":"U8","data_offsets":[0,0]}`,
	}
	for name, member := range headers {
		t.Run(name, func(t *testing.T) {
			members := make([]string, n)
			for i := range members {
				members[i] = fmt.Sprintf(member, i)
			}
			b := rawFile("{"+strings.Join(members, ",")+"}", nil)
			checkAllocation(t, b)
		})
	}
	t.Run("metadata", func(t *testing.T) {
		members := make([]string, n)
		for i := range members {
			members[i] = fmt.Sprintf(`"%d":""`, i)
		}
		checkAllocation(t, rawFile(`{"__metadata__":{`+strings.Join(members, ",")+"}}", nil))
	})
	t.Run("one shape", func(t *testing.T) {
		shape := strings.Repeat("0,", 1<<20) + "0"
		b := rawFile(`{"a":{"shape":[`+shape+`],"dtype":"U8","data_offsets":[0,0]}}`, nil)
		checkAllocation(t, b)
	})
}

func checkAllocation(t *testing.T, b []byte) {
	t.Helper()
	const multiple = 20
	got := allocated(func() { readHeader(bytes.NewReader(b), int64(len(b))) })
	t.Logf("%d bytes allocated for %d of header", got, len(b))
	if got > multiple*uint64(len(b)) {
		t.Errorf("%d bytes allocated for a file of %d", got, len(b))
	}
}

// Whatever tensors are written are read back, bit for bit.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.String(), 0, 8, rapid.ID).Draw(rt, "names")
		var tensors []written
		for _, name := range names {
			if name == "__metadata__" || strings.ToValidUTF8(name, "") != name {
				continue
			}
			dtype := tensor.DType(rapid.IntRange(1, int(tensor.F64)).Draw(rt, "dtype"))
			shape := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 4).Draw(rt, "shape")
			size := dtype.Size()
			for _, n := range shape {
				size *= n
			}
			data := rapid.SliceOfN(rapid.Byte(), size, size).Draw(rt, "data")
			tensors = append(tensors, written{name, dtype, shape, data})
		}
		path := filepath.Join(dir, "model.safetensors")
		if err := os.WriteFile(path, safetensors(t, tensors...), 0o600); err != nil {
			rt.Fatal(err)
		}
		f, err := OpenFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		defer f.Close()
		if len(f.Names()) != len(tensors) {
			rt.Fatalf("names = %q, want %d", f.Names(), len(tensors))
		}
		for _, w := range tensors {
			checkWritten(rt, f, w)
		}
	})
}

func checkWritten(rt *rapid.T, f *File, w written) {
	v, err := f.Tensor(w.name)
	if err != nil {
		rt.Fatal(err)
	}
	if v.DType != w.dtype || !slices.Equal(v.Shape, w.shape) || !bytes.Equal(v.Raw(), w.data) {
		rt.Fatalf("tensor %q is %v %v %x, want %+v", w.name, v.DType, v.Shape, v.Raw(), w)
	}
	if len(w.shape) == 0 || w.shape[0] == 0 {
		return
	}
	var joined []byte
	for i := range w.shape[0] {
		slice, err := v.Index(i)
		if err != nil {
			rt.Fatal(err)
		}
		joined = append(joined, slice.Raw()...)
	}
	if !bytes.Equal(joined, w.data) {
		rt.Fatalf("slices of %q are %x, want %x", w.name, joined, w.data)
	}
}

// FuzzHeader reads the start of a file that has so many more bytes of data.
func FuzzHeader(f *testing.F) {
	paths, err := filepath.Glob("../testdata/fixtures/malformed/*/model.safetensors")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if end := bytes.LastIndexByte(b[:min(len(b), 2000)], '}') + 1; end > 0 {
			f.Add(b[:end], uint32(len(b)-end))
		}
	}
	f.Add(rawFile(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, nil), uint32(8))
	f.Add(rawFile(`{"__metadata__":{"a\n":"\u00e9"}}`, nil), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, more uint32) {
		size := int64(len(b)) + int64(more)
		h, err := readHeader(bytes.NewReader(b), size)
		if err != nil {
			checkOneLine(t, err)
			return
		}
		checkHeader(t, h, size)
	})
}

// checkOneLine checks that an error can be printed: one line, of bounded length.
func checkOneLine(t testing.TB, err error) {
	t.Helper()
	if s := err.Error(); strings.ContainsAny(s, "\n\r\x00\x1b") || len(s) > 8192 {
		t.Fatalf("error is not a short line: %q", s)
	}
}
