package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"drover/internal/identity"
	"drover/internal/role"
)

// adminPort serves an admin port, in plain text or with an identity, that is ready when state
// returns nil.
func adminPort(t *testing.T, dir string, state func() error) (address string) {
	t.Helper()
	var id *identity.Source
	if dir != "" {
		var err error
		if id, err = identity.Open(dir, identity.Events{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(id.Close)
	}
	a, err := role.ListenAdmin("127.0.0.1:0", "", id)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := a.Serve(prometheus.NewRegistry(), state, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return a.Listener.Addr().String()
}

// listen is a port of loopback that does nothing.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // it may be closed already
	return l
}

// TestHealth asks admin ports, and what is none, in plain text and by TLS.
func TestHealth(t *testing.T) {
	dir, others := certificates(t, "etcd", "expertnode", "client"), certificates(t, "etcd")
	of := func(role string) string { return filepath.Join(dir, role) }
	ready := func() error { return nil }
	away := func() error { return errors.New("because") }
	plain, secure := adminPort(t, "", ready), adminPort(t, of("etcd"), ready)
	unready := adminPort(t, of("etcd"), away)
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+plain+"/readyz", http.StatusFound)
	}))
	defer odd.Close()
	closed, silent := listen(t), listen(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"plain":        {[]string{"--plaintext", plain}, exitDone, "ready"},
		"live":         {[]string{"--live", "--plaintext", plain}, exitDone, "ok"},
		"TLS":          {[]string{"--tls", of("etcd"), secure}, exitDone, "ready"},
		"by its name":  {[]string{"--ca", of("client") + "/ca.crt", secure}, exitDone, "ready"},
		"not ready":    {[]string{"--tls", of("etcd"), unready}, exitFailed, "drover: not ready: because"},
		"but live":     {[]string{"--live", "--tls", of("etcd"), unready}, exitDone, "ok"},
		"another role": {[]string{"--tls", of("client"), "--role", "etcd", secure}, exitDone, "ready"},
		"the wrong role": {[]string{"--tls", of("client"), secure}, exitFailed,
			"a certificate of role etcd, want client"},
		"another authority": {[]string{"--tls", others + "/etcd", secure}, exitFailed,
			"unknown authority"},
		"TLS to plain text": {[]string{"--tls", of("etcd"), plain}, exitFailed, "TLS handshake"},
		"plain text to TLS": {[]string{"--plaintext", secure}, exitFailed, "status 400"},
		"a redirection": {[]string{"--plaintext", odd.Listener.Addr().String()}, exitFailed,
			"status 302"},
		"nobody": {[]string{"--plaintext", closed.Addr().String()}, exitFailed,
			"connection refused"},
		"silence": {[]string{"--plaintext", "--timeout", "50ms", silent.Addr().String()}, exitFailed,
			"did not answer within 50ms"},
		"no port":           {[]string{"--plaintext", "127.0.0.1"}, exitUsage, "must be HOST:PORT"},
		"two":               {[]string{plain, secure}, exitUsage, "want one ADDR"},
		"no time":           {[]string{"--timeout", "0s"}, exitUsage, "more than 0"},
		"both ways":         {[]string{"--live", "--grpc"}, exitUsage, "not both"},
		"both kinds of TLS": {[]string{"--tls", "a", "--ca", "b"}, exitUsage, "give one of"},
		"nothing said":      {[]string{plain}, exitUsage, "--tls DIR is needed"},
		"a role without":    {[]string{"--plaintext", "--role", "etcd"}, exitUsage, "goes with --tls"},
		"no such role":      {[]string{"--tls", of("etcd"), "--role", "x"}, exitUsage, "unknown"},
		"no folder":         {[]string{"--tls", dir + "/none"}, exitFailed, "no such file"},
		"not this machine":  {[]string{"--plaintext", "192.0.2.1:9090"}, exitFailed, "not loopback"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := drover(t, append([]string{"health"}, tc.args...)...)
			text := out + errs
			if code != tc.code || !strings.Contains(text, tc.says) {
				t.Errorf("exit code %d, %q; want %d and %q", code, text, tc.code, tc.says)
			}
			if lines := strings.Count(text, "\n"); code != exitUsage && lines != 1 {
				t.Errorf("%d lines: %q", lines, text)
			}
		})
	}
}

// TestHealthOfClients asks a port of gRPC that becomes ready.
func TestHealthOfClients(t *testing.T) {
	l := listen(t)
	server, state := grpc.NewServer(), health.NewServer()
	healthv1.RegisterHealthServer(server, state)
	var served atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		served.Store(server.Serve(l) == nil)
	}()
	t.Cleanup(func() {
		server.Stop()
		if <-done; !served.Load() {
			t.Error("the server ended with an error")
		}
	})
	for status, want := range map[healthv1.HealthCheckResponse_ServingStatus]struct {
		code int
		says string
	}{
		healthv1.HealthCheckResponse_NOT_SERVING: {exitFailed, "drover: not ready: NOT_SERVING\n"},
		healthv1.HealthCheckResponse_SERVING:     {exitDone, "ready\n"},
	} {
		state.SetServingStatus("", status)
		code, out, errs := drover(t, "health", "--grpc", "--plaintext", l.Addr().String())
		if code != want.code || out+errs != want.says {
			t.Errorf("%s: exit code %d, %q, want %d, %q", status, code, out+errs, want.code, want.says)
		}
	}
	closed := listen(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, errs := drover(t, "health", "--grpc", "--plaintext", closed.Addr().String())
	if code != exitFailed || out != "" || strings.Count(errs, "\n") != 1 {
		t.Errorf("nobody: exit code %d, %q", code, out+errs)
	}
}
