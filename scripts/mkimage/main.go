// Command mkimage writes a container image of the static binary and a model as an OCI
// layout in a tar, which "ctr images import" and "skopeo copy oci-archive:" read. It needs
// neither Docker nor a registry, and the same files give the same digest (scripts/image).
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

func main() {
	name := flag.String("name", "localhost/drover:dev", "name of the image, with host and tag")
	arch := flag.String("arch", "amd64", "architecture of the binary")
	binary := flag.String("binary", "", "the static binary")
	model := flag.String("model", "", "model directory to put under /models")
	out := flag.String("out", "", "tar to write")
	flag.Parse()
	digest, err := write(*out, *name, *arch, *binary, *model)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
	fmt.Println(*name, digest)
}

// write makes the image and returns the digest of its manifest.
func write(out, name, arch, binary, model string) (string, error) {
	raw, err := layer(binary, model)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(raw) // a buffer takes everything
	if err := z.Close(); err != nil {
		return "", err
	}
	const oci = "application/vnd.oci.image."
	config := encode(map[string]any{"architecture": arch, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/drover"}, "User": "65532:65532",
			"WorkingDir": "/", "Labels": map[string]string{
				"org.opencontainers.image.title":    "drover",
				"org.opencontainers.image.licenses": "Apache-2.0"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(raw)}}})
	manifest := encode(map[string]any{"schemaVersion": 2, "mediaType": oci + "manifest.v1+json",
		"config": blob(oci+"config.v1+json", config),
		"layers": []any{blob(oci+"layer.v1.tar+gzip", packed.Bytes())}})
	ref := blob(oci+"manifest.v1+json", manifest)
	ref["platform"] = map[string]string{"architecture": arch, "os": "linux"}
	ref["annotations"] = map[string]string{"io.containerd.image.name": name,
		"org.opencontainers.image.ref.name": name[strings.LastIndex(name, ":")+1:]}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	put(w, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
	put(w, "index.json", encode(map[string]any{"schemaVersion": 2,
		"mediaType": oci + "index.v1+json", "manifests": []any{ref}}), 0o644)
	for _, b := range [][]byte{config, manifest, packed.Bytes()} {
		put(w, "blobs/sha256/"+strings.TrimPrefix(digest(b), "sha256:"), b, 0o644)
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return digest(manifest), os.WriteFile(out, image.Bytes(), 0o644)
}

// layer is the file system: the binary, the model, and the user's name. Owners are root and
// modes fixed, so that nothing depends on the machine and nothing can be written.
func layer(binary, model string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	put(w, "drover", program, 0o755)
	directory(w, "etc/")
	put(w, "etc/group", []byte("drover:x:65532:\n"), 0o644)
	put(w, "etc/passwd", []byte("drover:x:65532:65532:drover:/:/nonexistent\n"), 0o644)
	directory(w, "models/")
	err = filepath.WalkDir(model, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(filepath.Dir(filepath.Clean(model)), file)
		if err != nil {
			return err
		}
		to := path.Join("models", filepath.ToSlash(rel))
		if d.IsDir() {
			directory(w, to+"/")
			return nil
		}
		content, err := os.ReadFile(file)
		if err == nil {
			put(w, to, content, 0o644)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

// put and directory add to a tar in memory, which reports what went wrong when it is closed.
func put(w *tar.Writer, name string, content []byte, mode int64) {
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode,
		Size: int64(len(content)), Format: tar.FormatUSTAR})
	_, _ = io.Copy(w, bytes.NewReader(content))
}

func directory(w *tar.Writer, name string) {
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755,
		Format: tar.FormatUSTAR})
}

// encode is the JSON of what cannot fail to have one.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func blob(kind string, b []byte) map[string]any {
	return map[string]any{"mediaType": kind, "digest": digest(b), "size": len(b)}
}
