package tensor

import "fmt"

// DType is the type of a tensor's elements. The zero value is none of them.
type DType uint8

// The element types. F8E4M3 has no infinities; F8E8M0 is an exponent alone.
const (
	Unknown DType = iota
	Bool
	U8
	I8
	U16
	I16
	U32
	I32
	U64
	I64
	F8E4M3
	F8E5M2
	F8E8M0
	F16
	BF16
	F32
	F64
)

// dtypes holds the name, as safetensors files spell it, and the size of each type.
var dtypes = [...]struct {
	name string
	size int
}{
	Unknown: {"Unknown", 0},
	Bool:    {"BOOL", 1},
	U8:      {"U8", 1},
	I8:      {"I8", 1},
	U16:     {"U16", 2},
	I16:     {"I16", 2},
	U32:     {"U32", 4},
	I32:     {"I32", 4},
	U64:     {"U64", 8},
	I64:     {"I64", 8},
	F8E4M3:  {"F8_E4M3", 1},
	F8E5M2:  {"F8_E5M2", 1},
	F8E8M0:  {"F8_E8M0", 1},
	F16:     {"F16", 2},
	BF16:    {"BF16", 2},
	F32:     {"F32", 4},
	F64:     {"F64", 8},
}

// Size returns the size of one element in bytes, 0 for Unknown.
func (d DType) Size() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].size
}

// String returns the type's name as safetensors files spell it.
func (d DType) String() string {
	if int(d) >= len(dtypes) {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// ParseDType returns the type with the given name, and whether there is one.
func ParseDType(s string) (DType, bool) {
	for d := Unknown + 1; int(d) < len(dtypes); d++ {
		if dtypes[d].name == s {
			return d, true
		}
	}
	return Unknown, false
}
