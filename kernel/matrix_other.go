//go:build !amd64

package kernel

import "drover/tensor"

func (m *Matrix) mulVector(tensor.Rows, *Activations, int, int) bool { return false }
