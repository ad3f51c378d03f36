// Command kernelgen writes assembly of package kernel: the products of integers, the
// files integer_*_amd64.*, and all for arm64. There is one function for each number of
// rows, in each format and set of instructions, and they differ in little but the numbers
// of registers. Run go generate in the folder kernel.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	for name, text := range files() {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "kernelgen:", err)
			os.Exit(1)
		}
	}
}

// files returns the text of every file by name.
func files() map[string]string {
	return map[string]string{
		"integer_vnni_amd64.s":     vnniFile(),
		"integer_avx2_amd64.s":     avx2File(),
		"integer_quantise_amd64.s": quantiseFile(),
		"integer_tiles_amd64.go":   tilesFile(),
		"matrix_arm64.s":           neonFloatFile(),
		"integer_arm64.s":          neonIntegerFile(),
		"vector_arm64.s":           neonVectorFile(),
	}
}

const (
	lineBytes   = 64
	groupInputs = 64
	// spanGroups is the number of groups that share a row's scale.
	spanGroups = 4
)

// product is a function that multiplies some rows with neighbouring blocks of 16 outputs.
// Its rows are all those of a panel of activations.
type product struct {
	bits, rows, blocks int
	set                string
	// ahead is by how many groups weights are fetched before they are used; 0 leaves it
	// to the processor, which is best where the arithmetic takes few instructions.
	ahead int
	// several says that there are other panels, for which the weights are read again: each
	// fetches its part of the next weights.
	several bool
}

// vnni and avx2 are the products of a set of instructions, by bits and rows. Their blocks
// and fetching were chosen by measurement, and so was where several panels begin: with two of 8
// bits neither fetches enough.
func vnni(bits int) []product {
	var all []product
	for rows := 1; rows <= 4+bits; rows++ {
		p := product{bits: bits, rows: rows, blocks: 2, set: "VNNI", ahead: 4}
		switch {
		case rows == 1 && bits == 8:
			p.blocks, p.ahead = 4, 0
		case p.few():
			p.blocks = 4
		case bits == 4 && rows > 6:
			p.blocks, p.ahead = 1, 16
		case bits == 4:
			p.ahead = 8
		}
		all = append(all, p)
	}
	return all
}

// vnniSeveral are the products of one of several panels. Six rows and two blocks are the most
// whose float sums stay in registers.
func vnniSeveral(bits int) []product {
	var all []product
	for rows := 4; rows <= 6; rows++ {
		all = append(all, product{bits: bits, rows: rows, blocks: 2, set: "VNNI", several: true})
	}
	return all
}

func avx2(bits int) []product {
	var all []product
	for i, blocks := range []int{4, 2, 1, 1} {
		p := product{bits: bits, rows: i + 1, blocks: blocks, set: "AVX2", ahead: 8}
		if p.rows == 1 || p.rows == 2 && bits == 8 {
			p.ahead = 4
		}
		all = append(all, p)
	}
	return all
}

func (p product) name() string {
	several := ""
	if p.several {
		several = "Several"
	}
	return fmt.Sprintf("mulInt%dr%db%d%s%s", p.bits, p.rows, p.blocks, p.set, several)
}

const arguments = "y *float32, ldy, outputs int, w *byte, stride int,\n\t" +
	"x *int32, groups, add int, next *byte, step, ahead int"

// rowCodes is the bytes of the codes of a row's group: with AVX2 and 8 bits they are wide.
func (p product) rowCodes() int {
	if p.set == "AVX2" && p.bits == 8 {
		return 2 * groupInputs
	}
	return groupInputs
}

// unit is the bytes of a panel's group: codes, scales and offsets.
func (p product) unit() int { return p.rows * (p.rowCodes() + 4 + 4*p.halves()) }

// halves is the number of parts of a group that are summed on their own.
func (p product) halves() int {
	if p.bits == 4 {
		return 2
	}
	return 1
}

// superblock is the bytes of 16 outputs' weights of a group.
func (p product) superblock() int { return (2*p.bits + 1) * lineBytes }

// codes, scale and offset are places in a panel's group.
func (p product) codes(row, input int) int {
	return row*p.rowCodes() + input*p.rowCodes()/groupInputs
}

func (p product) scale(row int) int { return p.rows*p.rowCodes() + 4*row }

func (p product) offset(row, half int) int { return p.rows*(p.rowCodes()+4+4*half) + 4*row }

// asm collects assembly.
type asm struct{ strings.Builder }

// op writes an instruction.
func (a *asm) op(format string, args ...any) { fmt.Fprintf(a, "\t"+format+"\n", args...) }

func (a *asm) label(name string) { fmt.Fprintf(a, "\n%s:\n", name) }

// block is the address of a place in one of up to four blocks, the first of which is at SI.
func block(at, b int) string { return address("SI", at, b) }

// address is that with another register than SI; R8 is the blocks' distance, R9 three
// times that.
func address(base string, at, b int) string {
	return fmt.Sprintf("%s(%s)%s", place(at), base, []string{"", "(R8*1)", "(R8*2)", "(R9*1)"}[b])
}

// fetch fetches a line of each block that will be needed later: R13 is where SI will be. It
// fetches into the first cache: a line that only the second holds comes late.
func (p product) fetch(a *asm, line int) {
	if p.ahead == 0 {
		return
	}
	for b := range p.blocks {
		a.op("PREFETCHT0 %s", address("R13", line*lineBytes, b))
	}
}

// fetchNext fetches a line of weights for a later call, of each block by turns: R13 is its
// place in the first block, R12 the distance to the next. There are 16 of these in a group.
func (p product) fetchNext(a *asm, turn int) {
	if !p.several {
		return
	}
	b := turn % p.blocks
	a.op("PREFETCHT0 %s", address("R13", 0, b))
	if b == p.blocks-1 {
		a.op("ADDQ R12, R13")
	}
}

// fetchInputs fetches a group of inputs that will be needed later: R9 is by how many bytes. DX is
// behind the codes of the first row.
func (p product) fetchInputs(a *asm) {
	if !p.several {
		return
	}
	for at := 0; at < p.unit(); at += lineBytes {
		a.op("PREFETCHT0 %s(DX)(R9*1)", place(at-groupInputs))
	}
}

// advance moves SI, and R13 with it.
func (p product) advance(a *asm, lines int) {
	a.op("ADDQ $%d, SI", lines*lineBytes)
	if p.ahead > 0 {
		a.op("ADDQ $%d, R13", lines*lineBytes)
	}
}

// crossBlocks ends a group: what is fetched after the last groups of these blocks is the first
// groups of the next ones.
func (p product) crossBlocks(a *asm) {
	if p.ahead > 0 {
		a.op("DECQ R12")
		a.op("JNZ  same")
		a.op("ADDQ R14, R13")
		a.label("same")
	}
}

// endGroup goes to the next group.
func (p product) endGroup(a *asm) {
	p.crossBlocks(a)
	a.op("DECQ CX")
	a.op("JNZ  group")
}

// place is a displacement, nothing for 0.
func place(at int) string {
	if at == 0 {
		return ""
	}
	return fmt.Sprint(at)
}

const fileHead = `// Code generated by kernelgen. DO NOT EDIT.

`

const asmHead = fileHead + `#include "textflag.h"

// Each function multiplies all rows of a panel of activations with blocks of outputs: see
// mulTile. The sums of a group of inputs are exact integers in registers; those of floats,
// one chain of fused multiply-adds over the groups for each output (K1), stay in the
// frame, where they lie in neighbouring lines whatever the distance of the rows of y.
`

// begin writes a function's head: it loads the arguments, and makes DI the place of the
// sums in the frame, which begins at a multiple of align and has size bytes.
func (p product) begin(a *asm, align, size int) {
	fmt.Fprintf(a, "\nTEXT ·%s(SB), 0, $%d-88\n", p.name(), size+align)
	a.op("LEAQ sums-%d(SP), DI", size+align)
	a.op("ADDQ $%d, DI", align-1)
	a.op("ANDQ $-%d, DI", align)
	a.op("MOVQ w+24(FP), SI")
	a.op("MOVQ stride+32(FP), R8")
	a.op("MOVQ x+40(FP), DX")
	a.op("MOVQ groups+48(FP), CX")
	if p.blocks == 4 {
		a.op("LEAQ (R8)(R8*2), R9")
	}
	if p.several {
		a.op("MOVQ next+64(FP), R13")
		a.op("MOVQ step+72(FP), R12")
		a.op("MOVQ ahead+80(FP), R9")
	}
	if p.ahead > 0 {
		a.op("LEAQ -%d(CX), R12", p.ahead)
		a.op("LEAQ %d(SI), R13", p.ahead*p.superblock())
		a.op("IMUL3Q $%d, R8, R14", p.blocks-1)
	}
}

// tilesFile declares the functions and lists them by rows.
func tilesFile() string {
	var a asm
	a.WriteString(fileHead + "package kernel\n")
	all := slices.Concat(vnni(8), vnniSeveral(8), vnni(4), vnniSeveral(4), avx2(8), avx2(4))
	for _, p := range all {
		fmt.Fprintf(&a, "\n//go:noescape\nfunc %s(%s)\n", p.name(), arguments)
	}
	for _, q := range quantisers() {
		fmt.Fprintf(&a, "\n//go:noescape\nfunc %s(%s)\n", q.name(), quantiseArguments)
	}
	for _, list := range []struct {
		name string
		all  []product
	}{
		{"tilesInt8VNNI", vnni(8)}, {"severalInt8VNNI", vnniSeveral(8)},
		{"tilesInt4VNNI", vnni(4)}, {"severalInt4VNNI", vnniSeveral(4)},
		{"tilesInt8AVX2", avx2(8)}, {"tilesInt4AVX2", avx2(4)},
	} {
		fmt.Fprintf(&a, "\nvar %s = []integerTile{\n", list.name)
		for _, p := range list.all {
			a.op("{%d, %d, %s},", p.rows, p.blocks, p.name())
		}
		a.WriteString("}\n")
	}
	return a.String()
}
