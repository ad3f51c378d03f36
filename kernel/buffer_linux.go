package kernel

import "golang.org/x/sys/unix"

// hugePages asks for huge pages. It is advice: where it is refused, memory is as usual.
func hugePages(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
