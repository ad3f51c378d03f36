package render

import (
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	core "k8s.io/api/core/v1"
)

// gpuExample are the values of values-gpu.yaml.
func gpuExample(t *testing.T) values {
	t.Helper()
	v, err := chartutil.ReadValuesFile(chartDir + "/values-gpu.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// rolePods are the pods by role.
func rolePods(t *testing.T, v values) map[string]core.PodSpec {
	t.Helper()
	found := map[string]core.PodSpec{}
	for _, p := range pods(newRelease(t).must(t, v)) {
		found[p.Labels["app.kubernetes.io/component"]] = p.Spec
	}
	return found
}

// TestGPU follows the example, and who gets a GPU, its image and its arguments.
func TestGPU(t *testing.T) {
	const cpu, gpu = "localhost/drover:0.1.0-dev", "localhost/drover:0.1.0-dev-cuda"
	other := "h/gpu@sha256:" + strings.Repeat("0", 64)
	for name, tc := range map[string]struct {
		v                  values
		coordinator, nodes string // images
		expertDevice       string
	}{
		"none":               {values{}, cpu, cpu, ""},
		"example":            {gpuExample(t), cpu, gpu, "cuda"},
		"both":               {all(in("nodes.gpus", 1), in("coordinator.gpus", 1)), gpu, gpu, ""},
		"coordinators alone": {in("coordinator.gpus", 1), gpu, cpu, "cpu"},
		"mixed":              {all(in("nodes.gpus", 1), in("coordinator.expertDevice", "any")), cpu, gpu, "any"},
		"an image of its own": {all(in("nodes.gpus", 1), in("image.cuda", values{"repository": "h/gpu",
			"digest": strings.TrimPrefix(other, "h/gpu@")})), cpu, other, "cuda"},
	} {
		t.Run(name, func(t *testing.T) {
			found := rolePods(t, tc.v)
			for role, image := range map[string]string{"coordinator": tc.coordinator,
				"expertnode": tc.nodes, "etcd": cpu} {
				c := found[role].Containers[0]
				_, has := c.Resources.Limits["nvidia.com/gpu"]
				device := slices.Contains(c.Args, "--device=cuda:0")
				if c.Image != image || has != (image != cpu) || device != (image != cpu) {
					t.Errorf("%s: image %s, GPU %v, --device %v; want image %s", role, c.Image, has, device,
						image)
				}
			}
			asked := ""
			for _, a := range found["coordinator"].Containers[0].Args {
				if device, ok := strings.CutPrefix(a, "--expert-device="); ok {
					asked = device
				}
			}
			if asked != tc.expertDevice {
				t.Errorf("--expert-device=%s, want %q", asked, tc.expertDevice)
			}
		})
	}
	node := rolePods(t, gpuExample(t))["expertnode"]
	if node.RuntimeClassName == nil || *node.RuntimeClassName != "nvidia" ||
		node.NodeSelector["nvidia.com/gpu.present"] != "true" || len(node.Tolerations) != 1 {
		t.Errorf("the example's nodes: runtime class %v, machines %v, tolerations %v",
			node.RuntimeClassName, node.NodeSelector, node.Tolerations)
	}
	for of, p := range pods(newRelease(t).must(t, gpuExample(t))) {
		checkPod(t, of, p)
	}
}
