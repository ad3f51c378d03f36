package limits

import "golang.org/x/sys/cpu"

// readAVX2 loads n times four lines of 64 bytes, which lie stride bytes apart; the next four lie
// step bytes further. n is at least 1.
//
//go:noescape
func readAVX2(p *byte, stride, step, n uintptr)

// readAVX512 is readAVX2 with registers of 64 bytes.
//
//go:noescape
func readAVX512(p *byte, stride, step, n uintptr)

// fmaAVX2 does n times 12 independent multiply-adds of 8 numbers. n is at least 1.
func fmaAVX2(n uintptr)

// fmaAVX512 does n times 16 independent multiply-adds of 16 numbers. n is at least 1.
func fmaAVX512(n uintptr)

// rounds is the n of the multiply-adds: less than 200 µs.
const rounds = 16 << 10

// loader is readAVX2 or its like.
type loader func(p *byte, stride, step, n uintptr)

func hasAVX2() bool { return cpu.X86.HasAVX2 && cpu.X86.HasFMA }

func readers() []way {
	ways := []way{{"go", "linear", plainRead}}
	if hasAVX2() {
		ways = append(ways, loads("avx2", readAVX2)...)
	}
	if cpu.X86.HasAVX512F {
		ways = append(ways, loads("avx512", readAVX512)...)
	}
	return ways
}

// loads returns the ways to read with one set of instructions.
func loads(class string, load loader) []way {
	const lines = 4 * 64
	return []way{
		{class, "linear", func(r *region) float64 {
			load(&r.next(chunk)[0], 64, lines, chunk/lines)
			return chunk
		}},
		{class, "4 neighbouring streams", func(r *region) float64 {
			load(&r.next(chunk)[0], chunk/4, 64, chunk/lines)
			return chunk
		}},
		{class, "4 distant streams", func(r *region) float64 {
			quarter := len(r.b) / 4
			p := r.next(chunk / 4)
			if r.at > quarter {
				r.at = 0
				p = r.next(chunk / 4)
			}
			load(&p[0], uintptr(quarter), 64, chunk/lines)
			return chunk
		}},
	}
}

func multipliers() []way {
	ways := []way{{"go", "8 chains", plainFMA}}
	if hasAVX2() {
		ways = append(ways, loop("avx2", "12 chains", fmaAVX2, 12*8, rounds))
	}
	if cpu.X86.HasAVX512F {
		ways = append(ways, loop("avx512", "16 chains", fmaAVX512, 16*16, rounds))
	}
	return ways
}
