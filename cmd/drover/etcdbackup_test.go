package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEtcdRestored loses etcd with its disk, once after the placement has changed since a backup
// and once without a backup: nobody who asks notices, and with the restored etcd, or an empty one,
// the cluster changes its placement as ever.
func TestEtcdRestored(t *testing.T) {
	dir := certificates(t, "etcd", "expertnode", "coordinator")
	of := func(role string) string { return filepath.Join(dir, role) }
	etcd := func(state, client string) (*process, string) {
		p := launch(t, place{}, "etcd", "--dir", state, "--tls", of("etcd"), "--client", client,
			"--peer", "https://127.0.0.1:0")
		return p, awaitReady(t, p)
	}
	old, url := etcd(filepath.Join(dir, "old"), "https://127.0.0.1:0")
	r := &roles{etcd: url, model: demoModel(t)}
	node := func(id string) *process {
		return r.expertNode(t, place{}, id, "--tls", of("expertnode"), "--domain", id)
	}
	nodes := map[string]*process{"n1": node("n1"), "n2": node("n2")}
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--replicas", "2", "--tls",
		of("coordinator"), "--client-tls", "none", "--plaintext")
	c := connectTo(t, endpoint)
	c.registered(t, "n1", "n2")
	l := startSteady(t, c)
	defer l.stop()

	file := filepath.Join(dir, "backup")
	backup := []string{"etcd", "backup", "--etcd", url, "--tls"}
	code, _, stderr := drover(t, append(backup, of("coordinator"), file)...)
	if code != exitFailed || !strings.Contains(stderr, "want role etcd") {
		t.Errorf("a coordinator's backup: exit code %d, %s", code, stderr)
	}
	if code, _, stderr := drover(t, append(backup, of("etcd"), file)...); code != exitDone {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	node("n3")
	c.registered(t, "n1", "n2", "n3")

	restored := filepath.Join(dir, "restored")
	if code, _, stderr := drover(t, "etcd", "restore", "--dir", restored, file); code != exitDone {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	for _, state := range []string{restored, filepath.Join(dir, "empty")} {
		before := c.revision(t)
		old.signal(os.Kill)
		old.wait(5 * slack * time.Second)
		l.goesOn()
		old, _ = etcd(state, url)
		c.registered(t, "n1", "n2", "n3")
		l.goesOn()
		nodes["n1"].signal(os.Kill)
		c.registered(t, "n2", "n3")
		l.goesOn()
		if now := c.revision(t); now <= before {
			t.Errorf("%s: placement revision %d after a node died, %d before", state, now, before)
		}
		nodes["n1"] = node("n1")
		c.registered(t, "n1", "n2", "n3")
	}
}
