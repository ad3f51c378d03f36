package api

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumentedLimits compares what docs/cli.md promises with the defaults.
func TestDocumentedLimits(t *testing.T) {
	text, err := os.ReadFile("../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Join(strings.Fields(string(text)), " ")
	var o Options
	o.setDefaults()
	for _, want := range []string{
		fmt.Sprintf("413 for a body over %d MiB", o.MaxBodyBytes>>20),
		fmt.Sprintf("does not read for %.0f s", o.WriteTimeout.Seconds()),
		fmt.Sprintf("`n` (1 to %d)", maxN),
	} {
		if !strings.Contains(docs, want) {
			t.Errorf("docs/cli.md does not say %q", want)
		}
	}
}
