//go:build !linux

package expertnode

// residentBytes returns the resident memory of this process, 0 if unknown.
func residentBytes() uint64 { return 0 }
