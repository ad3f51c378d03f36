//go:build unix

package limits

import (
	"math"

	"golang.org/x/sys/unix"
)

// OpenFiles is how many files and connections this process may have open, 0 if that is not known.
// Go has raised it to what the system allows (ulimit -H -n).
func OpenFiles() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(uint64(l.Cur), math.MaxInt32)) // its type differs between systems
}
