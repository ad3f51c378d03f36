//go:build !amd64

package kernel

import "drover/tensor"

func (m *Matrix) mulVector(y, x tensor.Rows) bool { return false }
