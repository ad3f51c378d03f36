package limits

import (
	"math"
	"runtime"
	"testing"
	"testing/fstest"
)

func TestCPULimit(t *testing.T) {
	const none = math.MaxInt
	const self = "proc/self/cgroup"
	for name, tc := range map[string]struct {
		files map[string]string
		want  int
	}{
		"no files": {nil, none},
		"v2":       {map[string]string{self: "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3},
		"v2 whole": {map[string]string{self: "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2},
		"v2 part":  {map[string]string{self: "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1},
		"v2 none":  {map[string]string{self: "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, none},
		"v2 inner group": {map[string]string{self: "0::/a/b\n",
			"sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
			"sys/fs/cgroup/a/cpu.max":   "400000 100000\n"}, 4},
		"v2 smallest": {map[string]string{self: "0::/a/b\n",
			"sys/fs/cgroup/a/b/cpu.max": "700000 100000\n",
			"sys/fs/cgroup/a/cpu.max":   "400000 100000\n"}, 4},
		"v2 path of the host": {map[string]string{self: "0::/../../kubepods/pod1\n",
			"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1},
		"v2 other group": {map[string]string{self: "0::/a\n",
			"sys/fs/cgroup/b/cpu.max": "100000 100000\n"}, none},
		"v1": {map[string]string{self: "3:memory:/x\n2:cpu,cpuacct:/docker/1\n0::/\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":  "150000\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2},
		"v1 inner group": {map[string]string{self: "1:cpu:/a\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us":  "50000\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":    "-1\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":   "100000\n"}, 1},
		"v1 none": {map[string]string{self: "1:cpu:/\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "-1\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, none},
		"v1 without a period": {map[string]string{self: "1:cpu:/\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n"}, none},
		"period of zero": {map[string]string{self: "0::/\n",
			"sys/fs/cgroup/cpu.max": "100000 0\n"}, none},
		"one number": {map[string]string{self: "0::/\n", "sys/fs/cgroup/cpu.max": "100000\n"}, none},
		"rubbish":    {map[string]string{self: "::\nx\n\n0::/\n", "sys/fs/cgroup/cpu.max": "a b c"}, none},
		"huge": {map[string]string{self: "0::/\n",
			"sys/fs/cgroup/cpu.max": "9223372036854775807 1\n"}, none},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for path, text := range tc.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := cpuLimit(root); got != tc.want {
				t.Errorf("cpuLimit() = %d, want %d", got, tc.want)
			}
		})
	}
	if n := Processors(); n < 1 || n > runtime.NumCPU() {
		t.Errorf("Processors() = %d, want 1 to %d", n, runtime.NumCPU())
	}
}
