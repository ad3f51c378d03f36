package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const oci = "application/vnd.oci.image."

// bundlePlace is where Go looks for certificates of authorities first.
const bundlePlace = "etc/ssl/certs/ca-certificates.crt"

// The user that the program runs as, unless a pod says otherwise.
const (
	user   = 65532
	nobody = "65532:65532"
	passwd = "drover:x:65532:65532:drover:/:/nonexistent\n"
	group  = "drover:x:65532:\n"
)

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

func (p platform) String() string { return p.OS + "/" + p.Architecture }

// descriptor is how an image refers to a part of it.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layer is a part of the file system: its tar's digest, and the tar packed.
type layer struct {
	digest string
	packed []byte
}

// built is an image: the whole archive, the digest that a registry would know it by, and a
// list of parts for each platform.
type built struct {
	archive []byte
	digest  string
	sboms   []file
}

// build makes the image. What programs share is the first layer, so that another version of
// the program need not bring it again.
func (s *spec) build() (built, error) {
	shared, err := s.shared()
	if err != nil {
		return built{}, err
	}
	base, err := pack(shared)
	if err != nil {
		return built{}, err
	}
	var l layout
	var all []descriptor
	var sboms []file
	var docker dockerImage
	for _, p := range s.programs {
		own, err := s.own(p, shared)
		if err != nil {
			return built{}, err
		}
		if s.listed {
			name := p.platform.OS + "-" + p.platform.Architecture + ".spdx.json"
			sboms = append(sboms, file{name, own[1].data, 0o644})
		}
		d, parts, err := s.manifest(&l, p.platform, base, own)
		if err != nil {
			return built{}, err
		}
		docker = dockerImage{Config: parts[0].blob(), RepoTags: []string{s.name},
			Layers: []string{parts[1].blob(), parts[2].blob()}}
		all = append(all, d)
	}
	d := all[0]
	if len(all) > 1 {
		d = l.add(oci+"index.v1+json", encode(index(all...)))
	}
	d.Annotations = map[string]string{"io.containerd.image.name": s.name,
		"org.opencontainers.image.ref.name": s.tag()}
	archive, err := l.archive(d, docker, len(all) == 1)
	return built{archive, d.Digest, sboms}, err
}

// dockerImage is an image in manifest.json, which Docker before version 25 wants.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// shared are the files that no platform has its own of.
func (s *spec) shared() ([]file, error) {
	files := []file{{"etc/group", []byte(group), 0o644}, {"etc/passwd", []byte(passwd), 0o644}}
	for _, f := range s.folders {
		more, err := f.files()
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	for _, place := range s.state {
		files = append(files, file{strings.TrimPrefix(place, "/") + "/", nil, private})
	}
	if s.authorities == "" {
		return files, nil
	}
	bundle, err := os.ReadFile(s.authorities)
	if err == nil {
		err = checkBundle(bundle)
	}
	if err != nil {
		return nil, fmt.Errorf("certificates of authorities %s: %w", s.authorities, err)
	}
	return append(files, file{bundlePlace, bundle, 0o644}), nil
}

// checkBundle wants certificates and nothing else, such as a private key.
func checkBundle(bundle []byte) error {
	count := 0
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("block %d is a %s", count, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("block %d: %w", count, err)
		}
		count++
	}
	if count == 0 {
		return errors.New("there is none in PEM")
	}
	return nil
}

// own are the files of one platform: the program, then the list of parts if one is wanted,
// then the libraries that it needs.
func (s *spec) own(p program, shared []file) ([]file, error) {
	content, err := os.ReadFile(p.file)
	if err != nil {
		return nil, err
	}
	files := []file{{s.inside(), content, 0o755}}
	libc, err := s.libc.files(p.platform)
	if err != nil {
		return nil, err
	}
	if s.listed {
		list, err := s.sbom(p, content, shared)
		if err != nil {
			return nil, err
		}
		files = append(files, file{sbomPlace, list, 0o644})
	}
	return append(files, libc...), nil
}

// manifest adds the image of one platform to a layout. Its parts are the configuration and the
// two layers.
func (s *spec) manifest(l *layout, p platform, base layer, files []file) (d descriptor,
	parts []descriptor, err error) {
	own, err := pack(files)
	if err != nil {
		return d, nil, err
	}
	labels := map[string]string{"org.opencontainers.image.title": s.inside(),
		"org.opencontainers.image.version": s.tag()}
	if s.license != "" {
		labels["org.opencontainers.image.licenses"] = s.license
	}
	run := map[string]any{"Entrypoint": append([]string{"/" + s.inside()}, s.arguments...),
		"User": nobody, "WorkingDir": "/", "Labels": labels}
	if s.libc != (libc{}) {
		run["Env"] = driverEnv
	}
	config := l.add(oci+"config.v1+json", encode(map[string]any{
		"architecture": p.Architecture, "os": p.OS, "config": run,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{base.digest, own.digest}}}))
	layers := []descriptor{l.add(oci+"layer.v1.tar+gzip", base.packed),
		l.add(oci+"layer.v1.tar+gzip", own.packed)}
	d = l.add(oci+"manifest.v1+json", encode(map[string]any{"schemaVersion": 2,
		"mediaType": oci + "manifest.v1+json", "config": config, "layers": layers}))
	d.Platform = &p
	return d, append([]descriptor{config}, layers...), nil
}

// layout is the parts of an image layout, each there once.
type layout struct{ blobs []file }

func (l *layout) add(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	if !slices.ContainsFunc(l.blobs, func(f file) bool { return f.name == d.blob() }) {
		l.blobs = append(l.blobs, file{d.blob(), content, 0o644})
	}
	return d
}

// blob is where a part lies in a layout.
func (d descriptor) blob() string {
	return "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:")
}

// archive is the layout as a tar whose one image is d. What Docker wants has no word for several
// platforms, so it is there only for an image of one.
func (l *layout) archive(d descriptor, docker dockerImage, one bool) ([]byte, error) {
	files := []file{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		{"index.json", encode(index(d)), 0o644}}
	if one {
		files = append(files, file{"manifest.json", encode([]dockerImage{docker}), 0o644})
	}
	return pile(append(files, l.blobs...))
}

func index(ds ...descriptor) map[string]any {
	return map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": ds}
}

// private is the mode of the folders in which the program may write, and which nobody else may
// enter. They are its user's; everything else is root's.
const private = 0o700

// file is one of a tar; a folder's name ends with a slash.
type file struct {
	name string
	data []byte
	mode int64
}

// files are all files of a folder and of those in it.
func (f folder) files() (files []file, err error) {
	err = fs.WalkDir(os.DirFS(f.from), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(f.from, name))
		files = append(files, file{strings.TrimPrefix(path.Join(f.to, name), "/"), data, 0o644})
		return err
	})
	return files, err
}

// pack makes a layer of files, with the folders that they lie in.
func pack(files []file) (layer, error) {
	folders := map[string]bool{}
	for _, f := range files {
		for dir := path.Dir(strings.TrimSuffix(f.name, "/")); dir != "."; dir = path.Dir(dir) {
			folders[dir+"/"] = true
		}
	}
	all := slices.Clone(files)
	for dir := range folders {
		all = append(all, file{dir, nil, 0o755})
	}
	slices.SortFunc(all, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for i := range all[1:] {
		if all[i].name == all[i+1].name {
			return layer{}, fmt.Errorf("two files are to lie at /%s", all[i].name)
		}
	}
	raw, err := pile(all)
	if err != nil {
		return layer{}, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(raw) // a buffer takes everything
	err = z.Close()
	return layer{digest(raw), packed.Bytes()}, err
}

// pile is a tar. Owners, times and modes are fixed, so that nothing depends on the machine, and
// the program can change nothing but what is in private folders.
func pile(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)),
			Format: tar.FormatUSTAR}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
			if f.mode == private {
				h.Uid, h.Gid = user, user
			}
		}
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

// encode is the JSON of what cannot fail to have one.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
