//go:build !cuda || !linux

package cuda

import (
	"errors"
	"testing"
)

func TestListNotBuilt(t *testing.T) {
	if l, err := List(); !errors.Is(err, ErrNotBuilt) || len(l.GPUs) != 0 {
		t.Errorf("List() = %v, %v, want none and ErrNotBuilt", l, err)
	}
}
