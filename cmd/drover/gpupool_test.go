//go:build cuda && linux

package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drover/internal/bench"
	"drover/internal/show"
	"drover/kernel/cuda/standin"
)

// withStandin is the environment of processes that find the stand-in for NVIDIA's driver.
func withStandin(t *testing.T) []string {
	t.Helper()
	if _, err := exec.LookPath("g++"); err != nil {
		t.Skip("the stand-in for NVIDIA's driver needs a C++ compiler, and there is no g++")
	}
	dir := t.TempDir()
	if err := standin.Build(dir); err != nil {
		t.Fatal(err)
	}
	return []string{"LD_LIBRARY_PATH=" + dir}
}

// TestGPUPool runs a pool of a CPU and of a GPU with little memory. A coordinator that was not
// told to mix kernel classes leaves the GPU out, and says so. One that mixes gives it what its
// memory has room for, then less, since it computes slowly; answers stay the same, and the
// placement tells that this is not promised.
func TestGPUPool(t *testing.T) {
	env := withStandin(t)
	r := &roles{etcd: startEtcd(t), model: demoModel(t)}
	// Beside what computing takes there is room for about 80 of 512 experts.
	const memory = 256<<20 + 80*48<<10
	r.expertNode(t, place{env: append(env, fmt.Sprint("STANDIN_MEMORY=", memory))}, "gpu", "--device",
		"cuda:0")
	r.expertNode(t, place{}, "cpu", "--device", "cpu")
	_, want, _ := drover(t, "run", "--model", r.model, "--mode", "exact", story)
	want = strings.TrimSuffix(want, "\n")

	p, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--device", "cpu", "--min-nodes",
		"1")
	c := connectTo(t, endpoint)
	eventually(t, 30*slack*time.Second, "the GPU is known, and not used", func() (bool, string) {
		gpu := c.nodes(t)["gpu"]
		return gpu.GetState() == "unusable" && gpu.GetReplicaCount() == 0, fmt.Sprint(gpu)
	})
	var placed show.PlacementMap
	c.command(t, &placed, "placement")
	if !placed.SameBytes || len(placed.Nodes["cpu4-exact"]) != 1 || len(placed.Nodes) != 1 {
		t.Errorf("without mixing: %+v", placed.Classes)
	}
	if !strings.Contains(p.errors.String(), "cuda4-exact") {
		t.Errorf("the coordinator does not say why the GPU is not used")
	}
	if got := c.mustAsk(t, story); got != want {
		t.Errorf("without mixing: %q, want %q", got, want)
	}
	p.stop()

	_, endpoint = r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--device", "cpu",
		"--expert-device", "any")
	c = connectTo(t, endpoint)
	most := uint32(0)
	eventually(t, 60*slack*time.Second, "the GPU holds what it has room for", func() (bool, string) {
		gpu := c.nodes(t)["gpu"]
		most = gpu.GetReplicaCount()
		return gpu.GetState() == "ready" && most > 0, fmt.Sprint(gpu)
	})
	if gpu := c.nodes(t)["gpu"]; gpu.Bytes > gpu.CapacityBytes || gpu.CapacityBytes > 80*48<<10 {
		t.Errorf("the GPU holds %d bytes, has room for %d", gpu.Bytes, gpu.CapacityBytes)
	}
	if got := c.mustAsk(t, story); got != want {
		t.Errorf("mixed: %q, want %q", got, want)
	}
	c.command(t, &placed, "placement")
	if placed.SameBytes || len(placed.Nodes) != 2 {
		t.Errorf("mixed: %+v", placed.Classes)
	}
	t.Logf("the GPU holds %d experts", most)
	checkSlowGPU(t, c, most)
}

// checkSlowGPU has the cluster work until coordinators have measured that the GPU, which is none, is slow, and
// wants it to get fewer experts than it has room for.
func checkSlowGPU(t *testing.T, c *client, most uint32) {
	t.Helper()
	asked := 0
	eventually(t, 300*slack*time.Second, "the GPU gets fewer experts", func() (bool, string) {
		// Its random tokens visit all experts.
		var rep bench.Report
		c.command(t, &rep, "bench", "model", "--quick", "--prompts", "64", "--batches", "4",
			"--prompt-tokens", "16")
		asked++
		nodes := c.nodes(t)
		gpu, cpu := nodes["gpu"], nodes["cpu"]
		slow := gpu.GetSpeed() > 0 && gpu.GetSpeed() < cpu.GetSpeed()
		if slow {
			var answer struct{ Planner string }
			c.command(t, &answer, "rebalance")
		}
		return slow && gpu.GetReplicaCount() < most && gpu.GetRowsDispatched() > 0,
			fmt.Sprintf("speeds %.2f and %.2f, %d experts of %d, %d rows, %d measurements", gpu.GetSpeed(),
				cpu.GetSpeed(), gpu.GetReplicaCount(), most, gpu.GetRowsDispatched(), asked)
	})
	nodes := c.nodes(t)
	t.Logf("speeds %.2f and %.2f: then %d experts, after %d measurements", nodes["gpu"].GetSpeed(),
		nodes["cpu"].GetSpeed(), nodes["gpu"].GetReplicaCount(), asked)
}
