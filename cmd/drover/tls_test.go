package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificates makes an authority and a folder for each role.
func certificates(t *testing.T, roles ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	all := [][]string{{"ca", "--out", dir}}
	for _, r := range roles {
		all = append(all, []string{"issue", r, "--ca", dir, "--out", filepath.Join(dir, r)})
	}
	for _, args := range all {
		if code, _, stderr := drover(t, append([]string{"certs"}, args...)...); code != 0 {
			t.Fatalf("certs %v: %s", args, stderr)
		}
	}
	return dir
}

// TestTLS runs a cluster of processes with certificates, changes their authority while an
// answer is made, and lets a process with a wrong certificate knock.
func TestTLS(t *testing.T) {
	dir := certificates(t, "etcd", "expertnode", "coordinator", "client")
	of := func(role string) string { return filepath.Join(dir, role) }
	etcd := launch(t, place{}, "etcd", "--dir", filepath.Join(dir, "state"), "--tls", of("etcd"),
		"--client", "https://127.0.0.1:0", "--peer", "https://127.0.0.1:0")
	awaitReady(t, etcd)
	_, rest, _ := strings.Cut(etcd.errors.String(), "msg=ready")
	_, address, _ := strings.Cut(rest, "client=")
	r := &roles{etcd: strings.Fields(address)[0], model: demoModel(t)}
	for _, id := range []string{"left", "right"} {
		r.expertNode(t, place{}, id, "--tls", of("expertnode"))
	}
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--tls", of("coordinator"))
	c := connectTo(t, endpoint)
	want := c.mustAsk(t, story)

	for _, args := range [][]string{
		{"--tls", of("client")},      // the wrong role
		{"--tls", of("coordinator")}, // another wrong one
	} {
		p := r.expertNode(t, place{}, "wrong", args...)
		if code := p.wait(20 * slack * time.Second); code != exitFailed ||
			!strings.Contains(p.errors.String(), "this process is drover://default/expertnode") {
			t.Errorf("%v: exit code %d, %s", args, code, &p.errors)
		}
	}

	answers := make(chan string)
	go func() { answers <- c.mustAsk(t, story) }()
	folders := []string{of("etcd"), of("expertnode"), of("coordinator")}
	if code, _, stderr := drover(t, "certs", "ca", "--out", filepath.Join(dir, "new")); code != 0 {
		t.Fatal(stderr)
	}
	for _, step := range [][]string{{"trust"}, {"renew", "--new-key"}, {"trust", "--only"}} {
		args := append(append([]string{"certs"}, step...), "--ca", filepath.Join(dir, "new"))
		if code, _, stderr := drover(t, append(args, folders...)...); code != 0 {
			t.Fatal(stderr)
		}
		// All processes take each step before the next one.
		time.Sleep(3 * time.Second)
		if got := c.mustAsk(t, story); got != want {
			t.Errorf("after %v: %q, want %q", step, got, want)
		}
	}
	if got := <-answers; got != want {
		t.Errorf("meanwhile: %q, want %q", got, want)
	}
	// A node that starts now, with the new certificates, is let in everywhere.
	p := r.expertNode(t, place{}, "third", "--tls", of("expertnode"))
	eventually(t, 20*slack*time.Second, "the third node is registered", func() (bool, string) {
		return c.nodes(t)["third"] != nil, p.errors.String()
	})
}
