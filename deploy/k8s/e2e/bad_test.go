//go:build kube

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// badValues installs what cannot work and wants helm, the status of a pod or its log to say
// what is wrong.
func badValues(t *testing.T) {
	for name, tc := range map[string]struct {
		set  string
		says string
	}{
		"negative replicas": {"nodes.replicas=-1", "nodes.replicas"},
		"more copies than nodes": {"nodes.replicas=1",
			"each copy of an expert needs a node of its own"},
		"missing secret": {"gossip.enabled=true,gossip.existingSecret=nowhere",
			`secret "nowhere" not found`},
		"wrong model path": {"model.path=/models/nowhere", "/models/nowhere"},
		"unreachable etcd": {"etcd.external.enabled=true," +
			"etcd.external.endpoints={https://192.0.2.1:2379}", "etcd does not answer"},
		"too little memory for an expert": {
			"nodes.resources.limits.memory=32Mi,nodes.resources.requests.memory=16Mi",
			"raise the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			const bad = "bad"
			defer func() {
				_, _ = try("helm", "uninstall", bad, "--wait", "--timeout", patience.String())
				_, _ = try("kubectl", "delete", "pvc", "--all", "--wait=false")
			}()
			began := time.Now()
			said, err := try("helm", "install", bad, chart, "--set", tc.set)
			if err != nil {
				if !strings.Contains(said, tc.says) {
					t.Errorf("helm says %q, want %q in it", said, tc.says)
				}
				return
			}
			within(t, patience, "a pod or its log that says "+tc.says, func() error {
				status, err := try("kubectl", "describe", "pods", "-l", "app.kubernetes.io/instance="+bad)
				if err != nil {
					return err
				}
				logs, _ := try("kubectl", "logs", "-l", "app.kubernetes.io/instance="+bad, "--tail=20")
				status = strings.ReplaceAll(status, `\"`, `"`)
				if !strings.Contains(status, tc.says) && !strings.Contains(logs, tc.says) {
					return fmt.Errorf("it says: %s", logs)
				}
				t.Logf("said after %.1f s, in kubectl describe: %v", time.Since(began).Seconds(),
					strings.Contains(status, tc.says))
				return nil
			})
		})
	}
}
