package kernel_test

import (
	"fmt"
	"testing"

	"drover/kernel"
	"drover/kernel/devicetest"
)

// TestCPU runs the test of all devices with several numbers of threads, with work cut as
// usual and as finely as it can be.
func TestCPU(t *testing.T) {
	for _, fine := range []bool{false, true} {
		for _, threads := range []int{0, 1, 2, 3, 5} {
			t.Run(fmt.Sprintf("%d threads, fine cuts %t", threads, fine), func(t *testing.T) {
				var pool *kernel.Pool
				if threads > 0 {
					pool = kernel.NewPool(threads)
					defer pool.Close()
				}
				d := kernel.NewCPU(pool)
				if fine {
					d.CutFinely()
				}
				devicetest.Run(t, d, devicetest.Options{})
			})
		}
	}
}
