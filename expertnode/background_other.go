//go:build !linux

package expertnode

// Background lets the calling goroutine have only what others leave of the processors, on
// Linux.
func Background() {}
