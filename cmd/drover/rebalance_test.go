package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/show"
)

// TestHotExperts asks a cluster the same question again and again until the coordinator
// has measured what that needs, and lets it place the experts by it, while it answers.
func TestHotExperts(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a coordinator to measure load")
	}
	u := startUp(t, "--nodes", "4")
	dir := t.TempDir()
	prompts, line := filepath.Join(dir, "prompts.jsonl"), ""
	for i := range 400 {
		line += fmt.Sprintf(`{"id":"%d","messages":[{"role":"user","content":%q}]}`+"\n", i, translate)
	}
	if err := os.WriteFile(prompts, []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	answers := func(name string) *process {
		return launch(t, place{}, "run", "--endpoint", u.line.GRPC, "--prompts", prompts, "--out",
			filepath.Join(dir, name))
	}
	if code := answers("before").wait(60 * slack * time.Second); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	var before show.PlacementMap
	eventually(t, 60*slack*time.Second, "the load is shown", func() (bool, string) {
		before = show.PlacementMap{}
		u.command(t, &before, "placement")
		worst := 0.0
		for _, v := range before.Imbalance {
			worst = max(worst, v)
		}
		return worst > 1.15, fmt.Sprintf("imbalance %v", before.Imbalance)
	})
	running := answers("meanwhile")
	var asked struct {
		Revision uint64
		Planner  string
	}
	u.command(t, &asked, "rebalance")
	if asked.Revision == 0 || asked.Planner == "" {
		t.Errorf("rebalance says %+v", asked)
	}
	eventually(t, 60*slack*time.Second, "the placement follows", func() (bool, string) {
		p := u.placement(t)
		return p.Revision > 1, fmt.Sprintf("revision %d", p.Revision)
	})
	var after show.PlacementMap
	u.command(t, &after, "placement")
	for layer, was := range before.Imbalance {
		if now := after.Imbalance[layer]; was > 1.3 && now > was {
			t.Errorf("layer %d: the fullest node had %.2f of its part, has %.2f", layer, was, now)
		}
	}
	if code := running.wait(60 * slack * time.Second); code != exitDone {
		t.Errorf("while the placement changed: exit code %d", code)
	}
	first, err := os.ReadFile(filepath.Join(dir, "before"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(dir, "meanwhile"))
	if err != nil || string(first) != string(second) || !strings.Contains(string(first), translated) {
		t.Errorf("answers differ, or are wrong: %v", err)
	}
}
