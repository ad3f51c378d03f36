//go:build kube

package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// definitions are the files with foreign kinds of objects, by the module that has them.
var definitions = map[string][]string{
	"github.com/cert-manager/cert-manager": {"deploy/crds/cert-manager.io_*.yaml",
		"deploy/crds/acme.cert-manager.io_*.yaml"},
	"github.com/prometheus-operator/prometheus-operator": {
		"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
		"example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"},
	"github.com/kedacore/keda/v2": {"config/crd/bases/keda.sh_scaledobjects.yaml"},
	"sigs.k8s.io/gateway-api":     {"config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"},
}

// define has the cluster know the kinds of objects of some modules until the test ends.
func define(t *testing.T, modules ...string) {
	t.Helper()
	out := must(t, "go", append([]string{"-C", "../../../scripts/kube/crds", "mod", "download", "-json"},
		modules...)...)
	args := []string{"-f", ""}
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range definitions[m.Path] {
			files, err := filepath.Glob(filepath.Join(m.Dir, filepath.FromSlash(pattern)))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s has no %s (%v)", m.Path, pattern, err)
			}
			args[1] += "," + strings.Join(files, ",")
		}
	}
	args[1] = strings.TrimPrefix(args[1], ",")
	must(t, "kubectl", append([]string{"create"}, args...)...)
	t.Cleanup(func() { must(t, "kubectl", append([]string{"delete", "--wait"}, args...)...) })
	must(t, "kubectl", append([]string{"wait", "--for=condition=Established", "--timeout=" +
		patience.String()}, args...)...)
}

// TestStrict has the API server check what the chart makes of every set of values that
// deploy/k8s/render has, as if it were to be made, by the definitions of Kubernetes, cert-manager,
// the Prometheus operator, KEDA and Gateway API: it must neither refuse nor warn of anything, and
// neither must kubeconform by the same definitions.
func TestStrict(t *testing.T) {
	var modules []string
	for m := range definitions {
		modules = append(modules, m)
	}
	define(t, modules...)
	const namespace = "somewhere" // that of the rendered objects
	must(t, "kubectl", "create", "namespace", namespace)
	t.Cleanup(func() { must(t, "kubectl", "delete", "namespace", namespace, "--wait=false") })
	for _, mode := range []string{"enforce", "warn"} {
		must(t, "kubectl", "label", "namespace", namespace,
			"pod-security.kubernetes.io/"+mode+"=restricted")
	}
	// A pod wants an account that is there; that of the release is only looked at.
	must(t, "kubectl", "-n", namespace, "create", "serviceaccount", "drover")
	within(t, patience, "an account of the namespace", func() error {
		_, err := try("kubectl", "-n", namespace, "get", "serviceaccount", "default")
		return err
	})
	dir := t.TempDir()
	t.Setenv("DROVER_RENDER_DIR", dir)
	must(t, "go", "-C", "../render", "test", "-count=1", "-run=^TestSets$", ".")
	var files []string
	for _, pattern := range []string{"*.yaml", "open/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 14 {
		t.Fatalf("%d sets are rendered: %v", len(files), files)
	}
	made := 0
	for _, file := range files {
		good, rest := dryRun(file)
		if rest != "" {
			t.Errorf("%s: %s", filepath.Base(file), rest)
		}
		made += good
	}
	t.Logf("%d objects of %d sets of values: nothing is refused, nothing warned of", made, len(files))
	// The check is one: it finds a word that is no field.
	wrong := mistake(t, filepath.Join(dir, "defaults.yaml"), "readinessProbe:", "readynessProbe:")
	if _, rest := dryRun(wrong); !strings.Contains(rest, "readynessProbe") {
		t.Errorf("a field that is none is let through: %q", rest)
	}
	conform(t, files, made)
}

// dryRun has the API server check the objects of a file, and returns how many are good, and what
// else is said.
func dryRun(file string) (good int, rest string) {
	said, err := try("kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f",
		file)
	for line := range strings.Lines(said) {
		if strings.HasSuffix(strings.TrimSpace(line), "serverside-applied (server dry run)") {
			good++
		} else {
			rest += line
		}
	}
	if err != nil && rest == "" {
		rest = err.Error()
	}
	return good, rest
}
