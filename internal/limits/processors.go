package limits

import (
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Processors is the number of processors that this process may use at a time: those of
// its affinity mask, and no more than the CPU limits of its control groups, rounded up.
// Go's own default of GOMAXPROCS is never below two with such limits: two threads that
// compute would use up a limit of one processor in half of each period, and wait for
// the other half.
func Processors() int {
	return min(runtime.NumCPU(), cpuLimit(os.DirFS("/")))
}

// cpuLimit returns the smallest CPU limit of this process's control groups, rounded up
// to at least 1, and MaxInt where there is none or the system does not say.
func cpuLimit(root fs.FS) int {
	limit := math.MaxInt
	eachGroup(root, "cpu", func(group string) { limit = min(limit, groupLimit(root, group)) })
	return limit
}

// eachGroup calls use with the folder of each control group that this process belongs to, as
// far as a controller goes. A container may see its own group as the root, and not the path
// that the kernel tells; so all groups of the path that can be seen count, to the root.
func eachGroup(root fs.FS, controller string, use func(folder string)) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		controllers := strings.Split(parts[1], ",")
		var mounts []string
		switch {
		case parts[1] == "": // version 2 has one tree for all
			mounts = []string{"sys/fs/cgroup"}
		case slices.Contains(controllers, controller):
			mounts = []string{"sys/fs/cgroup/" + controller, "sys/fs/cgroup/" + parts[1]}
		}
		for _, mount := range mounts {
			for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
				use(mount + strings.TrimSuffix(group, "/"))
				if group == "/" {
					break
				}
			}
		}
	}
}

// groupLimit returns the CPU limit of one group.
func groupLimit(root fs.FS, group string) int {
	var quota, period int64
	if text, err := fs.ReadFile(root, group+"/cpu.max"); err == nil {
		first, second, _ := strings.Cut(string(text), " ")
		quota, period = number([]byte(first)), number([]byte(second))
	} else {
		q, _ := fs.ReadFile(root, group+"/cpu.cfs_quota_us")
		p, _ := fs.ReadFile(root, group+"/cpu.cfs_period_us")
		quota, period = number(q), number(p)
	}
	if quota <= 0 || period <= 0 {
		return math.MaxInt
	}
	return int((quota-1)/period) + 1
}

// number reads a number, 0 where there is another word, as in "max", or none.
func number(text []byte) int64 {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
