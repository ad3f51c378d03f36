//go:build !amd64

package kernel

func addSquares(sums *[squareLanes]float64, x []float32) { addSquaresGo(sums, x) }

func narrow(dst []byte, src []float32) { narrowGo(dst, src) }

func rotatePairs(row, cos, sin []float32) { rotatePairsGo(row, cos, sin) }

func rotateHalves(row, cos, sin []float32) { rotateHalvesGo(row, cos, sin) }

func round(x []float32) { roundGo(x) }

func finite(x []float32) bool { return finiteGo(x) }

func notAbove[F float32 | float64]([]F, F) int { return 0 }
