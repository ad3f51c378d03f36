//go:build !linux

package expertnode

// background lets the calling goroutine have only what others leave of the processors, on
// Linux.
func background() {}
