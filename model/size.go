package model

import (
	"strings"

	"drover/checkpoint"
	"drover/kernel"
	"drover/tensor"
)

// PackedBytes estimates the size of a whole model's packed weights from its tensors'
// headers, for progress bars: it guesses roles by names.
func PackedBytes(ck *checkpoint.Checkpoint, mode kernel.Mode) int64 {
	total := int64(0)
	for _, name := range ck.Names() {
		if t, err := ck.Tensor(name); err == nil && PartOf(name) != VisionPart && !isScale(name) {
			total += packedBytes(name, t, mode)
		}
	}
	return total
}

// CoordinatorBytes estimates what a coordinator holds of a model in memory, in a mode: all
// but routed experts and vision, from its tensors' headers and roles guessed by names.
func CoordinatorBytes(ck *checkpoint.Checkpoint, mode kernel.Mode) int64 {
	total, head := int64(0), int64(0)
	for _, name := range ck.Names() {
		t, err := ck.Tensor(name)
		if err != nil || PartOf(name) != TextPart || isScale(name) {
			continue
		}
		if n := packedBytes(name, t, mode); n > 0 {
			total += n
			if roleOf(name) == kernel.RoleHead {
				head = -1
			}
			continue
		}
		size := 4 // what is not bf16 is widened
		if t.DType == tensor.BF16 {
			size = 2
		}
		total += int64(t.Elements()) * int64(size)
		if head == 0 && strings.Contains(name, "embed_tokens") {
			head = matrixBytes(kernel.RoleHead, t, mode)
		}
	}
	return total + max(head, 0) // of a head of its own, or the embeddings once more as one
}

// packedBytes is the size of a tensor's packed weights, 0 for what is not multiplied in a
// mode's format: embeddings, norms and gates.
func packedBytes(name string, t checkpoint.Tensor, mode kernel.Mode) int64 {
	if len(t.Shape) < 2 || strings.Contains(name, "embed_tokens") ||
		strings.Contains(name, "router") {
		return 0
	}
	return matrixBytes(roleOf(name), t, mode)
}

func matrixBytes(role kernel.Role, t checkpoint.Tensor, mode kernel.Mode) int64 {
	const n, k = 64, 64
	f := mode.Weights(role, t.DType)
	return int64(t.Elements()) * int64(kernel.MatrixBytes(n, k, f)) / (n * k)
}

// Part is who holds a part of a model.
type Part int

// The parts of a model.
const (
	TextPart   Part = iota // a coordinator's
	ExpertPart             // the expert nodes'
	VisionPart             // nobody's yet
)

// PartOf tells tensors apart by the names that published checkpoints use.
func PartOf(name string) Part {
	for _, s := range []string{"vision_model.", "vision_tower.", "multi_modal_projector."} {
		if strings.Contains(name, s) {
			return VisionPart
		}
	}
	if strings.Contains(name, ".experts.") {
		return ExpertPart
	}
	return TextPart
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
