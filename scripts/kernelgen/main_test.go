package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGenerated compares the committed files with what the program writes.
func TestGenerated(t *testing.T) {
	for name, want := range files() {
		got, err := os.ReadFile(filepath.Join("..", "..", "kernel", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("kernel/%s is stale: run go generate ./kernel", name)
		}
	}
}
