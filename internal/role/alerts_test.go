package role

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// used is a metric in an expression.
var used = regexp.MustCompile(`\b(?:drover|gen_ai_server|gen_ai_client)_[a-z_]+`)

// TestAlertsAndDashboard checks that expressions use metrics that docs/metrics.md has, and
// that each alert leads to a section of docs/operations.md.
func TestAlertsAndDashboard(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(path)))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	known := map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(read("docs/metrics.md"), -1) {
		known[m[1]] = true
		if m[2] == "histogram" {
			known[m[1]+"_bucket"], known[m[1]+"_sum"], known[m[1]+"_count"] = true, true, true
		}
	}
	sections := map[string]bool{}
	for line := range strings.Lines(read("docs/operations.md")) {
		if title, ok := strings.CutPrefix(line, "### "); ok {
			sections[strings.ReplaceAll(strings.ToLower(strings.TrimSpace(title)), " ", "-")] = true
		}
	}
	alerts := read("deploy/k8s/drover/files/alerts.yaml")
	for file, field := range map[string]string{"alerts.yaml": "expr: ", "dashboard.json": `"expr": `} {
		found := 0
		for line := range strings.Lines(read("deploy/k8s/drover/files/" + file)) {
			if _, expr, ok := strings.Cut(line, field); ok {
				names := used.FindAllString(expr, -1)
				if found++; len(names) == 0 {
					t.Errorf("%s: no metric in %s", file, expr)
				}
				for _, name := range names {
					if !known[name] {
						t.Errorf("%s: %s is not in docs/metrics.md", file, name)
					}
				}
			}
		}
		if found < 10 {
			t.Errorf("%s has %d expressions", file, found)
		}
	}
	runbooks := 0
	for line := range strings.Lines(alerts) {
		if _, section, ok := strings.Cut(line, "runbook: docs/operations.md#"); ok {
			if runbooks++; !sections[strings.TrimSpace(section)] {
				t.Errorf("there is no section %s", section)
			}
		}
	}
	if n := strings.Count(alerts, "- alert: "); n != runbooks {
		t.Errorf("%d alerts have %d runbooks", n, runbooks)
	}
}
