package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// place writes a program and a model's folder, whose contents are text, with modes and times.
func place(t *testing.T, text string, mode os.FileMode, at time.Time) *spec {
	t.Helper()
	dir := t.TempDir()
	bin, model := filepath.Join(dir, "prog"), filepath.Join(dir, "m", "images")
	if err := os.MkdirAll(model, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{bin, filepath.Join(dir, "m", "config.json"),
		filepath.Join(model, "1.png")} {
		if err := os.WriteFile(f, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(f, at, at); err != nil {
			t.Fatal(err)
		}
	}
	s := &spec{name: "localhost/lab/x:1", license: "MIT", arguments: []string{"now"}}
	if err := s.addProgram("linux/arm64=" + bin); err != nil {
		t.Fatal(err)
	}
	if err := s.addFolder(filepath.Dir(model) + ":/models/m"); err != nil {
		t.Fatal(err)
	}
	return s
}

func build(t *testing.T, s *spec) ([]byte, string) {
	t.Helper()
	b, err := s.build()
	if err != nil {
		t.Fatal(err)
	}
	return b.archive, b.digest
}

// TestSameDigest checks that the image depends on contents only: not on the folder, the modes
// or the times of files.
func TestSameDigest(t *testing.T) {
	one, first := build(t, place(t, "a", 0o600, time.Unix(1, 0)))
	two, second := build(t, place(t, "a", 0o755, time.Unix(1e9, 0)))
	if first != second || !bytes.Equal(one, two) {
		t.Errorf("the same files gave %s and %s", first, second)
	}
	if _, other := build(t, place(t, "b", 0o600, time.Unix(1, 0))); other == first {
		t.Errorf("other files gave %s, too", other)
	}
}

// TestImage follows an image from its index to the files in its layers.
func TestImage(t *testing.T) {
	image, digest := build(t, place(t, "text", 0o600, time.Unix(1, 0)))
	files := untar(t, bytes.NewReader(image))
	var top manifests
	decode(t, files["index.json"], &top)
	if len(top.Manifests) != 1 {
		t.Fatalf("the index has %d manifests", len(top.Manifests))
	}
	d := top.Manifests[0]
	if d.Digest != digest || d.Annotations["io.containerd.image.name"] != "localhost/lab/x:1" ||
		*d.Platform != (platform{"arm64", "linux"}) {
		t.Errorf("the index has %+v; the image is %s", d, digest)
	}
	tree, config := follow(t, files, d)
	if e := config.Config.Entrypoint; !slices.Equal(e, []string{"/prog", "now"}) {
		t.Errorf("the image runs %q", e)
	}
	if config.Config.User != nobody || config.Architecture != "arm64" ||
		config.Config.Labels["org.opencontainers.image.licenses"] != "MIT" {
		t.Errorf("the image's configuration is %+v", config)
	}
	for _, name := range []string{"prog", "models/m/config.json", "models/m/images/1.png"} {
		if got := tree[name]; string(got) != "text" {
			t.Errorf("%s holds %q", name, got)
		}
	}
	for _, name := range []string{"models/", "models/m/", "models/m/images/", "etc/"} {
		if _, ok := tree[name]; !ok {
			t.Errorf("there is no folder %s", name)
		}
	}
}

// TestPlatforms reads back an image of two platforms: the index leads to one program each, and
// what they share is there once.
func TestPlatforms(t *testing.T) {
	var first []byte
	for range 2 {
		s := place(t, "arm", 0o600, time.Unix(1, 0))
		amd := filepath.Join(t.TempDir(), "prog")
		if err := os.WriteFile(amd, []byte("amd"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.addProgram("linux/amd64=" + amd); err != nil {
			t.Fatal(err)
		}
		image, digest := build(t, s)
		if first == nil {
			first = image
		}
		if !bytes.Equal(image, first) {
			t.Error("the same files gave two images")
		}
		files := untar(t, bytes.NewReader(image))
		var top, inner manifests
		decode(t, files["index.json"], &top)
		if len(top.Manifests) != 1 || top.Manifests[0].Digest != digest ||
			top.Manifests[0].MediaType != "application/vnd.oci.image.index.v1+json" {
			t.Fatalf("the image %s is %+v", digest, top)
		}
		decode(t, content(t, files, top.Manifests[0]), &inner)
		if len(inner.Manifests) != 2 {
			t.Fatalf("the index has %d platforms", len(inner.Manifests))
		}
		for i, want := range []string{"arm", "amd"} {
			d := inner.Manifests[i]
			tree, config := follow(t, files, d)
			if string(tree["prog"]) != want || config.Architecture != want+"64" ||
				*d.Platform != (platform{want + "64", "linux"}) {
				t.Errorf("platform %d, %s, runs %q on %s", i, d.Platform, tree["prog"],
					config.Architecture)
			}
		}
		// Two files at the top, none for Docker; the index, the shared layer; a manifest, a
		// configuration and a layer for each.
		if len(files) != 2+2+2*3 {
			t.Errorf("the archive has %d files", len(files))
		}
	}
}

func TestTwice(t *testing.T) {
	s := place(t, "text", 0o600, time.Unix(1, 0))
	s.folders = append(s.folders, s.folders[0])
	if _, err := s.build(); err == nil || !strings.Contains(err.Error(), "/models/m/config.json") {
		t.Errorf("a folder put twice at one place gives %v", err)
	}
}

func TestAuthorities(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	good := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[1:]})
	s := place(t, "text", 0o600, time.Unix(1, 0))
	s.authorities = filepath.Join(t.TempDir(), "ca.pem")
	for _, bad := range [][]byte{nil, []byte("text"), secret, broken,
		slices.Concat(good, secret), slices.Concat(good, broken)} {
		if err := os.WriteFile(s.authorities, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.build(); err == nil || !strings.Contains(err.Error(), s.authorities) {
			t.Errorf("%q gives %v", bad, err)
		}
	}
	if err := os.WriteFile(s.authorities, good, 0o600); err != nil {
		t.Fatal(err)
	}
	image, _ := build(t, s)
	files := untar(t, bytes.NewReader(image))
	var top manifests
	decode(t, files["index.json"], &top)
	tree, _ := follow(t, files, top.Manifests[0])
	if !bytes.Equal(tree["etc/ssl/certs/ca-certificates.crt"], good) {
		t.Error("the image lacks the certificates")
	}
}

// TestState looks at the folders in which the program may write: they are its own, and those
// around them are not.
func TestState(t *testing.T) {
	s := place(t, "text", 0o600, time.Unix(1, 0))
	s.state = []string{"/cache", "/tls/etcd"}
	image, _ := build(t, s)
	files := untar(t, bytes.NewReader(image))
	var docker []dockerImage
	decode(t, files["manifest.json"], &docker)
	z, err := gzip.NewReader(bytes.NewReader(files[docker[0].Layers[0]]))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[h.Name] = h.Uid; h.Uid != h.Gid || (h.Mode == private) != (h.Uid == user) {
			t.Errorf("%s is of %d:%d with mode %o", h.Name, h.Uid, h.Gid, h.Mode)
		}
	}
	for name, want := range map[string]int{"cache/": user, "tls/": 0, "tls/etcd/": user,
		"models/": 0} {
		if got, ok := found[name]; !ok || got != want {
			t.Errorf("%s is of %d (there: %v), want %d", name, got, ok, want)
		}
	}
}

// TestDocker reads the image as Docker before version 25 does.
func TestDocker(t *testing.T) {
	image, _ := build(t, place(t, "text", 0o600, time.Unix(1, 0)))
	files := untar(t, bytes.NewReader(image))
	var docker []dockerImage
	decode(t, files["manifest.json"], &docker)
	if len(docker) != 1 || !slices.Equal(docker[0].RepoTags, []string{"localhost/lab/x:1"}) {
		t.Fatalf("Docker reads %+v", docker)
	}
	var config configuration
	decode(t, files[docker[0].Config], &config)
	if len(docker[0].Layers) != len(config.RootFS.DiffIDs) {
		t.Errorf("there are the layers %v", docker[0].Layers)
	}
	for i, name := range docker[0].Layers {
		z, err := gzip.NewReader(bytes.NewReader(files[name]))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(z)
		if err != nil || digest(raw) != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %s is not %s, %v", name, config.RootFS.DiffIDs[i], err)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, arg := range []string{"", "x", "linux=x", "linux/=x", "/arm64=x", "linux/arm64=",
		"linux/arm/v7=x"} {
		if err := new(spec).addProgram(arg); err == nil {
			t.Errorf("program %q was taken", arg)
		}
	}
	twice := &spec{}
	for i, arg := range []string{"linux/arm64=a/x", "linux/arm64=b/x", "linux/amd64=b/y"} {
		if err := twice.addProgram(arg); (err == nil) != (i == 0) {
			t.Errorf("program %q gives %v", arg, err)
		}
	}
	for _, arg := range []string{"", "x", "x:", "x:y", ":/y"} {
		if err := new(spec).addFolder(arg); err == nil {
			t.Errorf("folder %q was taken", arg)
		}
	}
	for _, arg := range []string{"", "/", "x", "/x/", "/x/../y"} {
		if err := new(spec).addState(arg); err == nil {
			t.Errorf("folder of state %q was taken", arg)
		}
	}
	for name, want := range map[string]string{"h:1/x": "", "h/x": "", "h:1/x:2": "2", "h/x:": ""} {
		if got := (&spec{name: name}).tag(); got != want {
			t.Errorf("the tag of %s is %q", name, got)
		}
	}
}

type manifests struct{ Manifests []descriptor }

type configuration struct {
	Architecture string
	Config       struct {
		Entrypoint []string
		Env        []string
		User       string
		Labels     map[string]string
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

// follow reads the image of one platform: its files, and how it runs.
func follow(t *testing.T, files map[string][]byte, d descriptor) (map[string][]byte, configuration) {
	t.Helper()
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config configuration
	decode(t, content(t, files, d), &manifest)
	decode(t, content(t, files, manifest.Config), &config)
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d digests", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	tree := map[string][]byte{}
	for i, l := range manifest.Layers {
		z, err := gzip.NewReader(bytes.NewReader(content(t, files, l)))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(raw); got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s, the image says %s", i, got, config.RootFS.DiffIDs[i])
		}
		for name, data := range untar(t, bytes.NewReader(raw)) {
			tree[name] = data
		}
	}
	return tree, config
}

// content is what a descriptor refers to, which must be as it says.
func content(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	b, ok := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if !ok || digest(b) != d.Digest || len(b) != d.Size {
		t.Fatalf("%+v refers to %d bytes, there: %v", d, len(b), ok)
	}
	return b
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
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
