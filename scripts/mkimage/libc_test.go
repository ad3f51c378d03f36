package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// libcRoot is an unpacked package, whose library lies in usr/lib or lib.
func libcRoot(t *testing.T, under string) string {
	t.Helper()
	root := t.TempDir()
	write := func(name string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("of "+filepath.Base(name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append([]string{filepath.Base(loader)}, libcNames...) {
		write(filepath.Join(under, libraries, name))
	}
	write(libcCopyright)
	return root
}

// TestLibc puts glibc into an image: where programs and the dynamic linker look for it.
func TestLibc(t *testing.T) {
	var digests []string
	for _, under := range []string{"", "usr"} {
		s := place(t, "text", 0o600, time.Unix(1, 0))
		s.programs[0].platform = platform{"amd64", "linux"}
		if err := s.setLibc(libcRoot(t, under) + "=2.36-9+deb12u14"); err != nil {
			t.Fatal(err)
		}
		image, digest := build(t, s)
		digests = append(digests, digest)
		files := untar(t, strings.NewReader(string(image)))
		var top manifests
		decode(t, files["index.json"], &top)
		tree, config := follow(t, files, top.Manifests[0])
		for name, want := range map[string]string{
			"lib64/ld-linux-x86-64.so.2":           "of ld-linux-x86-64.so.2",
			"lib/x86_64-linux-gnu/libc.so.6":       "of libc.so.6",
			"lib/x86_64-linux-gnu/libdl.so.2":      "of libdl.so.2",
			"usr/share/doc/libc6/copyright":        "of copyright",
			"lib/x86_64-linux-gnu/libm.so.6":       "of libm.so.6",
			"lib/x86_64-linux-gnu/librt.so.1":      "of librt.so.1",
			"lib/x86_64-linux-gnu/libpthread.so.0": "of libpthread.so.0",
		} {
			if got := string(tree[name]); got != want {
				t.Errorf("%s holds %q, want %q", name, got, want)
			}
		}
		if !slices.Equal(config.Config.Env, driverEnv) {
			t.Errorf("its environment is %q", config.Config.Env)
		}
		l, err := s.libc.files(s.programs[0].platform)
		if err != nil {
			t.Fatal(err)
		}
		if c := s.libc.component(l); c.Version != "2.36-9+deb12u14" || c.Refs[0].Locator !=
			"pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64" || len(c.Checksums[0].Value) != 64 {
			t.Errorf("the list of parts has %+v", c)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("the same libraries gave %s and %s", digests[0], digests[1])
	}
}

// TestLibcRefused names what is missing, or cannot be.
func TestLibcRefused(t *testing.T) {
	s := place(t, "text", 0o600, time.Unix(1, 0)) // of linux/arm64
	for _, arg := range []string{"", "/", "=1", "/="} {
		if err := s.setLibc(arg); err == nil {
			t.Errorf("%q was taken", arg)
		}
	}
	s.libc = libc{libcRoot(t, ""), "1"}
	if _, err := s.build(); err == nil || !strings.Contains(err.Error(), "linux/amd64 only") {
		t.Errorf("for arm64: %v", err)
	}
	s.programs[0].platform = platform{"amd64", "linux"}
	if err := os.Remove(filepath.Join(s.libc.root, libraries, "libm.so.6")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.build(); err == nil || !strings.Contains(err.Error(), "libm.so.6") {
		t.Errorf("without libm: %v", err)
	}
}
