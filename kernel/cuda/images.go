//go:build cuda && linux

package cuda

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
)

// images are the kernels as scripts/gpu-kernels compiled them.
//
//go:embed images/*.gz
var images embed.FS

// maxImageBytes bounds an image after it is unpacked.
const maxImageBytes = 64 << 20

// LoadKernels loads this package's kernels, compiled for the device's architecture. For
// one that is newer than the compiler the driver compiles them.
func (c *Context) LoadKernels() (*Module, error) {
	name, err := imageFor(int(c.capability[0]), int(c.capability[1]))
	if err != nil {
		return nil, fmt.Errorf("load kernels: %w", err)
	}
	packed, err := images.ReadFile("images/" + name + ".gz")
	if err != nil {
		return nil, fmt.Errorf("load kernels: %w", err)
	}
	image, err := unpack(packed)
	if err != nil {
		return nil, fmt.Errorf("load kernels for %s: %w: %w", name, ErrImage, err)
	}
	return c.LoadModule(image)
}

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	image, err := io.ReadAll(io.LimitReader(r, maxImageBytes+1))
	if err == nil && len(image) > maxImageBytes {
		err = fmt.Errorf("more than %d bytes", maxImageBytes)
	}
	return image, err
}

// imageFor names the image for a compute capability. Machine code serves all devices of its major
// number, but that with Hopper's own instructions 9.0 only.
func imageFor(major, minor int) (string, error) {
	switch {
	case major < 8:
		return "", fmt.Errorf("%w: its architecture is sm_%d%d, needed is sm_80 or newer", ErrImage,
			major, minor)
	case major == 9 && minor == 0:
		return hopperImage, nil
	case major == 8 || major == 10:
		return fmt.Sprintf("sm_%d0", major), nil
	}
	return "compute_80", nil
}
