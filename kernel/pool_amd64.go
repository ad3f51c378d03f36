package kernel

// ticksPerMicrosecond is about what ticks counts in a microsecond: 2000 to 4000.
const ticksPerMicrosecond = 3000

// ticks reads the processor's counter, which all processors have in common.
//
//go:noescape
func ticks() int64

// relax gives a spinning thread's part of the processor to others for a moment, then
// reads the counter.
//
//go:noescape
func relax() int64
