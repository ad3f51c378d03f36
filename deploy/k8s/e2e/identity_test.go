//go:build kube

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"drover/internal/identity"
	droverv1 "drover/proto/drover/v1"
)

// secretOf is the secret with a role's certificate.
func secretOf(role identity.Role) string { return release + "-tls-" + string(role) }

// fetch writes the certificate of a role, as the cluster has it now, into a folder.
func fetch(role identity.Role, dir string) error { return fetchSecret(secretOf(role), dir) }

// fetchSecret writes what a secret holds into a folder.
func fetchSecret(name, dir string) error {
	text, err := try("kubectl", "get", "secret", name, "-o", "json")
	if err != nil {
		return err
	}
	var s struct{ Data map[string][]byte }
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	for name, content := range s.Data {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// as is the identity of a role as the cluster has it now.
func as(t *testing.T, role identity.Role) *identity.Source {
	t.Helper()
	dir := t.TempDir()
	if err := fetch(role, dir); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(dir, identity.Events{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(id.Close)
	return id
}

// members asks a coordinator for its expert nodes, with the certificate of another one.
func members(t *testing.T, coordinator string) (map[string]*droverv1.NodeStatus, error) {
	dir, err := os.MkdirTemp(t.TempDir(), "coordinator")
	if err != nil {
		return nil, err
	}
	if err := fetch(identity.Coordinator, dir); err != nil {
		return nil, err
	}
	id, err := identity.Open(dir, identity.Events{})
	if err != nil {
		return nil, err
	}
	defer id.Close()
	conn, err := grpc.NewClient(coordinator+":7070",
		grpc.WithTransportCredentials(credentials.NewTLS(id.Client(identity.Coordinator))))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list, err := droverv1.NewClusterServiceClient(conn).ListNodes(ctx, &droverv1.ListNodesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	all := map[string]*droverv1.NodeStatus{}
	for _, n := range list.Nodes {
		all[n.Id] = n
	}
	return all, nil
}

// rotate changes the authority under load: every process trusts the new one, all certificates
// are made anew, the old one is trusted no more.
func rotate(t *testing.T, a *asking) {
	old := as(t, identity.Client)
	began := time.Now()
	for _, step := range []string{`{"authority":"1","trust":["2"]}`,
		`{"authority":"2","trust":["1"]}`, `{"authority":"2","trust":[]}`} {
		must(t, "helm", "upgrade", release, chart, "--reuse-values", "--set-json",
			"tls.generated="+step, "--wait", "--timeout", patience.String())
		upgraded := time.Now()
		a.follow(t)
		everywhere(t)
		t.Logf("%s: in every pod %.1f s after the upgrade", step, time.Since(upgraded).Seconds())
		a.more(t)
	}
	t.Logf("the authority was changed in %.1f s", time.Since(began).Seconds())
	// Connections that are new: a node and a coordinator that had none.
	node := pods(t, "expertnode")[0]
	replace(t, node, []string{"delete", "pod", node, "--wait=false"})
	must(t, "kubectl", "delete", "pod", pods(t, "coordinator")[0], "--wait=false")
	whole(t, 4) // the upgrades have brought the number of the values back
	a.more(t)
	front := address(t, "coordinator")
	if err := knock(t, front, as(t, identity.Client)); err != nil {
		t.Errorf("the new certificate of a client: %v", err)
	}
	if err := knock(t, front, old); err == nil {
		t.Error("a certificate of the old authority is let in")
	}
}

// knock asks a coordinator for its health, which it tells everybody that the handshake lets in.
// Whom it reaches is not checked.
func knock(t *testing.T, front string, id *identity.Source) error {
	t.Helper()
	cfg := id.Client(identity.Coordinator)
	cfg.VerifyConnection = nil
	conn, err := grpc.NewClient(front+":7070", grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// plainly asks a coordinator for its health without TLS.
func plainly(t *testing.T, front string) error {
	t.Helper()
	conn, err := grpc.NewClient(front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// everywhere waits until all processes use the certificates and authorities of their secrets.
func everywhere(t *testing.T) {
	t.Helper()
	for _, role := range []identity.Role{identity.Coordinator, identity.ExpertNode, identity.Etcd} {
		dir := t.TempDir()
		if err := fetch(role, dir); err != nil {
			t.Fatal(err)
		}
		want, err := identity.Look(dir)
		if err != nil {
			t.Fatal(err)
		}
		all, err := addresses(string(role))
		if err != nil {
			t.Fatal(err)
		}
		for _, ip := range all {
			within(t, patience, "new certificates in a "+string(role), func() error {
				return uses(t.Context(), ip, want)
			})
		}
	}
}

// uses compares what a process shows to who connects to its port of HTTP, its certificate and
// whom it trusts, with what it should have.
func uses(ctx context.Context, ip string, want identity.Folder) error {
	var trusts []string
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, // the certificate is compared below
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			for _, subject := range r.AcceptableCAs {
				trusts = append(trusts, string(subject))
			}
			return &tls.Certificate{}, nil // none
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip, "9090"))
	if err != nil {
		return err
	}
	defer conn.Close()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if !shown.Equal(want.Certificate) {
		return fmt.Errorf("it shows %s of %v", shown.Subject, shown.NotBefore)
	}
	var authorities []string
	for _, c := range want.Authorities {
		authorities = append(authorities, string(c.RawSubject))
	}
	slices.Sort(authorities)
	slices.Sort(trusts)
	if !slices.Equal(trusts, authorities) {
		return fmt.Errorf("it trusts %d authorities, %q, want %q", len(trusts), trusts, authorities)
	}
	return nil
}

// has compares what a pod's folder holds.
func has(pod string, want identity.Folder) error {
	text, err := try("kubectl", "exec", pod, "--", "/drover", "certs", "show", "/tls", "--json")
	if err != nil {
		return err
	}
	var got struct {
		NotAfter    time.Time `json:"not_after"`
		Authorities []string
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return err
	}
	var authorities []string
	for _, c := range want.Authorities {
		authorities = append(authorities, c.SerialNumber.Text(16))
	}
	if !got.NotAfter.Equal(want.Certificate.NotAfter) ||
		fmt.Sprint(got.Authorities) != fmt.Sprint(authorities) {
		return fmt.Errorf("it has %s", text)
	}
	return nil
}

// makeKey makes an API key and a secret that lets it in.
func makeKey(t *testing.T, secret string) (key string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys")
	key = must(t, os.Getenv("DROVER_BIN"), "keys", "new", "alice", "--file", file)
	must(t, "kubectl", "create", "secret", "generic", secret, "--from-file=keys="+file)
	return key
}

// get asks by HTTPS, with an API key if one is given.
func get(t *testing.T, id *identity.Source, with bool, url, key string) (int, string, error) {
	t.Helper()
	cfg := id.Client(identity.Coordinator)
	if strings.Contains(url, ":9090/") {
		cfg.VerifyConnection = nil // of any role
	}
	if !with {
		cfg.GetClientCertificate = nil
	}
	c := http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: time.Minute}
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	answer, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	return answer.StatusCode, string(text), err
}

// ports asks the ports of HTTP, with and without what lets one in.
func ports(t *testing.T, key string) {
	client, metrics := as(t, identity.Client), as(t, identity.Metrics)
	front := "https://" + address(t, "coordinator")
	for _, tc := range []struct {
		id   *identity.Source
		with bool
		url  string
		key  string
		want int
		says string
	}{
		{client, false, front + ":8080/v1/models", "", http.StatusUnauthorized, ""},
		{client, false, front + ":8080/v1/models", key + "x", http.StatusUnauthorized, ""},
		{client, false, front + ":8080/v1/models", key, http.StatusOK, ""},
		{client, true, front + ":8080/v1/models", "", http.StatusOK, ""},
		{metrics, false, front + ":9090/metrics", "", http.StatusUnauthorized, ""},
		{metrics, false, front + ":9090/readyz", "", http.StatusOK, "ready"},
		{metrics, true, front + ":9090/metrics", "", http.StatusOK, "drover_ready 1"},
		{metrics, true, "https://" + address(t, "expertnode") + ":9090/metrics", "", http.StatusOK,
			"drover_expertnode_rows_total"},
		{metrics, true, "https://" + address(t, "etcd") + ":9090/metrics", "", http.StatusOK,
			"etcd_server_has_leader 1"},
	} {
		code, text, err := get(t, tc.id, tc.with, tc.url, tc.key)
		if err != nil || code != tc.want || !strings.Contains(text, tc.says) {
			t.Errorf("%s, certificate %v, key %v: %d, %v, want %d and %q", tc.url, tc.with,
				tc.key != "", code, errors.Join(err), tc.want, tc.says)
		}
	}
}
