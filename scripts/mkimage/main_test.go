package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSameDigest checks that the image depends on contents only: not on the folder, the
// modes or the times of files.
func TestSameDigest(t *testing.T) {
	build := func(content string, mode os.FileMode, at time.Time) (string, []byte) {
		dir := t.TempDir()
		model, out := filepath.Join(dir, "m"), filepath.Join(dir, "out.tar")
		if err := os.Mkdir(model, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{filepath.Join(dir, "bin"), filepath.Join(model, "config.json")} {
			if err := os.WriteFile(f, []byte(content), mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(f, at, at); err != nil {
				t.Fatal(err)
			}
		}
		d, err := write(out, "localhost/x:1", "arm64", filepath.Join(dir, "bin"), model)
		if err != nil {
			t.Fatal(err)
		}
		image, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return d, image
	}
	first, one := build("a", 0o600, time.Unix(1, 0))
	second, two := build("a", 0o755, time.Unix(1e9, 0))
	if first != second || !bytes.Equal(one, two) {
		t.Errorf("the same files gave %s and %s", first, second)
	}
	if other, _ := build("b", 0o600, time.Unix(1, 0)); other == first {
		t.Errorf("other files gave %s, too", other)
	}
}
