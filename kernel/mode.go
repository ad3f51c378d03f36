package kernel

import (
	"fmt"
	"strings"

	"drover/tensor"
)

// Precision says how one role's numbers are kept and multiplied.
type Precision uint8

const (
	// PrecisionExact keeps weights as the checkpoint has them and rows in float32.
	PrecisionExact Precision = iota + 1
	// PrecisionBF16 keeps weights as the checkpoint has them, rounds rows and caches
	// to bfloat16 and sums in float32.
	PrecisionBF16
	// PrecisionInt8 keeps weights, or keys and values, in 8 bits with scales.
	PrecisionInt8
	// PrecisionInt4 keeps weights in 4 bits with scales.
	PrecisionInt4
	// PrecisionFP8 keeps weights as e4m3 floats of 8 bits with scales, and multiplies
	// them in float32.
	PrecisionFP8
)

var precisionNames = [...]string{"", "exact", "bf16", "int8", "int4", "fp8"}

// String returns the precision's name.
func (p Precision) String() string {
	if int(p) < len(precisionNames) && p > 0 {
		return precisionNames[p]
	}
	return fmt.Sprintf("Precision(%d)", uint8(p))
}

// Role is a part of a model whose precision can be chosen.
type Role uint8

const (
	// RoleExperts is the routed experts' weights.
	RoleExperts Role = iota
	// RoleAttention is the projections of attention.
	RoleAttention
	// RoleDense is dense layers and shared experts.
	RoleDense
	// RoleHead is the output head.
	RoleHead
	// RoleKV is the cache of keys and values: exact, bf16 or int8.
	RoleKV
	// RoleRows is the rows that travel to the experts and back: exact or bf16.
	RoleRows

	roles
)

var roleNames = [roles]string{"experts", "attention", "dense", "head", "kv", "rows"}

// last is the last precision that a role can have.
var last = [roles]Precision{PrecisionFP8, PrecisionFP8, PrecisionFP8, PrecisionFP8,
	PrecisionInt8, PrecisionBF16}

// Mode is a numeric mode: the precision of each role. The bytes of an answer depend
// on it. The zero Mode is none.
type Mode uint32

const roleBits = 4

// Modes by name. The gate that chooses experts, norms and embeddings are as in the
// checkpoint in all of them.
const (
	// Exact keeps activations, rows on the wire and the KV cache in float32. It is
	// for verification.
	Exact Mode = 0x111111
	// BF16 rounds rows on the wire and the KV cache to bfloat16; sums stay float32.
	BF16 Mode = 0x222222
	// Int8 keeps all linear layers in 8 bits, rows and KV cache in bfloat16.
	Int8 Mode = 0x223333
	// Int4 keeps linear layers in 4 bits, the head in 8, rows and KV cache in bfloat16.
	Int4 Mode = 0x223444
	// FP8 keeps linear layers in e4m3, 8 bits, rows and KV cache in bfloat16; rows are
	// multiplied in float32, as in BF16.
	FP8 Mode = 0x225555
)

// bases are the modes that a mode's name begins with.
var bases = [...]Mode{Exact, BF16, Int8, Int4, FP8}

// Precision returns the precision of a role.
func (m Mode) Precision(r Role) Precision { return Precision(m >> (roleBits * r) & 15) }

// With returns m with another precision for a role.
func (m Mode) With(r Role, p Precision) Mode {
	return m&^(15<<(roleBits*r)) | Mode(p)<<(roleBits*r)
}

// ParseMode reads a mode: exact, bf16, int8, int4 or fp8, and then, after commas, roles
// with a precision of their own, as in "int4,head=bf16,kv=int8".
func ParseMode(s string) (Mode, error) {
	base, rest, more := strings.Cut(s, ",")
	m := Mode(0)
	for i, b := range bases {
		if precisionNames[i+1] == base {
			m = b
		}
	}
	if m == 0 {
		return 0, fmt.Errorf("numeric mode %q is unknown: use exact, bf16, int8, int4 or fp8", base)
	}
	for more {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		var err error
		if m, err = m.parseRole(part); err != nil {
			return 0, fmt.Errorf("numeric mode %q: %w", s, err)
		}
	}
	return m, nil
}

// parseRole reads "role=precision".
func (m Mode) parseRole(s string) (Mode, error) {
	name, value, _ := strings.Cut(s, "=")
	for r, known := range roleNames {
		if known != name {
			continue
		}
		for p := PrecisionExact; p <= last[r]; p++ {
			if precisionNames[p] == value {
				return m.With(Role(r), p), nil
			}
		}
		return 0, fmt.Errorf("precision %q of %s: use one of %s", value, name,
			strings.Join(precisionNames[1:last[r]+1], ", "))
	}
	return 0, fmt.Errorf("role %q is unknown: use %s, each with =precision",
		name, strings.Join(roleNames[:], ", "))
}

// String returns the shortest name that ParseMode reads as m.
func (m Mode) String() string {
	best := ""
	for i, b := range bases {
		var s strings.Builder
		s.WriteString(precisionNames[i+1])
		for r := range roles {
			if m.Precision(r) != b.Precision(r) {
				fmt.Fprintf(&s, ",%s=%v", roleNames[r], m.Precision(r))
			}
		}
		if best == "" || strings.Count(s.String(), ",") < strings.Count(best, ",") {
			best = s.String()
		}
	}
	return best
}

// RowType is the element type to which rows are rounded before they leave for the
// experts and before they come back.
func (m Mode) RowType() tensor.DType {
	if m.Precision(RoleRows) == PrecisionExact {
		return tensor.F32
	}
	return tensor.BF16
}

// Weights returns the format in which a role keeps weights of the checkpoint's type.
func (m Mode) Weights(r Role, d tensor.DType) Format {
	switch p := m.Precision(r); {
	case p == PrecisionInt8:
		return WeightsInt8
	case p == PrecisionInt4:
		return WeightsInt4
	case p == PrecisionFP8 || d == tensor.F8E4M3:
		return WeightsFP8
	case d == tensor.BF16:
		return WeightsBF16
	}
	return WeightsF32
}

// arithmetic counts the changes of what the kernels compute, bit for bit.
const arithmetic = 4

// Class names the kernel class of a mode on CPUs: two machines of one class give the same
// bytes. Every instruction set does (K2), so the class does not name one.
func Class(m Mode) string { return ClassOn("cpu", m) }

// ClassOn names the kernel class of a mode on a kind of devices.
func ClassOn(kind string, m Mode) string {
	return fmt.Sprintf("%s%d-%v", kind, arithmetic, m)
}
