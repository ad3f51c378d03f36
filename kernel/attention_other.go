//go:build !amd64

package kernel

func (s *attentionScratch) keysVector(*KVLayout, []float32, rowsAt) bool { return false }

func (s *attentionScratch) valuesVector(*KVLayout, []float32, valuesAt) bool { return false }

func finishScores(b *softmaxBlocks) { scoresGo(b) }

func exponentials(b *softmaxBlocks) { exponentialsGo(b) }

func (l *KVLayout) together(int) int { return stepBlocks }

func (s *attentionScratch) loadVector(*KVLayout) {}

func (s *attentionScratch) scalesVector(*KVLayout) bool { return false }

func fetchScales(**byte, int) {}

func fetchRows(*float32, int, int, int) {}

func (s *attentionScratch) queriesVector(*AttentionRun, *attentionPiece) bool { return false }
