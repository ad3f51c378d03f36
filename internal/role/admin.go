package role

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/metrics"
)

// Admin is where a role tells those who run it how it is.
type Admin struct {
	// Listener serves /healthz, /readyz and /metrics. Nil serves none.
	Listener net.Listener
	// TokenFile is as in metrics.AdminOptions.
	TokenFile string
}

// Serve serves until stop. What is registered with the registry later is told, too.
func (a Admin) Serve(g prometheus.Gatherer, unready func() error, log *slog.Logger) (
	stop func(), err error) {
	if a.Listener == nil {
		return func() {}, nil
	}
	server, err := metrics.NewAdmin(metrics.AdminOptions{Gatherer: g, Unready: unready,
		TokenFile: a.TokenFile})
	if err != nil {
		_ = a.Listener.Close() // nothing was served
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(a.Listener); err != http.ErrServerClosed {
			log.Error("the admin server ended", "error", err)
		}
	}()
	log.Info("serving health and metrics", "admin", a.Listener.Addr().String())
	return func() {
		_ = server.Close() // scrapes come again
		<-done
	}, nil
}

// ListenAdmin listens on an address; none is no listener.
func ListenAdmin(address, tokenFile string) (Admin, error) {
	if address == "none" || address == "" {
		return Admin{}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return Admin{}, fmt.Errorf("serve health and metrics: %w", err)
	}
	return Admin{l, tokenFile}, nil
}
