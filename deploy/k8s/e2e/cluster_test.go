//go:build kube

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/identity"
	"drover/internal/load"
	droverv1 "drover/proto/drover/v1"
)

// machine is the address from which this test reaches pods, as the lab has it.
const machine = "10.89.0.1/32"

// apiKeys is a secret that this test makes.
const apiKeys = "api-keys"

// TestCluster is one life of an installation; its parts follow each other.
func TestCluster(t *testing.T) {
	questions, err := load.Mix()
	if err != nil {
		t.Fatal(err)
	}
	quiet := quietAnswers(t, questions)
	t.Cleanup(func() { uninstall(t) })
	if !t.Run("install", install) {
		return
	}
	t.Run("strangers", strangers)
	t.Run("memory", memory)
	if !t.Run("upgrade for clients on the machine", openToMachine) {
		return
	}
	a := ask(t, questions, quiet)
	a.more(t)
	for _, part := range []struct {
		name string
		do   func(*testing.T, *asking)
	}{
		{"scale", scale}, {"delete nodes", deleteNodes}, {"delete a coordinator", deleteCoordinator},
		{"change the authority", rotate},
		{"restart etcd", restartEtcd}, {"restore etcd", restoreEtcd}, {"drain a machine", drain},
		{"upgrade and roll back", upgrade},
		{"scale by load", autoscale},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.do(t, a)
			a.more(t)
			a.check(t)
		})
	}
	a.end()
	a.check(t)
	t.Logf("%d answers, all with the bytes of a quiet process; %d went on at another stream; "+
		"the slowest took %.1f s", a.answered, a.lost, a.slowest.Seconds())
	t.Run("bad values", badValues)
}

// install is what README tells: no values at all.
func install(t *testing.T) {
	began := time.Now()
	must(t, "helm", "install", release, chart, "--wait", "--timeout", patience.String())
	t.Logf("ready %.1f s after helm install", time.Since(began).Seconds())
	must(t, "helm", "test", release, "--timeout", patience.String())
	t.Logf("first answer to a pod %.1f s after helm install", time.Since(began).Seconds())
	if n := len(pods(t, "expertnode")); n != 4 {
		t.Errorf("%d expert nodes, want 4", n)
	}
}

// strangers may use neither the expert nodes nor, from another namespace, the coordinators.
func strangers(t *testing.T) {
	node, front := address(t, "expertnode")+":7071", address(t, "coordinator")+":7070"
	if c, err := net.DialTimeout("tcp", node, 3*time.Second); err == nil {
		_ = c.Close()
		t.Error("the machine reaches an expert node")
	}
	if err := plainly(t, front); err == nil {
		t.Errorf("%s answers in plain text", front)
	}
	trust := t.TempDir() // strangers know the authority, and have no certificate
	if err := fetch(identity.Client, trust); err != nil {
		t.Fatal(err)
	}
	must(t, "kubectl", "create", "namespace", "elsewhere")
	for _, namespace := range []string{"default", "elsewhere"} {
		must(t, "kubectl", "-n", namespace, "create", "configmap", "stranger",
			"--from-file="+filepath.Join(trust, identity.AuthorityFile))
	}
	defer func() { _, _ = try("kubectl", "-n", "default", "delete", "configmap", "stranger") }()
	defer func() { _, _ = try("kubectl", "delete", "namespace", "elsewhere", "--wait=false") }()
	all := []stranger{{"stranger-0", "default", front}, {"stranger-1", "elsewhere", front},
		{"stranger-2", "default", node}}
	for _, s := range all { // at once, since each that is kept out waits
		s.start(t)
	}
	for i, s := range all {
		phase, said := s.end(t)
		// Packets may be let in some time after the pod has its address.
		for tries := 1; i == 0 && !heard(said) && tries < 5; tries++ {
			s.start(t)
			phase, said = s.end(t)
		}
		if phase == "Succeeded" {
			t.Errorf("%s answers a stranger: %s", s.endpoint, said)
		}
		if got, want := heard(said), i == 0; got != want {
			t.Errorf("from namespace %s, %s was reached: %v, want %v: %s", s.namespace, s.endpoint,
				got, want, said)
		}
	}
}

// stranger is a pod that asks an endpoint for the expert nodes and trusts the authority.
type stranger struct{ name, namespace, endpoint string }

func (s stranger) start(t *testing.T) {
	t.Helper()
	image := os.Getenv("DROVER_IMAGE")
	must(t, "kubectl", "-n", s.namespace, "run", s.name, "--image="+image, "--restart=Never",
		fmt.Sprintf(`--overrides={"spec":{"containers":[{"name":%q,"image":%q,`+
			`"imagePullPolicy":"IfNotPresent","args":["nodes","--ca=/trust/ca.crt","--endpoint=%s"],`+
			`"volumeMounts":[{"name":"trust","mountPath":"/trust"}]}],"volumes":[{"name":"trust",`+
			`"configMap":{"name":"stranger"}}]}}`, s.name, image, s.endpoint))
}

// end waits for the pod's end, removes it, and returns what it said.
func (s stranger) end(t *testing.T) (phase, said string) {
	t.Helper()
	within(t, patience, "the stranger's end", func() (err error) {
		phase, err = try("kubectl", "-n", s.namespace, "get", "pod", s.name, "-o",
			"jsonpath={.status.phase}")
		if err == nil && phase != "Succeeded" && phase != "Failed" {
			err = fmt.Errorf("it is %s", phase)
		}
		return err
	})
	said = must(t, "kubectl", "-n", s.namespace, "logs", s.name)
	must(t, "kubectl", "-n", s.namespace, "delete", "pod", s.name)
	return phase, said
}

// heard tells whether a stranger was reached by an answer: who is kept out hears nothing, who is
// let in hears that it is nobody, or that the address is not in the certificate.
func heard(said string) bool {
	return !strings.Contains(said, "timeout") && !strings.Contains(said, "deadline")
}

// memory prints what each role takes when idle.
func memory(t *testing.T) {
	type used struct {
		WorkingSetBytes, RSSBytes uint64
	}
	for _, machine := range strings.Fields(must(t, "kubectl", "get", "nodes", "-o",
		"jsonpath={.items[*].metadata.name}")) {
		var s struct {
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct{ Memory used }
			}
		}
		text := must(t, "kubectl", "get", "--raw", "/api/v1/nodes/"+machine+"/proxy/stats/summary")
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Pods {
			for _, c := range p.Containers {
				if p.PodRef.Namespace == "default" {
					t.Logf("%-40s %4d MiB working set, %4d MiB resident", p.PodRef.Name,
						c.Memory.WorkingSetBytes>>20, c.Memory.RSSBytes>>20)
				}
			}
		}
	}
}

// openToMachine lets this test's clients in, adds a coordinator, and has the ports of HTTP asked.
func openToMachine(t *testing.T) {
	key := makeKey(t, apiKeys)
	must(t, "helm", "upgrade", release, chart, "--reuse-values", "--set", "coordinator.replicas=2",
		"--set", "gossip.enabled=true,monitoring.enabled=true,apiKeys.existingSecret="+apiKeys,
		"--set-json",
		`networkPolicy.clients=[{"podSelector":{}},{"ipBlock":{"cidr":"`+machine+`"}}]`, "--set-json",
		`monitoring.from=[{"ipBlock":{"cidr":"`+machine+`"}}]`, "--wait", "--timeout", patience.String())
	whole(t, 4)
	ports(t, key)
}

func scaleTo(t *testing.T, n int) {
	t.Helper()
	must(t, "kubectl", "scale", nodeSet, fmt.Sprintf("--replicas=%d", n))
}

// scale goes from 4 nodes to 2, 6 and 3.
func scale(t *testing.T, a *asking) {
	for _, n := range []int{2, 6, 3} {
		began := time.Now()
		scaleTo(t, n)
		if n == 6 {
			within(t, patience, "rows at the last new node", func() error {
				fronts, err := addresses("coordinator")
				for _, front := range fronts {
					var all map[string]*droverv1.NodeStatus
					all, err = members(t, front)
					if err == nil && all["drover-node-5"].GetRowsDispatched() > 0 {
						return nil
					}
				}
				return fmt.Errorf("none yet (last error: %v)", err)
			})
			t.Logf("a new node carries load %.1f s after kubectl scale", time.Since(began).Seconds())
		}
		whole(t, n)
		t.Logf("%d nodes, all ready, after %.1f s", n, time.Since(began).Seconds())
		a.more(t)
	}
}

// deleteNodes deletes nodes, some without time to drain.
func deleteNodes(t *testing.T, a *asking) {
	times := 4
	if testing.Short() {
		times = 2
	}
	for i := range times {
		all := pods(t, "expertnode")
		pod := all[rand.IntN(len(all))]
		args := []string{"delete", "pod", pod, "--wait=false"}
		if i%2 == 1 {
			args = append(args, "--force", "--grace-period=0")
		}
		t.Logf("kubectl %s", strings.Join(args, " "))
		replace(t, pod, args)
		whole(t, 3)
		a.more(t)
	}
}

// replace deletes a pod by kubectl and waits for the one that takes its name.
func replace(t *testing.T, pod string, args []string) {
	t.Helper()
	const uid = "jsonpath={.metadata.uid}"
	old := must(t, "kubectl", "get", "pod", pod, "-o", uid)
	must(t, "kubectl", args...)
	within(t, patience, "another "+pod, func() error {
		now, err := try("kubectl", "get", "pod", pod, "-o", uid)
		if err == nil && now == old {
			err = fmt.Errorf("the old one is still there")
		}
		return err
	})
}

func deleteCoordinator(t *testing.T, a *asking) {
	for range 2 {
		must(t, "kubectl", "delete", "pod", pods(t, "coordinator")[0], "--wait=false", "--force",
			"--grace-period=0")
		a.more(t)
		whole(t, 3)
	}
}

// restartEtcd replaces etcd, whose address changes, and shows that the placement follows then.
func restartEtcd(t *testing.T, a *asking) {
	replace(t, etcdPod, []string{"delete", "pod", etcdPod, "--wait=false"})
	a.more(t)
	must(t, "kubectl", "wait", "--for=condition=Ready", "pod/"+etcdPod, "--timeout="+patience.String())
	scaleTo(t, 4)
	whole(t, 4)
}

// drain empties one machine, as before it is updated.
func drain(t *testing.T, a *asking) {
	must(t, "kubectl", "drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", "--force",
		"--timeout="+patience.String())
	a.more(t)
	whole(t, 4)
	must(t, "kubectl", "uncordon", "n2")
}

// upgrade changes arguments of all roles, and takes that back.
func upgrade(t *testing.T, a *asking) {
	before := must(t, "helm", "history", release, "-o", "json")
	var history []struct{ Revision int }
	if err := json.Unmarshal([]byte(before), &history); err != nil {
		t.Fatal(err)
	}
	debugging := func() int {
		return strings.Count(must(t, "kubectl", "get", "pods", "-o",
			"jsonpath={.items[*].spec.containers[*].args}"), "--debug")
	}
	began := time.Now()
	must(t, "helm", "upgrade", release, chart, "--reuse-values", "--set",
		"nodes.extraArgs={--debug},coordinator.extraArgs={--debug}", "--wait",
		"--timeout", patience.String())
	whole(t, 4)
	t.Logf("upgraded in %.1f s", time.Since(began).Seconds())
	if n := debugging(); n < 6 {
		t.Errorf("%d pods have the new argument, want 6", n)
	}
	a.more(t)
	must(t, "helm", "rollback", release, fmt.Sprint(history[len(history)-1].Revision), "--wait",
		"--timeout", patience.String())
	whole(t, 4)
	if n := debugging(); n != 0 {
		t.Errorf("%d pods have the new argument after the way back", n)
	}
}

// uninstall removes the release; what etcd keeps stays, and is removed here.
func uninstall(t *testing.T) {
	if _, err := try("helm", "uninstall", release, "--wait", "--timeout", patience.String()); err != nil {
		t.Log(err) // it was never installed
		return
	}
	left := must(t, "kubectl", "get", "all,configmap,secret,networkpolicy,pdb,serviceaccount,pvc",
		"-l", "app.kubernetes.io/instance="+release, "-o", "name")
	for _, name := range strings.Fields(left) {
		if !strings.HasPrefix(name, "persistentvolumeclaim/") && !strings.HasPrefix(name, "pod/") {
			t.Errorf("%s is left after helm uninstall", name)
		}
	}
	must(t, "kubectl", "delete", "pvc", "--all", "--wait=false")
	must(t, "kubectl", "delete", "secret", apiKeys, "--ignore-not-found")
}
