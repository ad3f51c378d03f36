package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestImage follows an image from its index to the program in its layer.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	program, out := filepath.Join(dir, "program"), filepath.Join(dir, "image.tar")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	var first []byte
	for range 2 {
		err := image(flag.NewFlagSet("image", flag.ContinueOnError),
			[]string{"-o", out, "-name", "localhost/lab/program:1", program, "now"})
		if err != nil {
			t.Fatal(err)
		}
		all, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(all, first) {
			t.Error("the same program gave two images")
		}
		first = all
	}
	files := untar(t, bytes.NewReader(first))
	type ref struct{ Digest string }
	var index struct {
		Manifests []struct {
			ref
			Annotations map[string]string
		}
	}
	decode(t, files["index.json"], &index)
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got !=
		"localhost/lab/program:1" {
		t.Errorf("the image's name is %q", got)
	}
	content := func(r ref) []byte { return files["blobs/sha256/"+r.Digest[len("sha256:"):]] }
	var manifest struct {
		Config ref
		Layers []ref
	}
	decode(t, content(index.Manifests[0].ref), &manifest)
	var config struct {
		Config struct{ Entrypoint []string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, content(manifest.Config), &config)
	if e := config.Config.Entrypoint; len(e) != 2 || e[0] != "/program" || e[1] != "now" {
		t.Errorf("the image runs %q", e)
	}
	z, err := gzip.NewReader(bytes.NewReader(content(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if got := "sha256:" + sum(layer); got != config.RootFS.DiffIDs[0] {
		t.Errorf("the layer is %s, the image says %s", got, config.RootFS.DiffIDs[0])
	}
	if got := untar(t, bytes.NewReader(layer))["program"]; string(got) != "a program" {
		t.Errorf("the layer holds %q", got)
	}
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

func untar(t *testing.T, from io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
