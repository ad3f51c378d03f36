package kernel

const (
	avx2 instructions = iota + 1
	avx512
	avx512VNNI
)

// instructionNames are the names of the sets of vector instructions, by level.
var instructionNames = [...]string{plainGo: "go", avx2: "avx2", avx512: "avx512",
	avx512VNNI: "avx512vnni"}
