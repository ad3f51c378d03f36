package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"drover/tensor"
)

// Tensor is a view of one tensor, or of a slice of one, in a file. Making one
// copies nothing and reads nothing.
type Tensor struct {
	// Name is the tensor's name; that of a slice ends in its index, as in "w[3]".
	Name string
	// DType is the type of the elements.
	DType tensor.DType
	// Shape holds the dimensions, outermost first; none for a single number.
	Shape []int

	file       *File
	begin, end int64 // in the file
}

// Index returns slice i along the first dimension: one expert of a tensor that
// fuses them all, for example.
func (t Tensor) Index(i int) (Tensor, error) {
	if len(t.Shape) == 0 {
		return Tensor{}, t.fail(errors.New("has no dimension to index"))
	}
	n := t.Shape[0]
	if i < 0 || i >= n {
		return Tensor{}, t.fail(fmt.Errorf("index %d is not in the first dimension, 0..%d", i, n-1))
	}
	size := (t.end - t.begin) / int64(n)
	t.Name = fmt.Sprintf("%s[%d]", t.Name, i)
	t.Shape = t.Shape[1:]
	t.begin += int64(i) * size
	t.end = t.begin + size
	return t, nil
}

// Elements returns the number of elements.
func (t Tensor) Elements() int {
	if t.file == nil {
		return 0
	}
	return int(t.end-t.begin) / t.DType.Size()
}

// Raw returns the mapped bytes, little-endian, or nil if the file is closed, was
// changed, or lacks them as part of a slice. They must not be written, nor used after
// Close. Unlike Read, Raw cannot guard its caller: a file that is cut off while the bytes
// are in use raises a signal that ends the process.
func (t Tensor) Raw() []byte {
	if t.file == nil {
		return nil
	}
	t.file.mu.RLock()
	defer t.file.mu.RUnlock()
	if t.file.usable() != nil || t.file.here(t.begin, t.end) != nil {
		return nil
	}
	t.file.prefetch(t.begin, t.end)
	t.file.touched.Add(t.end - t.begin)
	return t.file.mapping[t.begin:t.end:t.end]
}

// Read copies the tensor's bytes, little-endian, to dst, which must have exactly
// their size.
func (t Tensor) Read(dst []byte) error {
	if int64(len(dst)) != t.end-t.begin {
		return t.fail(fmt.Errorf("has %d bytes, but there is room for %d", t.end-t.begin, len(dst)))
	}
	return t.read(func(src []byte) { copy(dst, src) })
}

// Float32 converts the tensor to dst, which must have exactly Elements elements.
// BF16, F16, F32 and F64 can be converted; F64 is rounded. On an error dst is
// undefined.
//
// A file that was cut off since it was opened gives an error: its size is compared
// before it is touched, and a page that is lost between that and the read faults,
// which is caught as well. A file overwritten in place, of the same size, is not
// noticed.
func (t Tensor) Float32(dst []float32) error {
	convert, err := t.converter(len(dst))
	if err != nil {
		return err
	}
	return t.read(func(src []byte) { convert(dst, src) })
}

// Float32Of is Float32 of bytes that lie elsewhere, as those of a tensor that a slice lacks.
func (t Tensor) Float32Of(dst []float32, src []byte) error {
	convert, err := t.converter(len(dst))
	if err != nil {
		return err
	}
	if int64(len(src)) != t.end-t.begin {
		return t.fail(fmt.Errorf("has %d bytes, but there are %d", t.end-t.begin, len(src)))
	}
	convert(dst, src)
	return nil
}

// converter returns what converts the tensor to so many elements.
func (t Tensor) converter(elements int) (func(dst []float32, src []byte), error) {
	if elements != t.Elements() {
		return nil, t.fail(fmt.Errorf("has %d elements, but there is room for %d", t.Elements(),
			elements))
	}
	switch t.DType {
	case tensor.BF16:
		return fromBF16, nil
	case tensor.F16:
		return fromF16, nil
	case tensor.F32:
		return fromF32, nil
	case tensor.F64:
		return fromF64, nil
	}
	return nil, t.fail(fmt.Errorf("is %s, must be BF16, F16, F32 or F64", t.DType))
}

// Release tells the system that the tensor's bytes are not needed in memory any
// more, because they have been packed elsewhere; reading them again works and
// goes to the file. Pages shared with a neighbouring tensor are kept.
func (t Tensor) Release() {
	if t.file == nil {
		return
	}
	t.file.mu.RLock()
	defer t.file.mu.RUnlock()
	page := int64(os.Getpagesize())
	begin, end := (t.begin+page-1)/page*page, t.end/page*page
	if t.file.mapping == nil || begin >= end {
		return
	}
	// Advice: where it is refused, the pages stay until the system needs memory.
	_ = unix.Madvise(t.file.mapping[begin:end], unix.MADV_DONTNEED)
}

func (t Tensor) read(use func(src []byte)) error {
	if t.file == nil {
		return errors.New("checkpoint: read of a Tensor that was not opened")
	}
	if err := t.file.read(t.begin, t.end, use); err != nil {
		return t.fail(err)
	}
	return nil
}

func (t Tensor) fail(err error) error {
	if t.file == nil {
		return fmt.Errorf("tensor %s: %w", quote(t.Name), err)
	}
	return fmt.Errorf("%s: tensor %s: %w", t.file.path, quote(t.Name), err)
}

func fromBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = tensor.BF16ToFloat32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func fromF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = tensor.F16ToFloat32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func fromF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func fromF64(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
}

// File returns the path of the file that holds the tensor, for messages.
func (t Tensor) File() string {
	if t.file == nil {
		return ""
	}
	return t.file.path
}

// Source names the bytes that the tensor is a view of: the file's name, number in its
// file system, size and time of change, and where the bytes begin and end. It is of the
// file that is open, though another may have its name by now. A file that is overwritten
// in place and given its size and time again is not told apart. Bytes that a slice lacks are
// named by what their source calls the file, if it does: alike in all slices of one model.
func (t Tensor) Source() (string, error) {
	if t.file == nil {
		return "", t.fail(errors.New("was not opened"))
	}
	t.file.mu.RLock()
	defer t.file.mu.RUnlock()
	if err := t.file.usable(); err != nil {
		return "", t.fail(err)
	}
	if tag := t.file.tag; tag != "" && t.file.here(t.begin, t.end) != nil {
		return fmt.Sprintf("%s as %q %d %d-%d", filepath.Base(t.file.path), tag, t.file.size,
			t.begin, t.end), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(t.file.file.Fd()), &st); err != nil {
		return "", t.fail(err)
	}
	return fmt.Sprintf("%s %d %d %d %d-%d", filepath.Base(t.file.path), st.Ino, st.Size,
		st.Mtim.Nano(), t.begin, t.end), nil
}

// Share calls use with the tensor's bytes, little-endian, for every i below n, each call
// on a goroutine of its own, and returns the first error of the lowest i. Like Float32
// it gives an error, not a signal, if the file was cut off.
func (t Tensor) Share(n int, use func(i int, src []byte) error) error {
	if t.file == nil {
		return t.fail(errors.New("was not opened"))
	}
	errs := make([]error, n)
	err := t.file.share(t.begin, t.end, n, func(i int, src []byte) { errs[i] = use(i, src) })
	for _, e := range append([]error{err}, errs...) {
		if e != nil {
			return t.fail(e)
		}
	}
	return nil
}
