package role

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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
	fire := read("deploy/k8s/alerts_test.yaml")
	for line := range strings.Lines(alerts) {
		if _, name, ok := strings.Cut(line, "- alert: "); ok && !strings.Contains(fire, "- alertname: "+name) {
			t.Errorf("deploy/k8s/alerts_test.yaml does not test %s", name)
		}
	}
}

// TestAlertsFire has promtool, where $DROVER_PROMTOOL names it, run deploy/k8s/alerts_test.yaml
// and read all queries of the dashboard.
func TestAlertsFire(t *testing.T) {
	promtool := os.Getenv("DROVER_PROMTOOL")
	if promtool == "" {
		t.Skip("DROVER_PROMTOOL is not set; scripts/test builds it")
	}
	deploy := filepath.Join("..", "..", "deploy", "k8s")
	check := func(args ...string) {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v:\n%s", strings.Join(args, " "), err, out)
		}
	}
	check("test", "rules", filepath.Join(deploy, "alerts_test.yaml"))
	text, err := os.ReadFile(filepath.Join(deploy, "drover", "files", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, p := range dashboard.Panels {
		for _, q := range p.Targets {
			rules = append(rules, rule{fmt.Sprint("query:", len(rules)),
				strings.ReplaceAll(q.Expr, "$__rate_interval", "5m")})
		}
	}
	if len(rules) < 10 {
		t.Errorf("the dashboard has %d queries", len(rules))
	}
	groups := map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}}
	file := filepath.Join(t.TempDir(), "dashboard.yaml") // JSON is YAML
	if text, err = json.Marshal(groups); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	check("check", "rules", file)
}
