package limits

import (
	"io/fs"
	"math"
	"os"
)

// MemoryLimit is how many bytes this process's control groups let it take, 0 where they set no
// limit or the system does not say.
func MemoryLimit() int64 { return memoryLimit(os.DirFS("/")) }

// noMemoryLimit is more than any machine has: version 1 writes such a number for no limit.
const noMemoryLimit = 1 << 60

func memoryLimit(root fs.FS) int64 {
	limit := int64(math.MaxInt64)
	eachGroup(root, "memory", func(group string) {
		for _, file := range []string{"/memory.max", "/memory.limit_in_bytes"} {
			text, err := fs.ReadFile(root, group+file)
			if n := number(text); err == nil && n > 0 {
				limit = min(limit, n)
			}
		}
	})
	if limit >= noMemoryLimit {
		return 0
	}
	return limit
}
