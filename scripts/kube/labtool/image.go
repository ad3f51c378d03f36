package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
)

// image writes an OCI image of one layer that holds the program of one of the cluster's own
// pods, as "ctr images import" reads it. Equal files give equal bytes.
func image(fs *flag.FlagSet, args []string) error {
	out := fs.String("o", "", "file to write")
	name := fs.String("name", "", "name of the image, HOST/PATH:TAG")
	_ = fs.Parse(args) // it exits on an error
	if *out == "" || !strings.Contains(*name, "/") || fs.NArg() < 1 {
		return errors.New("usage: labtool image -o FILE -name HOST/PATH:TAG PROGRAM [ARGUMENT…]")
	}
	program, err := os.ReadFile(fs.Arg(0))
	if err != nil {
		return err
	}
	inside := path.Base(fs.Arg(0))
	layer, err := archive([]file{{inside, program, 0o755}})
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed) // the level is a valid one
	if _, err := w.Write(layer); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	all, err := layout(*name, append([]string{"/" + inside}, fs.Args()[1:]...), layer, packed.Bytes())
	if err != nil {
		return err
	}
	return os.WriteFile(*out, all, 0o600)
}

// layout is an OCI image layout of one image with one layer.
func layout(name string, command []string, layer, packed []byte) ([]byte, error) {
	const oci = "application/vnd.oci.image."
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": command},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json",
		"config": blob(oci+"config.v1+json", config),
		"layers": []any{blob(oci+"layer.v1.tar+gzip", packed)},
	})
	if err != nil {
		return nil, err
	}
	entry := blob(oci+"manifest.v1+json", manifest)
	entry["annotations"] = map[string]string{"io.containerd.image.name": name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2,
		"mediaType": oci + "index.v1+json", "manifests": []any{entry}})
	if err != nil {
		return nil, err
	}
	files := []file{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		{"index.json", index, 0o644},
	}
	for _, b := range [][]byte{config, manifest, packed} {
		files = append(files, file{"blobs/sha256/" + sum(b), b, 0o644})
	}
	return archive(files)
}

type file struct {
	name string
	data []byte
	mode int64
}

func archive(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)),
			ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

func blob(kind string, b []byte) map[string]any {
	return map[string]any{"mediaType": kind, "digest": "sha256:" + sum(b), "size": len(b)}
}
