//go:build !cuda || !linux

package cuda

// List returns ErrNotBuilt.
func List() (Listing, error) { return Listing{}, ErrNotBuilt }
