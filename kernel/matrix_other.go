//go:build !amd64 && !arm64

package kernel

import "drover/tensor"

func (m *Matrix) mulVector(tensor.Rows, *Activations, int, int) bool { return false }
