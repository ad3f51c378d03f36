//go:build kube

package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drover/internal/identity"
)

// TestCertManager installs the chart where cert-manager is: it is asked for all certificates by
// itself, pods get ready with them, and one that is made anew is taken without a restart.
func TestCertManager(t *testing.T) {
	program := os.Getenv("DROVER_CERT_MANAGER")
	if program == "" {
		t.Skip("DROVER_CERT_MANAGER is not set; scripts/kube/test builds it, but with -short")
	}
	define(t, "github.com/cert-manager/cert-manager")
	runManager(t, program)
	t.Cleanup(func() { uninstallManaged(t) })
	began := time.Now()
	must(t, "helm", "install", release, chart, "--set", "monitoring.enabled=true", "--set-json",
		`monitoring.from=[{"ipBlock":{"cidr":"`+machine+`"}}]`, "--wait", "--timeout", patience.String())
	t.Logf("ready %.1f s after helm install", time.Since(began).Seconds())
	must(t, "helm", "test", release, "--timeout", patience.String())
	names := must(t, "kubectl", "get", "secrets", "-o", "name")
	if strings.Contains(names, release+"-tls-") {
		t.Errorf("the chart has made certificates by itself: %s", names)
	}
	const node = release + "-cert-expertnode"
	was, restarts := serialOf(t, node), restarted(t)
	// What the manager keeps in the secret is a certificate of its own making when it is gone.
	must(t, "kubectl", "delete", "secret", node)
	within(t, patience, "another certificate", func() error {
		_, err := try("kubectl", "get", "secret", node, "-o", `jsonpath={.data.tls\.crt}`)
		return err
	})
	must(t, "kubectl", "wait", "--for=condition=Ready", "certificate/"+release+"-expertnode",
		"--timeout="+patience.String())
	if serialOf(t, node) == was {
		t.Error("the certificate is the old one")
	}
	renewed := lookAt(t, node)
	for _, pod := range pods(t, string(identity.ExpertNode)) {
		within(t, patience, "the new certificate in "+pod, func() error { return has(pod, renewed) })
	}
	must(t, "helm", "test", release, "--timeout", patience.String())
	if now := restarted(t); now != restarts {
		t.Errorf("pods were restarted: %s, before %s", now, restarts)
	}
}

// runManager runs cert-manager's controllers until the test ends.
func runManager(t *testing.T, program string) {
	t.Helper()
	c := exec.Command(program, "-kubeconfig", os.Getenv("KUBECONFIG"))
	log := &strings.Builder{}
	c.Stdout, c.Stderr = log, log
	alive, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = alive.Close() // which ends it
		if err := c.Wait(); err != nil || t.Failed() {
			text := log.String()
			t.Logf("cert-manager ended: %v: %s", err, text[max(0, len(text)-4000):])
		}
	})
}

// lookAt reads what a secret holds.
func lookAt(t *testing.T, secret string) identity.Folder {
	t.Helper()
	dir := t.TempDir()
	if err := fetchSecret(secret, dir); err != nil {
		t.Fatal(err)
	}
	f, err := identity.Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.Problem != nil {
		t.Errorf("secret %s: %v", secret, f.Problem)
	}
	return f
}

func serialOf(t *testing.T, secret string) string {
	t.Helper()
	return lookAt(t, secret).Certificate.SerialNumber.Text(16)
}

// restarted tells how often the containers of all pods were restarted.
func restarted(t *testing.T) string {
	t.Helper()
	return must(t, "kubectl", "get", "pods", "-l", "app.kubernetes.io/instance="+release, "-o",
		"jsonpath={.items[*].status.containerStatuses[*].restartCount}")
}

// uninstallManaged removes the release and the secrets that cert-manager made for it.
func uninstallManaged(t *testing.T) {
	uninstall(t)
	out := must(t, "kubectl", "get", "secrets", "-o", "name")
	for name := range strings.Lines(out) {
		if name = strings.TrimSpace(name); strings.HasPrefix(name, "secret/"+release+"-cert-") {
			must(t, "kubectl", "delete", name)
		}
	}
}
