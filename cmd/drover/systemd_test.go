package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/internal/testcluster"
)

// TestUnitsRestartCrashes reads the units of systemd: where exit code 2 is final, since it is
// wrong usage, a crash of the program must not end with it, as Go's usually do.
func TestUnitsRestartCrashes(t *testing.T) {
	units, err := filepath.Glob(testcluster.Path("deploy/systemd/*.service"))
	if err != nil || len(units) != 3 {
		t.Fatalf("units %v, %v; want 3", units, err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for _, want := range []string{"Restart=on-failure", "RestartPreventExitStatus=2",
			"Environment=GOTRACEBACK=crash", "LimitCORE=0"} {
			if !slices.Contains(lines, want) {
				t.Errorf("%s lacks %s", filepath.Base(unit), want)
			}
		}
	}
}
