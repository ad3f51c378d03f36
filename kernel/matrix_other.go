//go:build !amd64

package kernel

import "drover/tensor"

const useAVX2 = false

func (m *Matrix) mulAVX2(y, x tensor.Rows) { m.mulGeneric(y, x) }
