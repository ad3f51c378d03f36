//go:build !linux

package limits

import "time"

var begun = time.Now()

// threadTime is the time of day where threads have no clocks of their own.
func threadTime() time.Duration { return time.Since(begun) }
