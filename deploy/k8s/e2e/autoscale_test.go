//go:build kube

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/internal/identity"
)

// scaledBy is the metric that coordinators are scaled by here, and scaledAt its target.
const (
	scaledBy = "drover_requests_running"
	scaledAt = "4"
	// crowd is how many clients come: with the few that are there, more than two coordinators
	// at the target have.
	crowd = 24
)

// autoscale has an autoscaler add a coordinator when many ask.
func autoscale(t *testing.T, a *asking) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	serveMetrics(t)
	must(t, "helm", "upgrade", release, chart, "--reuse-values", "--set",
		"coordinator.autoscaling.enabled=true,coordinator.autoscaling.minReplicas=2,"+
			"coordinator.autoscaling.maxReplicas=3,coordinator.autoscaling.targetCPU=0",
		"--set-string", "coordinator.autoscaling.targetMetrics."+scaledBy+"="+scaledAt, "--wait",
		"--timeout", patience.String())
	within(t, patience, "an autoscaler that sees the metric", func() error {
		active, err := try("kubectl", "get", "hpa", release+"-coordinator", "-o",
			`jsonpath={.status.conditions[?(@.type=="ScalingActive")].status}{.status.currentMetrics}`)
		if err == nil && (!strings.HasPrefix(active, "True") || !strings.Contains(active, scaledBy)) {
			err = fmt.Errorf("it has %s", active)
		}
		return err
	})
	if n := len(pods(t, "coordinator")); n != 2 {
		t.Fatalf("%d coordinators while few ask, want 2", n)
	}
	began := time.Now()
	var asking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for c := range crowd {
		asking.Go(func() {
			for i := c; ctx.Err() == nil; i += crowd {
				a.one(i % len(a.questions))
			}
		})
	}
	defer asking.Wait()
	defer stop()
	within(t, patience, "a third coordinator that is ready", func() error {
		ready, err := try("kubectl", "get", frontSet, "-o", "jsonpath={.status.readyReplicas}")
		if err == nil && ready != "3" {
			err = fmt.Errorf("%s are ready", ready)
		}
		return err
	})
	t.Logf("a third coordinator is ready %.1f s after the crowd came", time.Since(began).Seconds())
	a.more(t)
}

// serveMetrics is what an adapter for Prometheus is in other clusters: the API of custom metrics,
// with what the coordinators tell at this moment. The API server passes questions on to it.
func serveMetrics(t *testing.T) {
	t.Helper()
	const api = "custom.metrics.k8s.io/v1beta2"
	id := as(t, identity.Metrics)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			log.Print(err) // the API server asks again
		}
	}
	mux.HandleFunc("GET /apis/"+api, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api,
			"resources": []any{map[string]any{"name": "pods/" + scaledBy, "singularName": "",
				"namespaced": true, "kind": "MetricValueList", "verbs": []string{"get"}}}})
	})
	mux.HandleFunc("GET /apis/"+api+"/namespaces/default/pods/{pod}/"+scaledBy,
		func(w http.ResponseWriter, _ *http.Request) {
			items, err := measured(t, id)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			answer(w, map[string]any{"kind": "MetricValueList", "apiVersion": api,
				"metadata": map[string]any{}, "items": items})
		})
	host, _, _ := strings.Cut(machine, "/")
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(mux)
	_ = s.Listener.Close() // another one takes its place
	s.Listener = l
	s.StartTLS()
	t.Cleanup(s.Close)
	objects := filepath.Join(t.TempDir(), "metrics.yaml")
	text := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: custom-metrics, namespace: kube-system}
spec: {ports: [{port: 443, targetPort: %[1]d}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: custom-metrics, namespace: kube-system}
subsets: [{addresses: [{ip: %[2]s}], ports: [{port: %[1]d}]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta2.custom.metrics.k8s.io}
spec:
  group: custom.metrics.k8s.io
  version: v1beta2
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: custom-metrics, namespace: kube-system}
`, l.Addr().(*net.TCPAddr).Port, host)
	if err := os.WriteFile(objects, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "kubectl", "apply", "-f", objects)
	t.Cleanup(func() { _, _ = try("kubectl", "delete", "-f", objects, "--wait=false") })
	must(t, "kubectl", "wait", "--for=condition=Available", "apiservice/v1beta2.custom.metrics.k8s.io",
		"--timeout="+patience.String())
}

// measured asks every coordinator that is ready for the metric.
func measured(t *testing.T, id *identity.Source) (items []any, err error) {
	out, err := try("kubectl", "get", "pods", "-l", component+"coordinator", "-o",
		`go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} `+
			`{{.status.podIP}}{{"\n"}}{{end}}{{end}}`)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		name, ip, _ := strings.Cut(strings.TrimSpace(line), " ")
		_, text, err := get(t, id, true, "https://"+ip+":9090/metrics", "")
		if err != nil {
			continue // it starts, or ends
		}
		for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
			value, ok := strings.CutPrefix(s.Text(), scaledBy+" ")
			if !ok {
				continue
			}
			items = append(items, map[string]any{"describedObject": map[string]any{"kind": "Pod",
				"apiVersion": "v1", "namespace": "default", "name": name},
				"metric": map[string]any{"name": scaledBy}, "value": value,
				"timestamp": time.Now().UTC().Format(time.RFC3339)})
		}
	}
	return items, nil
}
