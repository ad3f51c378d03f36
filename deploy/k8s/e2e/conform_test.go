//go:build kube

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity"
	// schemaName is the name of a kind's file, as kubeconform builds it.
	schemaName = "{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json"
)

// objectKind finds the kinds of rendered objects.
var objectKind = regexp.MustCompile(`(?m)^kind: (\w+)`)

// conform has kubeconform check files by the schemas of the cluster's own API server, which
// knows the foreign kinds, too. It wants so many good objects and nothing else, and what is wrong
// on purpose to be found.
func conform(t *testing.T, files []string, objects int) {
	t.Helper()
	program := os.Getenv("DROVER_KUBECONFORM")
	if program == "" {
		t.Fatal("DROVER_KUBECONFORM is not set; scripts/kube/test builds it")
	}
	dir := t.TempDir()
	within(t, patience, "schemas of all kinds", func() error { return writeSchemas(dir, files) })
	check := func(files ...string) (string, error) {
		return try(program, append([]string{"-strict", "-summary", "-schema-location",
			filepath.Join(dir, schemaName)}, files...)...)
	}
	good := fmt.Sprintf("Valid: %d, Invalid: 0, Errors: 0, Skipped: 0", objects)
	if said, err := check(files...); err != nil || !strings.Contains(said, good) {
		t.Errorf("kubeconform: %v, want %s: %s", err, good, said)
	} else {
		t.Logf("kubeconform: %s", said)
	}
	const defaults, watched = "defaults.yaml", "existing.yaml"
	for _, tc := range []struct{ file, from, to, says string }{
		{defaults, "readinessProbe:", "readynessProbe:", "readynessProbe"},
		{defaults, "replicas: 4", "replicas: four", "replicas"},
		{watched, "endpoints:", "endpoint:", "endpoint"},
		{watched, "kind: ServiceMonitor", "kind: ServiceMonitors", "could not find schema"},
	} {
		said, err := check(mistake(t, filepath.Join(filepath.Dir(files[0]), tc.file), tc.from, tc.to))
		if err == nil || !strings.Contains(said, tc.says) {
			t.Errorf("kubeconform lets %q pass for %q: %s", tc.to, tc.from, said)
		}
	}
}

// mistake is a copy of a file with something in it that is wrong.
func mistake(t *testing.T, file, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s has no %q", file, from)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	text = []byte(strings.Replace(string(text), from, to, 1))
	if err := os.WriteFile(wrong, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return wrong
}

// schema is one of OpenAPI 2, decoded.
type schema = map[string]any

// writeSchemas writes the definitions of the API server, and a file for each kind that refers to
// them. Those of the files' objects must be among them: the server learns foreign kinds late.
func writeSchemas(dir string, files []string) error {
	text, err := try("kubectl", "get", "--raw", "/openapi/v2")
	if err != nil {
		return err
	}
	var api struct {
		Definitions map[string]schema `json:"definitions"`
	}
	if err := json.Unmarshal([]byte(text), &api); err != nil {
		return err
	}
	known := map[string]bool{}
	for name, s := range api.Definitions {
		kinds, _ := s["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			kind, _ := k.(schema)
			group, version := kind["group"], kind["version"]
			if group == "" {
				group = version // as kubeconform has it
			}
			known[fmt.Sprint(kind["kind"])] = true
			file := strings.ToLower(fmt.Sprintf("%v_%v_%v.json", group, version, kind["kind"]))
			ref := schema{"$ref": "definitions.json#/definitions/" + name}
			if err := writeJSON(filepath.Join(dir, file), ref); err != nil {
				return err
			}
		}
		strictly(s)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range objectKind.FindAllStringSubmatch(string(text), -1) {
			if !known[m[1]] {
				return fmt.Errorf("the API server has no schema of a %s", m[1])
			}
		}
	}
	api.Definitions[quantity] = schema{"type": []string{"string", "number"}}
	return writeJSON(filepath.Join(dir, "definitions.json"), api)
}

// strictly makes a JSON schema of one of OpenAPI that lets no field through that it does not name.
func strictly(s schema) {
	if s["format"] == "int-or-string" {
		s["type"] = []string{"integer", "string"}
	}
	fields, _ := s["properties"].(schema)
	_, more := s["additionalProperties"]
	if keep, _ := s["x-kubernetes-preserve-unknown-fields"].(bool); fields != nil && !more && !keep {
		s["additionalProperties"] = false
	}
	for _, f := range fields {
		if f, ok := f.(schema); ok {
			strictly(f)
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, ok := s[key].(schema); ok {
			strictly(inner)
		}
	}
}

func writeJSON(file string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
