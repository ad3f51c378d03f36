//go:build !amd64

package kernel

import "drover/tensor"

func (m *Matrix) mulAVX2(y, x tensor.Rows) { m.mulGeneric(y, x) }
