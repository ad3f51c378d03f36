//go:build cuda

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drover/kernel/cuda/standin"
)

// TestImageFindsGPU builds the image for GPUs and runs its program with nothing but the image's
// files: without a driver it says so; with the stand-in, where container runtimes put NVIDIA's, it
// lists two GPUs and computes on one.
func TestImageFindsGPU(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run a program with another root folder")
	}
	for _, need := range []string{"g++", "dpkg-query"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skip("the image for GPUs on the stand-in needs " + need)
		}
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image.tar")
	if out, err := exec.Command("../image", "--cuda", image).CombinedOutput(); err != nil {
		t.Fatalf("scripts/image --cuda: %v\n%s", err, out)
	}
	root := filepath.Join(dir, "root")
	unpackImage(t, image, root)
	run := func(args ...string) (string, error) {
		c := exec.Command("/drover", args...)
		c.Dir, c.Env = "/", append(driverEnv, "TMPDIR=/state")
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root,
			Credential: &syscall.Credential{Uid: user, Gid: user}}
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := run("devices"); err == nil || !strings.Contains(out, "load NVIDIA's driver: "+
		"libcuda.so.1") {
		t.Errorf("without a driver: %v, %s", err, out)
	}
	driver := filepath.Join(root, "usr", libraries)
	if err := os.MkdirAll(driver, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := standin.Build(driver); err != nil {
		t.Fatal(err)
	}
	for _, library := range []string{"libstdc++.so.6", "libgcc_s.so.1"} { // the stand-in's own needs
		path, err := exec.Command("g++", "-print-file-name="+library).Output()
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(strings.TrimSpace(string(path)))
		if err == nil {
			err = os.WriteFile(filepath.Join(driver, library), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, err := run("devices"); err != nil || !strings.Contains(out, "Stand-in B") {
		t.Errorf("with the stand-in: %v, %s", err, out)
	}
	cpu, err := run("run", "--model", "/models/tiny-maverick", "--cache", "off", "--max-tokens", "2", "a")
	if err != nil || cpu == "" {
		t.Errorf("an answer: %v, %s", err, cpu)
	}
	if out, err := run("bench", "kernels", "--device", "cuda:1", "--small"); err != nil ||
		!strings.Contains(out, "Stand-in B as cuda, sm_90") {
		t.Errorf("on a GPU: %v, %s", err, out)
	}
}

// unpackImage makes a folder of an image's files, as a container's root.
func unpackImage(t *testing.T, image, root string) {
	t.Helper()
	packed, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, bytes.NewReader(packed))
	var top manifests
	decode(t, files["index.json"], &top)
	tree, _ := follow(t, files, top.Manifests[0])
	for name, data := range tree {
		place := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(place, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(place), 0o755); err == nil {
			err = os.WriteFile(place, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "state"), user, user); err != nil {
		t.Fatal(err)
	}
}
