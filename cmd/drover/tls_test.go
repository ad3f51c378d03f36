package main

import (
	"net/http"
	"os"
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
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--tls", of("coordinator"),
		"--client-tls", "none", "--plaintext")
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

	t.Run("clients", func(t *testing.T) { checkClients(t, r, dir) })

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

// checkClients asks a coordinator that wants API keys or certificates of its clients.
func checkClients(t *testing.T, r *roles, dir string) {
	file, keyFile := filepath.Join(dir, "keys"), filepath.Join(dir, "key")
	code, key, stderr := drover(t, "keys", "new", "alice", "--file", file)
	if code != exitDone {
		t.Fatal(stderr)
	}
	if err := os.WriteFile(keyFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--tls",
		filepath.Join(dir, "coordinator"), "--api-keys", file)
	ca, client := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client")
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"key":            {[]string{"run", "--ca", ca, "--api-key-file", keyFile, translate}, 0, ""},
		"certificate":    {[]string{"run", "--tls", client, translate}, 0, ""},
		"no key":         {[]string{"run", "--ca", ca, translate}, 1, "an API key is needed"},
		"wrong key":      {[]string{"run", "--ca", ca, "--api-key-file", ca, translate}, 1, ""},
		"no scope":       {[]string{"nodes", "--ca", ca, "--api-key-file", keyFile}, 1, "lacks the scope admin"},
		"client's nodes": {[]string{"nodes", "--tls", client}, 1, "may not do this"},
		"operator":       {[]string{"nodes", "--tls", filepath.Join(dir, "coordinator")}, 0, ""},
		"plain text":     {[]string{"run", "--plaintext", translate}, 1, ""},
	} {
		code, _, stderr := drover(t, append(tc.args, "--endpoint", endpoint)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, %s", name, code, stderr)
		}
	}
}

// TestUpState runs whole clusters on one state: two coordinators, then one, by certificates that
// last, and not in plain text. Then one begins in plain text and goes on by TLS.
func TestUpState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for _, coordinators := range []string{"2", "1"} {
		u := startUp(t, "--dir", dir, "--nodes", "2", "--coordinators", coordinators)
		checkUpTLS(t, u, dir, coordinators == "2")
		if coordinators == "1" {
			checkPlain(t, u)
		}
		endUp(t, u)
		if _, err := os.Stat(u.line.CA); err == nil {
			t.Errorf("%s stays behind", u.line.CA)
		}
	}
	p := launch(t, place{}, "up", "--plaintext", "--dir", dir, "--grpc", "127.0.0.1:0", "--http",
		"127.0.0.1:0")
	if code := p.wait(20 * slack * time.Second); code != exitFailed ||
		!strings.Contains(p.errors.String(), "leave out --plaintext") {
		t.Errorf("the same state without certificates: exit code %d, %s", code, &p.errors)
	}
	other := filepath.Join(t.TempDir(), "other")
	u := startUp(t, "--dir", other, "--nodes", "1", "--plaintext")
	if got := u.mustAsk(t, translate); got != translated || u.line.CA != "" || !u.at.plain ||
		!strings.HasPrefix(u.line.Etcd, "http://") {
		t.Errorf("in plain text: %+v, answered %q", u.line, got)
	}
	endUp(t, u)
	u = startUp(t, "--dir", other, "--nodes", "1")
	checkUpTLS(t, u, other, false)
}

// checkUpTLS asks a cluster by the authority that lies in its state and where clients find it.
func checkUpTLS(t *testing.T, u *up, dir string, several bool) {
	t.Helper()
	if u.at.plain {
		t.Error("the client did not find the authority")
	}
	if got := u.mustAsk(t, translate); got != translated {
		t.Errorf("the answer is %q, want %q", got, translated)
	}
	if !strings.HasPrefix(u.line.Etcd, "https://") {
		t.Errorf("etcd is %s, want https", u.line.Etcd)
	}
	own := filepath.Join(dir, "tls", "authority", "ca.crt")
	for _, file := range []string{own, u.line.CA} {
		code, stdout, stderr := drover(t, "run", "--endpoint", u.line.GRPC, "--ca", file, translate)
		if code != exitDone || stdout != translated+"\n" {
			t.Errorf("--ca %s: exit code %d, %q, %s", file, code, stdout, stderr)
		}
	}
	for _, private := range []string{own, u.line.CA} {
		info, err := os.Stat(filepath.Dir(private))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the folder of %s: %v, %v", private, info, err)
		}
	}
	if code, _, _ := drover(t, "run", "--endpoint", u.line.GRPC, "--plaintext", translate); code !=
		exitFailed {
		t.Errorf("a client in plain text: exit code %d", code)
	}
	for _, address := range []string{u.line.HTTP, u.line.Admin} {
		if r, err := http.Get("http://" + address + "/healthz"); err == nil {
			r.Body.Close()
			if r.StatusCode < 300 {
				t.Errorf("%s answers in plain text", address)
			}
		}
	}
	if nodes := u.nodes(t); several && len(nodes) != 2 {
		t.Errorf("%d nodes, want 2", len(nodes))
	}
}

// endUp interrupts a cluster and waits for its end.
func endUp(t *testing.T, u *up) {
	t.Helper()
	u.signal(os.Interrupt)
	if code := u.wait(20 * slack * time.Second); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// checkPlain wants etcd to let nobody in who has no certificate.
func checkPlain(t *testing.T, u *up) {
	plain := launch(t, place{}, "expertnode", "--plaintext", "--etcd",
		strings.Replace(u.line.Etcd, "https", "http", 1), "--model", demoModel(t))
	eventually(t, 20*slack*time.Second, "etcd refuses plain text", func() (bool, string) {
		return strings.Contains(plain.errors.String(), "etcd does not answer"), plain.errors.String()
	})
}
