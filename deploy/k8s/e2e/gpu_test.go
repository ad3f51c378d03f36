//go:build kube

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/kernel/cuda/standin"
)

// withGPU is the release whose nodes want GPUs.
const withGPU = "gpu"

// gpuImage is the image for GPUs with the stand-in in the place of NVIDIA's driver.
const gpuImage = "localhost/drover:stand-in"

// TestGPU gives machines GPUs that are none, as a device plugin would: pods wait for them, are
// placed one to a GPU, compute with the stand-in's, and answer as CPUs do.
func TestGPU(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another image")
	}
	for _, need := range []string{"g++", "dpkg-query"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skip("the stand-in for NVIDIA's driver in an image needs " + need)
		}
	}
	must(t, "../../../scripts/kube/lab", "load", makeGPUImage(t))
	t.Cleanup(func() {
		_, _ = try("helm", "uninstall", withGPU, "--wait", "--timeout", patience.String())
		_, _ = try("kubectl", "delete", "pvc", "-l", "app.kubernetes.io/instance="+withGPU, "--wait=false")
	})
	// The lab has neither a runtime class nor room for large requests.
	must(t, "helm", "install", withGPU, chart, "-f", "../drover/values-gpu.yaml", "--set",
		"image.cuda.tag=stand-in,nodes.runtimeClassName=,nodes.replicas=2", "--set",
		"nodes.resources.requests.cpu=100m,nodes.resources.requests.memory=256Mi", "--set",
		"nodes.resources.limits.cpu=2,nodes.resources.limits.memory=1Gi")
	within(t, patience, "pods that wait for machines with GPUs", func() error {
		return said(withGPU, "didn't match Pod's node affinity/selector")
	})
	for _, machine := range []string{"n1", "n2"} {
		giveGPU(t, machine)
	}
	must(t, "kubectl", "rollout", "status", "statefulset/gpu-drover-node", "--timeout="+patience.String())
	must(t, "kubectl", "rollout", "status", "deployment/gpu-drover-coordinator",
		"--timeout="+patience.String())
	where := strings.Fields(must(t, "kubectl", "get", "pods", "-l", ofGPUs, "-o",
		"jsonpath={.items[*].spec.nodeName}"))
	if len(where) != 2 || where[0] == where[1] {
		t.Errorf("two pods are on %v, want one for each machine's GPU", where)
	}
	placed := must(t, "kubectl", "exec", "deployment/gpu-drover-coordinator", "--", "/drover",
		"placement", "--tls", "/tls")
	if !strings.Contains(placed, "kernel class cuda4-bf16: requests give the same bytes") {
		t.Errorf("the placement says %s", placed)
	}
	must(t, "helm", "test", withGPU, "--timeout", patience.String()) // compares the answer
	must(t, "kubectl", "scale", "statefulset/gpu-drover-node", "--replicas=3")
	within(t, patience, "a third pod that says which resource is short", func() error {
		return said(withGPU, "Insufficient nvidia.com/gpu")
	})
}

// ofGPUs chooses the pods that have a GPU.
const ofGPUs = "app.kubernetes.io/instance=" + withGPU + "," + component + "expertnode"

// giveGPU adds a GPU to a machine until the test ends, with the label and the taint of machines
// with GPUs.
func giveGPU(t *testing.T, machine string) {
	t.Helper()
	patch := func(operation, value string) error {
		_, err := try("kubectl", "patch", "node", machine, "--subresource=status", "--type=json", "-p",
			fmt.Sprintf(`[{"op":%q,"path":"/status/capacity/nvidia.com~1gpu"%s}]`, operation, value))
		return err
	}
	if err := patch("add", `,"value":"1"`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := patch("remove", ""); err != nil {
			t.Error(err)
		}
	})
	must(t, "kubectl", "label", "node", machine, "nvidia.com/gpu.present=true")
	t.Cleanup(func() { must(t, "kubectl", "label", "node", machine, "nvidia.com/gpu.present-") })
	if machine == "n1" { // the other one is for pods that need none
		must(t, "kubectl", "taint", "node", machine, "nvidia.com/gpu=present:NoSchedule")
		t.Cleanup(func() {
			must(t, "kubectl", "taint", "node", machine, "nvidia.com/gpu=present:NoSchedule-")
		})
	}
}

// makeGPUImage builds the image as scripts/image --cuda does, with the stand-in where a container
// runtime puts NVIDIA's libraries.
func makeGPUImage(t *testing.T) string {
	t.Helper()
	began, dir := time.Now(), t.TempDir()
	driver, program := filepath.Join(dir, "driver"), filepath.Join(dir, "drover")
	if err := os.Mkdir(driver, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := standin.Build(driver); err != nil {
		t.Fatal(err)
	}
	for _, library := range []string{"libstdc++.so.6", "libgcc_s.so.1"} { // the stand-in's own needs
		data, err := os.ReadFile(must(t, "g++", "-print-file-name="+library))
		if err == nil {
			err = os.WriteFile(filepath.Join(driver, library), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, "env", "CGO_ENABLED=0", "go", "build", "-tags", "cuda", "-trimpath", "-ldflags=-s -w", "-o",
		program, "drover/cmd/drover")
	version := must(t, "dpkg-query", "-W", "-f", "${Version}", "libc6:amd64")
	image := filepath.Join(dir, "image.tar")
	args := []string{"run", "drover/scripts/mkimage", "-out", image, "-name", gpuImage, "-program",
		"linux/amd64=" + program, "-libc", "/=" + version, "-model", "../../../models/tiny-maverick",
		"-add", driver + ":/usr/lib/x86_64-linux-gnu"}
	for _, place := range []string{"/cache", "/state", "/gossip"} {
		args = append(args, "-state", place)
	}
	must(t, "go", args...)
	t.Logf("an image for GPUs was built in %.0f s", time.Since(began).Seconds())
	return image
}
