package kernel

// CutFinely makes a CPU cut all work into as many pieces as it can be, so that small
// tests run on all threads.
func (c *CPU) CutFinely() { c.cuts = cuts{smallestPieceNanos: 1, largestPieceNanos: 1} }
