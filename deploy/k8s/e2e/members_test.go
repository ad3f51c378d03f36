//go:build kube

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// loseMembers takes each of three members of etcd away without a word, its leader among them: the
// cluster answers, and with two members a new node joins.
func loseMembers(t *testing.T) {
	began := time.Now()
	for i := range 3 {
		pod := fmt.Sprintf("%s-drover-etcd-%d", pulled, i)
		replace(t, pod, []string{"delete", "pod", pod, "--wait=false", "--force", "--grace-period=0"})
		must(t, "helm", "test", pulled, "--timeout", patience.String())
		if i == 0 {
			must(t, "kubectl", "scale", "statefulset/"+pulled+"-drover-node", "--replicas=3")
		}
		must(t, "kubectl", "wait", "--for=condition=Ready", "pod/"+pod, "--timeout="+patience.String())
	}
	must(t, "kubectl", "rollout", "status", "statefulset/"+pulled+"-drover-node",
		"--timeout="+patience.String())
	must(t, "helm", "test", pulled, "--timeout", patience.String())
	t.Logf("three members of etcd taken away in turn, and a node added, in %.1f s",
		time.Since(began).Seconds())
}
