//go:build !amd64 && !arm64

package kernel

// instructionNames are the names of the sets of vector instructions, by level.
var instructionNames = [...]string{plainGo: "go"}

func detect() instructions { return plainGo }

func expShifted(y, x []float32, shift float32) { expShiftedGo(y, x, shift) }

func swiGLU(y, gate, up []float32) { swiGLUGo(y, gate, up) }

func sigmoid(y, x []float32) { sigmoidGo(y, x) }

func add(y, x []float32) { addGo(y, x) }

func scale(y, x []float32, s float32) { scaleGo(y, x, s) }

func scaleWeighted(y, x, weight []float32, s float32) { scaleWeightedGo(y, x, weight, s) }

func widen(dst []float32, src []byte) { widenGo(dst, src) }
