package checkpoint

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const gateUp = "language_model.model.layers.1.feed_forward.experts.gate_up_proj"

// evicted opens a copy of the demo model's shard with the experts of layer 1, none
// of whose pages is in memory. It skips the test where the system keeps them.
func evicted(t *testing.T) *File {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(maverick, "model-00002-of-00003.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(writeDir(t, map[string][]byte{"x.safetensors": b}), "x.safetensors")
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Skipf("pages cannot be evicted: %v", err)
	}
	for _, cached := range incore(t, f) {
		if cached {
			t.Skip("this file system keeps pages in memory")
		}
	}
	return f
}

// incore says of each page of the file whether it is in memory.
func incore(t *testing.T, f *File) []bool {
	t.Helper()
	page := os.Getpagesize()
	pages := make([]byte, (len(f.mapping)+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&f.mapping[0])),
		uintptr(len(f.mapping)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	in := make([]bool, len(pages))
	for i, p := range pages {
		in[i] = p&1 != 0
	}
	return in
}

// residentBytes returns how much of the file's mapping counts as this process's memory.
func residentBytes(t *testing.T, f *File) int {
	t.Helper()
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer smaps.Close()
	begin := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&f.mapping[0])))
	in := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		var kib int
		if strings.HasPrefix(lines.Text(), begin) {
			in = true
		} else if _, err := fmt.Sscanf(lines.Text(), "Rss: %d kB", &kib); in && err == nil {
			return kib << 10
		}
	}
	t.Fatalf("no mapping of %s", f.path)
	return 0
}

// Reading one expert brings its own pages into memory and no others, counts its
// bytes alone, and Release takes them back out of the process.
func TestExpertTouchesItsPages(t *testing.T) {
	f := evicted(t)
	all := mustTensor(t, f, gateUp)
	const expert = 77
	v, err := all.Index(expert)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Float32(make([]float32, v.Elements())); err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	first, last := int(v.begin)/page, int(v.end-1)/page
	for i, in := range incore(t, f) {
		if want := i >= first && i <= last; in != want {
			t.Fatalf("page %d in memory: %v, want only pages %d..%d", i, in, first, last)
		}
	}
	own := (last - first + 1) * page
	if got := residentBytes(t, f); got != own {
		t.Errorf("%d bytes are resident, want %d", got, own)
	}
	if got, want := f.touched.Load(), int64(all.end-all.begin)/int64(all.Shape[0]); got != want {
		t.Errorf("touched %d bytes, want %d", got, want)
	}
	v.Release()
	if got := residentBytes(t, f); got > 2*page {
		t.Errorf("%d bytes are resident after Release, want the two shared pages at most", got)
	}
	if err := v.Float32(make([]float32, v.Elements())); err != nil {
		t.Errorf("read after Release: %v", err)
	}
}

// Opening a file touches nothing of its mapping.
func TestOpenReadsNoWeights(t *testing.T) {
	f := evicted(t)
	if got := residentBytes(t, f); got != 0 {
		t.Errorf("%d bytes are resident after OpenFile, want none", got)
	}
}
