package model

import (
	"strings"

	"drover/checkpoint"
	"drover/kernel"
)

// PackedBytes estimates the size of a whole model's packed weights from its tensors'
// headers, for progress bars: it guesses roles by names.
func PackedBytes(ck *checkpoint.Checkpoint, mode kernel.Mode) int64 {
	total := int64(0)
	for _, name := range ck.Names() {
		t, err := ck.Tensor(name)
		if err != nil || len(t.Shape) < 2 || strings.Contains(name, "embed_tokens") ||
			strings.HasPrefix(name, "vision_model") || strings.HasPrefix(name, "multi_modal") {
			continue
		}
		f := mode.Weights(roleOf(name), t.DType)
		const n, k = 64, 64
		total += int64(t.Elements()) * int64(kernel.MatrixBytes(n, k, f)) / (n * k)
	}
	return total
}

func roleOf(name string) kernel.Role {
	switch {
	case strings.Contains(name, ".experts."):
		return kernel.RoleExperts
	case strings.Contains(name, "attn"):
		return kernel.RoleAttention
	case strings.Contains(name, "lm_head"):
		return kernel.RoleHead
	}
	return kernel.RoleDense
}
