package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestEtcdAwaySaysWhy lists through stores that cannot reach etcd: the error names the address
// and what is wrong there.
func TestEtcdAwaySaysWhy(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // which accepts nothing
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	unknown := &tls.Config{RootCAs: x509.NewCertPool()}
	for name, tc := range map[string]struct {
		address string
		tls     *tls.Config
		want    string
	}{
		"nobody listens":      {closed.Addr().String(), nil, "connection refused"},
		"nobody answers":      {silent.Addr().String(), nil, "connected, no answer"},
		"an unknown CA":       {secure.Listener.Addr().String(), unknown, "unknown authority"},
		"plain text to TLS":   {secure.Listener.Addr().String(), nil, "connected in plain text, then"},
		"TLS to what has not": {silent.Addr().String(), unknown, "connected, no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenEtcd(EtcdConfig{Endpoints: []string{tc.address}, TLS: tc.tls})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, _, err = s.List(ctx, "x")
			if !errors.Is(err, context.DeadlineExceeded) ||
				!strings.Contains(err.Error(), tc.address) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s and %s", err, tc.address, tc.want)
			}
		})
	}
}
