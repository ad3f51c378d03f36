package role

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/identity"
	"drover/internal/metrics"
	"drover/internal/reload"
)

// Admin is where a role tells those who run it how it is.
type Admin struct {
	// Listener serves /healthz, /readyz and /metrics. Nil serves none.
	Listener net.Listener
	// TokenFile holds the token that lets machines other than this one read the metrics; it is
	// followed. Empty means that there is none.
	TokenFile string
	// Identity is the process's: the port is HTTPS, and certificates of the cluster may read
	// the metrics. Nil means plain HTTP.
	Identity *identity.Source
	// Clients is that of the ports for clients, where it is another one: metrics tell when its
	// certificate expires, too. Nil means none.
	Clients *identity.Source
}

// certificates are metrics of the certificates that the process shows.
func (a Admin) certificates() prometheus.Gatherer {
	all := map[string]*identity.Source{}
	if a.Identity != nil {
		all["cluster"] = a.Identity
	}
	if a.Clients != nil {
		all["clients"] = a.Clients
	}
	r := prometheus.NewRegistry()
	r.MustRegister(metrics.OfCertificates(all))
	return r
}

// Serve serves until stop. What is registered with the registry later is told, too.
func (a Admin) Serve(g prometheus.Gatherer, unready func() error, log *slog.Logger) (
	stop func(), err error) {
	if a.Listener == nil {
		return func() {}, nil
	}
	options, undo := metrics.AdminOptions{Gatherer: prometheus.Gatherers{g, a.certificates()},
		Unready: unready}, func() {}
	if a.TokenFile != "" {
		options.Token, err = metrics.OpenToken(a.TokenFile, tokenEvents(log))
		if err != nil {
			_ = a.Listener.Close() // nothing was served
			return nil, err
		}
		undo = options.Token.Close
	}
	server := metrics.NewAdmin(options)
	server.ErrorLog = errorLog(log)
	l := bound(a.Listener, ofFiles(adminPart), log)
	l.serveHTTP(server)
	serve := server.Serve
	if a.Identity != nil {
		server.TLSConfig = a.Identity.OpenServer(identity.Roles...)
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(l); err != http.ErrServerClosed {
			log.Error("the admin server ended", "error", err)
		}
	}()
	log.Info("serving health and metrics", "admin", a.Listener.Addr().String())
	return func() {
		_ = server.Close() // scrapes come again
		<-done
		undo()
	}, nil
}

// tokenEvents are what a log should say of the token for metrics.
func tokenEvents(log *slog.Logger) reload.Events {
	return reload.Events{
		Reloaded: func() { log.Info("a new token for metrics is in force") },
		Failed: func(err error) {
			log.Error("the new token for metrics cannot be used; the old one stays", "error", err)
		},
	}
}

// ListenAdmin listens on an address; none is no listener.
func ListenAdmin(address, tokenFile string, id *identity.Source) (Admin, error) {
	if address == "none" || address == "" {
		return Admin{}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return Admin{}, fmt.Errorf("serve health and metrics: %w", err)
	}
	return Admin{Listener: l, TokenFile: tokenFile, Identity: id}, nil
}
