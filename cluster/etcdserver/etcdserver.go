// Package etcdserver runs a real etcd member inside this process.
//
// It stands apart from package cluster so that only a program that serves etcd links
// the server.
package etcdserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Options says what an etcd member serves. The zero value of all but Dir is a single
// member on a free port of the loopback interface, which starts in a tenth of a second.
type Options struct {
	// Dir is the folder of the member's state. It is made if it is missing, and stays
	// when the server closes.
	Dir string
	// ClientURL is where clients are served. Empty means a free port of 127.0.0.1.
	ClientURL string
	// AdvertiseClientURL is where clients of other machines find the member. Empty
	// means ClientURL.
	AdvertiseClientURL string
	// Name names the member within InitialCluster. Empty means "drover".
	Name string
	// PeerURL is where the other members are served, AdvertisePeerURL where they find
	// this one. Empty means a free port of 127.0.0.1, and PeerURL.
	PeerURL, AdvertisePeerURL string
	// InitialCluster lists all members as name=URL, separated by commas. Empty means
	// that this is the only one.
	InitialCluster string
	// Join says that the cluster runs already and this member is new in it.
	Join bool
	// ClientTLS and PeerTLS secure https URLs: files of a certificate, its key, and
	// the authority that the other side's certificate must come from.
	ClientTLS, PeerTLS TLSFiles
	// QuotaBytes bounds the state. Zero means etcd's default, 2 GiB.
	QuotaBytes int64
	// StartTimeout bounds how long Start waits for a leader. Zero means 30 s.
	StartTimeout time.Duration
	// Warn is called with what etcd logs as a warning or worse. Nil drops it.
	Warn func(message string)
}

// TLSFiles names the files of one side's TLS identity. Empty means plain text.
type TLSFiles struct {
	Certificate, Key, Authority string
	// Names are the common names that the other side's certificate may have. Empty means
	// any.
	Names []string
}

// check reads the files now: etcd would report a bad one only when a client connects.
func (f TLSFiles) check() error {
	if f.Certificate == "" && f.Key == "" && f.Authority == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(f.Certificate, f.Key); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if f.Authority == "" {
		return nil
	}
	_, err := os.ReadFile(f.Authority)
	return err
}

// loopbackAny asks for any free port; the listener that etcd opens there stays open, so
// that nobody else can take it in between.
const loopbackAny = "http://127.0.0.1:0"

// Server is a running etcd member.
type Server struct {
	etcd     *embed.Etcd
	endpoint string
}

// ErrInUse says that another member, of this process or another, has its state in the folder.
var ErrInUse = errors.New("another member uses the folder")

// Start starts a member and returns when it serves, or with an error.
func Start(ctx context.Context, opts Options) (*Server, error) {
	var last atomic.Pointer[string] // what etcd warned of last
	warn := opts.Warn
	opts.Warn = func(message string) {
		last.Store(&message)
		if warn != nil {
			warn(message)
		}
	}
	cfg, err := opts.config()
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if inUse(filepath.Join(opts.Dir, "member", "snap", "db")) {
		return nil, fmt.Errorf("etcd: start in %s: %w", opts.Dir, ErrInUse) // etcd would wait
	}
	etcd, err := start(cfg)
	if why := last.Load(); errors.Is(err, errGaveUp) && why != nil {
		err = fmt.Errorf("%w: %s", err, *why)
	}
	if err != nil {
		return nil, fmt.Errorf("etcd: start in %s: %w", opts.Dir, err)
	}
	limit := time.NewTimer(opts.StartTimeout)
	defer limit.Stop()
	select {
	case <-etcd.Server.ReadyNotify():
		return &Server{etcd, endpoint(etcd, cfg)}, nil
	case err = <-etcd.Err():
	case <-etcd.Server.StopNotify():
		err = errors.New("stopped by itself")
	case <-limit.C:
		err = fmt.Errorf("no leader after %v; are the other members of %q up?",
			opts.StartTimeout, cfg.InitialCluster)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	etcd.Server.Stop() // Close would wait for a server that never became ready
	etcd.Close()
	return nil, fmt.Errorf("etcd: start in %s: %w", opts.Dir, err)
}

// errGaveUp is what is known of a start that etcd ended by itself, beside its last warning.
var errGaveUp = errors.New("etcd gave up")

// start calls etcd's start in a goroutine of its own: what etcd takes for fatal ends
// that goroutine, not the process, and where it panics, as without room on the disk, it has
// warned of why.
func start(cfg *embed.Config) (etcd *embed.Etcd, err error) {
	done := make(chan struct{})
	err = errGaveUp
	go func() {
		defer close(done)
		defer func() {
			if recover() != nil {
				etcd, err = nil, errGaveUp
			}
		}()
		etcd, err = embed.StartEtcd(cfg)
	}()
	<-done
	return etcd, err
}

// endpoint returns the URL on which the member really listens.
func endpoint(etcd *embed.Etcd, cfg *embed.Config) string {
	u := cfg.ListenClientUrls[0]
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return u.String()
	}
	return u.Scheme + "://" + etcd.Clients[0].Addr().String()
}

// Endpoint returns the URL of the client port.
func (s *Server) Endpoint() string { return s.endpoint }

// Done is closed when the member has stopped, whether closed or by a failure.
func (s *Server) Done() <-chan struct{} { return s.etcd.Server.StopNotify() }

// Close stops the member and returns when it has.
func (s *Server) Close() { s.etcd.Close() }

func (o *Options) setDefaults() {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&o.Name, "drover")
	set(&o.ClientURL, loopbackAny)
	set(&o.AdvertiseClientURL, o.ClientURL)
	set(&o.PeerURL, loopbackAny)
	set(&o.AdvertisePeerURL, o.PeerURL)
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
}

func (o *Options) config() (*embed.Config, error) {
	if o.Dir == "" {
		return nil, errors.New("no folder for the state; set Dir")
	}
	if o.StartTimeout < 0 || o.QuotaBytes < 0 {
		return nil, errors.New("the start timeout and the quota must not be negative")
	}
	o.setDefaults()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name = o.Dir, o.Name
	for _, f := range []struct {
		urls  *[]url.URL
		value string
	}{
		{&cfg.ListenClientUrls, o.ClientURL}, {&cfg.AdvertiseClientUrls, o.AdvertiseClientURL},
		{&cfg.ListenPeerUrls, o.PeerURL}, {&cfg.AdvertisePeerUrls, o.AdvertisePeerURL},
	} {
		u, err := url.Parse(f.value)
		if err != nil || u.Scheme == "" || u.Host+u.Path == "" {
			return nil, fmt.Errorf("bad address %q, want http://host:port", f.value)
		}
		*f.urls = []url.URL{*u}
	}
	cfg.InitialCluster = o.InitialCluster
	if o.InitialCluster == "" {
		cfg.InitialCluster = o.Name + "=" + o.AdvertisePeerURL
		// Nobody else can be elected, so nothing speaks for a slow clock.
		cfg.TickMs, cfg.ElectionMs = 10, 100
	}
	if o.Join {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	setTLS(cfg, o)
	for _, f := range []TLSFiles{o.ClientTLS, o.PeerTLS} {
		if err := f.check(); err != nil {
			return nil, err
		}
	}
	cfg.EnableGRPCGateway = false
	cfg.QuotaBackendBytes = o.QuotaBytes
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger(o.Warn))
	return cfg, nil
}

func setTLS(cfg *embed.Config, o *Options) {
	c, p := &cfg.ClientTLSInfo, &cfg.PeerTLSInfo
	c.CertFile, c.KeyFile = o.ClientTLS.Certificate, o.ClientTLS.Key
	c.TrustedCAFile, c.ClientCertAuth = o.ClientTLS.Authority, o.ClientTLS.Authority != ""
	p.CertFile, p.KeyFile = o.PeerTLS.Certificate, o.PeerTLS.Key
	p.TrustedCAFile, p.ClientCertAuth = o.PeerTLS.Authority, o.PeerTLS.Authority != ""
	c.AllowedCNs, p.AllowedCNs = o.ClientTLS.Names, o.PeerTLS.Names
	// Who connects is known by the common name; the address it comes from says nothing.
	c.SkipClientSANVerify, p.SkipClientSANVerify = true, true
	if c.CertFile != "" || p.CertFile != "" {
		cfg.TlsMinVersion = "TLS1.3"
	}
}
