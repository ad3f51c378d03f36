package role

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/kernel"
)

// TestUnusableCache opens a model with a cache whose folder cannot be made.
func TestUnusableCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	w := Weights{Cache: filepath.Join(file, "packed"), Log: slog.New(slog.NewTextHandler(&log, nil))}
	m, err := OpenModel(filepath.Join("..", "..", "models", "tiny-maverick"),
		w.Options(kernel.Int8, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Source.Load(m.Spec.MoE.Layers[0], 0); err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, file) {
		t.Errorf("log %q, want one line that names the folder", text)
	}
}
