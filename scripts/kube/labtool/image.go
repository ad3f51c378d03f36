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
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// nobody is the user that programs run as, unless a pod says otherwise.
const nobody = "65532:65532"

// image writes an OCI image of one layer, as "ctr images import" reads it: a program, which
// runs as nobody of the machine's users, and the files of folders. Equal files give equal bytes.
func image(flags *flag.FlagSet, args []string) error {
	out := flags.String("o", "", "file to write")
	name := flags.String("name", "", "name of the image, HOST/PATH:TAG")
	var folders []string
	flags.Func("add", "FOLDER:PLACE, a folder whose files are put at a place; may be repeated",
		func(s string) error { folders = append(folders, s); return nil })
	_ = flags.Parse(args) // it exits on an error
	if *out == "" || !strings.Contains(*name, "/") || flags.NArg() < 1 {
		return errors.New("usage: labtool image -o FILE -name HOST/PATH:TAG " +
			"[-add FOLDER:PLACE]… PROGRAM [ARGUMENT…]")
	}
	program, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	inside := path.Base(flags.Arg(0))
	files := []file{{inside, program, 0o755}}
	for _, f := range folders {
		from, to, _ := strings.Cut(f, ":")
		more, err := folder(from, strings.TrimPrefix(to, "/"))
		if err != nil {
			return err
		}
		files = append(files, more...)
	}
	layer, err := archive(files)
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
	command := append([]string{"/" + inside}, flags.Args()[1:]...)
	all, err := layout(*name, command, layer, packed.Bytes())
	if err != nil {
		return err
	}
	return os.WriteFile(*out, all, 0o600)
}

// folder is all files of a folder and those in it, for a place in the image.
func folder(from, to string) (files []file, err error) {
	err = fs.WalkDir(os.DirFS(from), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(from, name))
		files = append(files, file{path.Join(to, name), data, 0o644})
		return err
	})
	return files, err
}

// layout is an OCI image layout of one image with one layer.
func layout(name string, command []string, layer, packed []byte) ([]byte, error) {
	const oci = "application/vnd.oci.image."
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": command, "User": nobody},
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
