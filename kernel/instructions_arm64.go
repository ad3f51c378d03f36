package kernel

import "golang.org/x/sys/cpu"

const (
	// neon is what every processor of 64 bits has.
	neon instructions = iota + 1
	// neonDot has dot products of four bytes besides.
	neonDot
)

// instructionNames are the names of the sets of vector instructions, by level.
var instructionNames = [...]string{plainGo: "go", neon: "neon", neonDot: "neondot"}

func detect() instructions {
	if cpu.ARM64.HasASIMDDP {
		return neonDot
	}
	return neon
}
