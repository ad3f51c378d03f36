package limits

import (
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	const self = "proc/self/cgroup"
	for name, tc := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no files": {nil, 0},
		"v2":       {map[string]string{self: "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		"v2 none":  {map[string]string{self: "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0},
		"v2 smallest": {map[string]string{self: "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "max\n",
			"sys/fs/cgroup/a/memory.max":   "4096\n"}, 4096},
		"v1": {map[string]string{self: "3:memory:/pod\n2:cpu:/\n0::/\n",
			"sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "8192\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":     "9223372036854771712\n"}, 8192},
		"v1 none": {map[string]string{self: "3:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"v1 seen from a container": {map[string]string{self: "3:memory:/pods/a\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "16384\n"}, 16384},
		"rubbish": {map[string]string{self: "0::/\n", "sys/fs/cgroup/memory.max": "-3\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for path, text := range tc.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := memoryLimit(root); got != tc.want {
				t.Errorf("memoryLimit() = %d, want %d", got, tc.want)
			}
		})
	}
}
