package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/storm"
)

// TestStorm breaks nodes of a cluster whose experts have two replicas or one, which then stay
// away for a while, or all nodes at once: no request fails, and no answer is another one. How
// long a fault is felt is measured, not promised here: tests share their machine.
func TestStorm(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a storm finds its processes in /proc, which only Linux has")
	}
	type breaks struct {
		name  string
		fault storm.Fault
		kills int
		more  []string
	}
	all := []breaks{
		{"kill", storm.Kill, 10, nil},
		{"stop", storm.Stop, 2, []string{"--pause", "500ms"}},
		{"one", storm.Kill, 2, []string{"--replicas", "1", "--down", "3s"}},
		{"all", storm.KillAll, 1, []string{"--down", "2s"}},
	}
	if slack > 1 {
		all = []breaks{{"kill", storm.Kill, 2, nil}} // the race detector slows every process ten times
	}
	for _, tc := range all {
		t.Run(tc.name, func(t *testing.T) {
			rep := runStorm(t, append([]string{"--fault", string(tc.fault), "--nodes", "3",
				"--kills", strconv.Itoa(tc.kills), "--every", "200ms", "--window", "300ms",
				"--quiet", "1s", "--clients", "3", "--requests", strconv.Itoa(10 * tc.kills)},
				tc.more...)...)
			if rep.Kills != tc.kills || rep.Requests < 10*tc.kills || rep.Nodes != 3 {
				t.Errorf("%d times %s on %d nodes, %d requests", rep.Kills, rep.Fault, rep.Nodes,
					rep.Requests)
			}
			if rep.Heal.Count != tc.kills || rep.Memory == nil || rep.Memory.First < 1 {
				t.Errorf("whole again %d times; memory %+v", rep.Heal.Count, rep.Memory)
			}
		})
	}
}

// runStorm runs a storm in which nothing may be violated.
func runStorm(t *testing.T, args ...string) (rep storm.Report) {
	t.Helper()
	log := t.TempDir() + "/log"
	p := launch(t, place{}, append([]string{"bench", "storm", "--json", "--model", demoModel(t),
		"--log", log}, args...)...)
	code := p.wait(4 * time.Minute)
	if err := json.Unmarshal([]byte(p.out.String()), &rep); err != nil {
		t.Fatalf("exit code %d, %v in %s", code, err, &p.out)
	}
	t.Log("\n" + rep.Text())
	if code != exitDone || len(rep.Violations) > 0 {
		text, _ := os.ReadFile(log) // empty if there is none
		t.Errorf("exit code %d: %v\n%s", code, rep.Violations, text)
	}
	return rep
}

// TestStormKilled kills a storm, which cannot clean up then: the cluster that it started ends.
func TestStormKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a storm finds its processes in /proc, which only Linux has")
	}
	storm := launch(t, place{}, "bench", "storm", "--model", demoModel(t), "--nodes", "2", "--kills",
		"1000")
	var pids []int
	eventually(t, 20*slack*time.Second, "a cluster with two nodes", func() (bool, string) {
		if pids = childrenOf(t, storm.pid()); len(pids) == 1 {
			pids = append(pids, childrenOf(t, pids[0])...)
		}
		return len(pids) == 3, fmt.Sprint(pids)
	})
	storm.signal(syscall.SIGKILL)
	storm.wait(5 * slack * time.Second)
	for _, pid := range pids {
		eventually(t, 5*slack*time.Second, fmt.Sprintf("the end of process %d", pid),
			func() (bool, string) { return !alive(pid), "it runs" })
	}
}

// childrenOf finds the processes that one has started.
func childrenOf(t *testing.T, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		text, _ := os.ReadFile(name) // it may have ended
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		words := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(words) > 1 && words[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}
