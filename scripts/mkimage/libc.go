package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// libc is Debian's package libc6, for a program that loads libraries at run time, such as the
// driver of a GPU: where its files lie, and its version.
type libc struct{ root, version string }

const (
	// libraries is where the package has its libraries, and where its dynamic linker looks.
	libraries = "lib/x86_64-linux-gnu"
	// loader is where programs name the dynamic linker.
	loader        = "lib64/ld-linux-x86-64.so.2"
	libcCopyright = "usr/share/doc/libc6/copyright"
)

// libcNames are the libraries that Drover and NVIDIA's driver need.
var libcNames = []string{"libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"}

// driverEnv tells a container runtime which parts of NVIDIA's driver to bring into the
// container, and the dynamic linker where those may be: as Debian, Red Hat and Google's machines
// have them.
var driverEnv = []string{"NVIDIA_DRIVER_CAPABILITIES=compute,utility",
	"LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu:/usr/lib64:/usr/local/nvidia/lib64"}

func (s *spec) setLibc(arg string) error {
	at := strings.LastIndex(arg, "=")
	if at < 1 || at == len(arg)-1 {
		return fmt.Errorf("%q is not FOLDER=VERSION", arg)
	}
	s.libc = libc{arg[:at], arg[at+1:]}
	return nil
}

// files are the package's, as far as they are needed, for a program of a platform.
func (l libc) files(p platform) ([]file, error) {
	if l.root == "" {
		return nil, nil
	}
	if p != (platform{"amd64", "linux"}) {
		return nil, fmt.Errorf("glibc is put into images of linux/amd64 only, not of %s", p)
	}
	from := func(name string) ([]byte, error) {
		data, err := os.ReadFile(filepath.Join(l.root, name))
		if errors.Is(err, fs.ErrNotExist) {
			data, err = os.ReadFile(filepath.Join(l.root, "usr", name))
		}
		return data, err
	}
	linker, err := from(path.Join(libraries, path.Base(loader)))
	if err != nil {
		return nil, fmt.Errorf("glibc: %w", err)
	}
	files := []file{{loader, linker, 0o755}}
	for _, name := range libcNames {
		data, err := from(path.Join(libraries, name))
		if err != nil {
			return nil, fmt.Errorf("glibc: %w", err)
		}
		files = append(files, file{path.Join(libraries, name), data, 0o755})
	}
	terms, err := os.ReadFile(filepath.Join(l.root, libcCopyright))
	if err != nil {
		return nil, fmt.Errorf("glibc: %w", err)
	}
	return append(files, file{libcCopyright, terms, 0o644}), nil
}

// component is the package in the list of parts.
func (l libc) component(files []file) component {
	var lines strings.Builder
	for _, f := range files {
		fmt.Fprintf(&lines, "%x  %s\n", sha256.Sum256(f.data), f.name)
	}
	locator := fmt.Sprintf("pkg:deb/debian/libc6@%s?arch=amd64", url.QueryEscape(l.version))
	return component{Name: "libc6", Version: l.version, Purpose: "LIBRARY",
		Checksums: sha256Of([]byte(lines.String())),
		Refs:      []reference{{"PACKAGE-MANAGER", "purl", locator}},
		Comment: "The checksum is of the lines that sha256sum prints of its files here: " +
			strings.Join(names(files), " ") + ". Its licences are at /" + libcCopyright + "."}
}

func names(files []file) []string {
	var all []string
	for _, f := range files {
		all = append(all, f.name)
	}
	return all
}
