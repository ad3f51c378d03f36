package metrics

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminOptions describes the HTTP server for those who run a process. Gatherer and Unready
// are required.
type AdminOptions struct {
	Gatherer prometheus.Gatherer
	// Unready says why the process is not ready, nil if it is.
	Unready func() error
	// TokenFile holds the token that lets machines other than this one read the metrics. It
	// is read anew each time. Empty means that there is none.
	TokenFile string
}

// maxTokenBytes bounds a token.
const maxTokenBytes = 4 << 10

// readToken reads the token.
func (o *AdminOptions) readToken() ([]byte, error) {
	f, err := os.Open(o.TokenFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenBytes+1))
	if err != nil {
		return nil, err
	}
	if text = bytes.TrimSpace(text); len(text) == 0 || len(text) > maxTokenBytes {
		return nil, fmt.Errorf("%s must hold a token of 1 to %d bytes", o.TokenFile, maxTokenBytes)
	}
	return text, nil
}

// NewAdmin returns the server: /healthz and /readyz for anybody, /metrics for this machine,
// for who has the token, and for who has shown a certificate that the server's TLS, if it
// has some, has verified.
func NewAdmin(o AdminOptions) (*http.Server, error) {
	if o.TokenFile != "" {
		if _, err := o.readToken(); err != nil {
			return nil, fmt.Errorf("read the token for metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // who left needs no answer
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Unready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	show := promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4,
		Timeout: 10 * time.Second})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if err := o.allowed(r); err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		show.ServeHTTP(w, r)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10}, nil
}

var errNotAllowed = errors.New("metrics are for this machine, for who has the token of " +
	"--metrics-token-file (Authorization: Bearer), and for client certificates of the cluster")

// allowed tells whether somebody may read the metrics. A page in a browser on this machine
// that has a name of its own for it is not this machine.
func (o *AdminOptions) allowed(r *http.Request) error {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return nil
	}
	if isLoopback(r.RemoteAddr) && isLoopback(r.Host) {
		return nil
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || o.TokenFile == "" {
		return errNotAllowed
	}
	token, err := o.readToken()
	if err != nil {
		return errNotAllowed
	}
	want, got := sha256.Sum256(token), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return errNotAllowed
	}
	return nil
}

// isLoopback tells whether an address, with or without a port, is one of this machine.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
