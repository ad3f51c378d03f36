package role

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/identity"
)

// TestAdminCertificates asks an admin port with TLS with certificates, a token and nothing.
func TestAdminCertificates(t *testing.T) {
	g, others := newGuild(t, "x"), newGuild(t, "x")
	foreign := &guild{g.authority, "y"}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := Admin{Listener: loopback(t), TokenFile: file, Identity: g.as(t, identity.ExpertNode)}
	unready := func() error { return errors.New("because") }
	stop, err := admin.Serve(prometheus.NewRegistry(), unready, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const refused = 0 // by the handshake
	for name, tc := range map[string]struct {
		id            *identity.Source
		path          string
		authorization string
		code          int
	}{
		"metrics":            {g.as(t, identity.Metrics), "/metrics", "", http.StatusOK},
		"another role":       {g.as(t, identity.Coordinator), "/metrics", "", http.StatusOK},
		"another authority":  {others.as(t, identity.Metrics), "/metrics", "", refused},
		"another cluster":    {foreign.as(t, identity.Metrics), "/metrics", "", refused},
		"nothing":            {nil, "/metrics", "", http.StatusUnauthorized},
		"a token":            {nil, "/metrics", "Bearer secret", http.StatusOK},
		"a wrong token":      {nil, "/metrics", "Bearer other", http.StatusUnauthorized},
		"health for anybody": {nil, "/healthz", "", http.StatusOK},
		"ready for anybody":  {nil, "/readyz", "", http.StatusServiceUnavailable},
	} {
		cfg := &tls.Config{InsecureSkipVerify: true} // so do kubelets
		if tc.id != nil {
			cfg = tc.id.Client(identity.ExpertNode)
			cfg.VerifyConnection = nil // others do not believe this server either
		}
		code := getTLS(t, cfg, admin.Listener.Addr().String(), tc.path, tc.authorization)
		if code != tc.code {
			t.Errorf("%s: %d, want %d", name, code, tc.code)
		}
	}
	reply, err := http.Get("http://" + admin.Listener.Addr().String() + "/healthz")
	if err == nil {
		reply.Body.Close()
		if reply.StatusCode != http.StatusBadRequest {
			t.Errorf("plain text: %d", reply.StatusCode)
		}
	}
}

// getTLS asks under a name that is not loopback's; 0 is no answer.
func getTLS(t *testing.T, cfg *tls.Config, address, path, authorization string) (code int) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "x"
	r.Header.Set("Authorization", authorization)
	reply, err := transport.RoundTrip(r)
	if err != nil {
		return 0
	}
	reply.Body.Close()
	return reply.StatusCode
}
