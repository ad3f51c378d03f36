//go:build !cuda || !linux

package cuda

// Built tells whether this program can use GPUs.
const Built = false

// List returns ErrNotBuilt.
func List() (Listing, error) { return Listing{}, ErrNotBuilt }

// OpenDevice returns ErrNotBuilt.
func OpenDevice(string, int) (Accelerator, error) { return nil, ErrNotBuilt }
