package testcluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// HeadersOnly copies the checkpoint in a directory, but of its shards the headers only: holes
// stand for the weights, which read as zeros. It is the least that an expert node needs which
// gets its experts from others.
func HeadersOnly(t testing.TB, model string) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(model)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(model, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(b))
		if strings.HasPrefix(e.Name(), "model-") {
			b = b[:8+int(b[0])+int(b[1])<<8+int(b[2])<<16]
		}
		path := filepath.Join(dir, e.Name())
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
