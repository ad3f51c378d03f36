//go:build !amd64

package kernel

func (l *KVLayout) productRows() int { return maxProductRows }

func (s *attentionScratch) keysVector(*KVLayout, []float32, []float32) bool { return false }

func (s *attentionScratch) valuesVector(*KVLayout, []float32, []float32, []float32, [2]int) bool {
	return false
}

func scaleScores(scores []float32, scales *[blockTokens]float32) { scaleScoresGo(scores, scales) }

func maxScores(scores, best, diff []float32) { maxScoresGo(scores, best, diff) }

func sumScores(scores, sums, shrink []float32) { sumScoresGo(scores, sums, shrink) }
