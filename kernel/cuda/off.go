//go:build !cuda || !linux

package cuda

// List returns ErrNotBuilt.
func List() (Listing, error) { return Listing{}, ErrNotBuilt }

// OpenDevice returns ErrNotBuilt.
func OpenDevice(int) (Accelerator, error) { return nil, ErrNotBuilt }
