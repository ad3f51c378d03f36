//go:build !faultinject

package main

import (
	"strings"
	"testing"
)

// TestReleaseInjectsNothing wants a release to know nothing of injected faults.
func TestReleaseInjectsNothing(t *testing.T) {
	code, _, stderr := drover(t, "expertnode", "--inject", "wrong=1")
	if code != exitUsage || !strings.Contains(stderr, "unknown flag: --inject") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
