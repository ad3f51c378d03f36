//go:build kube

// Package e2e installs the chart in a real cluster, asks questions, and meanwhile does what
// operators and machines do to a cluster. scripts/kube/test brings the cluster up and runs it.
package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	release   = "drover"
	nodeSet   = "statefulset/drover-node"
	frontSet  = "deployment/drover-coordinator"
	etcdPod   = "drover-etcd-0"
	component = "app.kubernetes.io/component="
	// patience bounds each wait for the cluster, which ends as soon as what it waits for is so: it
	// is not what anything should take.
	patience = 8 * time.Minute
	chart    = "../drover"
)

// try runs a command within a bounded time and returns what it wrote.
func try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// must is try for what must go well.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// within tries until it goes well.
func within(t *testing.T, d time.Duration, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %s: %v", d, what, err)
}

// rolledOut waits until all pods of a set are the new ones, and ready.
func rolledOut(t *testing.T, set string) {
	t.Helper()
	must(t, "kubectl", "rollout", "status", set, "--timeout="+patience.String())
}

// pods lists the names of a component's pods that are not going.
func pods(t *testing.T, part string) []string {
	t.Helper()
	return strings.Fields(must(t, "kubectl", "get", "pods", "-l", component+part, "-o",
		`go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}`))
}

// addresses lists those of a component's pods that are not going.
func addresses(part string) ([]string, error) {
	out, err := try("kubectl", "get", "pods", "-l", component+part, "-o",
		`go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.status.podIP}} {{end}}{{end}}`)
	all := strings.Fields(out)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("there is no %s", part)
	}
	return all, err
}

// address is that of any of a component's pods.
func address(t *testing.T, part string) string {
	t.Helper()
	all, err := addresses(part)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// dialReady connects to a coordinator that the service would choose: one of those that are
// ready. It stands for kube-proxy, which serves the cluster's machines and pods only.
func dialReady(ctx context.Context, _ string) (net.Conn, error) {
	out, err := exec.CommandContext(ctx, "kubectl", "get", "endpointslices", "-l",
		"kubernetes.io/service-name="+release, "-o", "jsonpath={range .items[*].endpoints[*]}"+
			"{.conditions.ready} {.addresses[0]}{\"\\n\"}{end}").Output()
	if err != nil {
		return nil, fmt.Errorf("list the coordinators that are ready: %w", err)
	}
	var ready []string
	for line := range strings.Lines(string(out)) {
		if ip, ok := strings.CutPrefix(strings.TrimSpace(line), "true "); ok {
			ready = append(ready, ip)
		}
	}
	if len(ready) == 0 {
		return nil, fmt.Errorf("no coordinator is ready")
	}
	ip := ready[int(time.Now().UnixNano()/1e3)%len(ready)]
	return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(ip, "7070"))
}

// copies is the number of replicas that the chart asks for: two of each expert of the model.
const copies = 2 * 4 * 128

// whole waits until there are so many nodes, all of them ready for Kubernetes and for the
// coordinators, and every expert has its copies.
func whole(t *testing.T, nodes int) {
	t.Helper()
	rolledOut(t, nodeSet)
	rolledOut(t, frontSet)
	within(t, patience, fmt.Sprintf("%d expert nodes that are ready", nodes), func() error {
		fronts, err := addresses("coordinator")
		if err != nil {
			return err
		}
		all, err := members(t, fronts[0])
		if err != nil {
			return err
		}
		if len(all) != nodes {
			return fmt.Errorf("%d nodes are registered: %v", len(all), all)
		}
		placed := 0
		for _, n := range all {
			if n.State != "ready" {
				return fmt.Errorf("%+v", n)
			}
			placed += int(n.ReplicaCount)
		}
		if placed < copies {
			return fmt.Errorf("%d replicas are placed, want %d: %v", placed, copies, all)
		}
		return nil
	})
}
