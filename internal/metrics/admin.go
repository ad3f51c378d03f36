package metrics

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"drover/internal/identity"
)

// AdminOptions describes the HTTP server for those who run a process. Gatherer and Unready
// are required.
type AdminOptions struct {
	Gatherer prometheus.Gatherer
	// Unready says why the process is not ready, nil if it is.
	Unready func() error
	// Token lets machines other than this one read the metrics. Nil means that there is none.
	Token *Token
}

// NewAdmin returns the server: /healthz and /readyz for anybody, /metrics for this machine,
// for who has the token, and, where the server's TLS is an identity.Source's OpenServer, for
// who has a certificate of the cluster.
func NewAdmin(o AdminOptions) *http.Server {
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
		MaxHeaderBytes: 16 << 10}
}

var errNotAllowed = errors.New("metrics are for this machine, for who has the token of " +
	"--metrics-token-file (Authorization: Bearer), and for client certificates of the cluster")

// allowed tells whether somebody may read the metrics. A page in a browser on this machine
// that has a name of its own for it is not this machine.
func (o *AdminOptions) allowed(r *http.Request) error {
	switch {
	case identity.PeerOf(r.TLS) != identity.ID{}: // the handshake has checked it
	case isLoopback(r.RemoteAddr) && isLoopback(r.Host):
	case o.Token != nil && o.Token.shownBy(r):
	default:
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
