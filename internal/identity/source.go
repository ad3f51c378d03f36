package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"drover/internal/reload"
)

// The files of a folder, with the names of a TLS Secret of Kubernetes.
const (
	AuthorityFile   = "ca.crt"
	CertificateFile = "tls.crt"
	KeyFile         = "tls.key"
)

// Events report what happens to a Source. Each may be nil.
type Events struct {
	// Reloaded is called when new files are in force.
	Reloaded func(id ID, notAfter time.Time)
	// Failed is called when files changed and cannot be used: the old ones stay in force.
	Failed func(error)
	// Refused is called when the other side of a connection is not let in.
	Refused func(address string, err error)
}

// Source is a process's own identity and the authorities that it trusts, from a folder
// that it follows.
type Source struct {
	dir    string
	events Events
	files  *reload.Files
	now    atomic.Pointer[material]
}

// material is what the files held; it is replaced whole.
type material struct {
	id          ID
	certificate tls.Certificate
	roots       *x509.CertPool
	signedUntil time.Time
}

// Open reads the folder and follows it until Close.
func Open(dir string, events Events) (*Source, error) {
	s := &Source{dir: dir, events: events}
	paths := []string{filepath.Join(dir, AuthorityFile), filepath.Join(dir, CertificateFile),
		filepath.Join(dir, KeyFile)}
	var err error
	s.files, err = reload.Open(paths, s.use, reload.Events{Failed: events.Failed,
		Reloaded: func() {
			if events.Reloaded != nil {
				events.Reloaded(s.ID(), s.NotAfter())
			}
		}})
	if err != nil {
		return nil, fmt.Errorf("identity of %s: %w", dir, err)
	}
	return s, nil
}

// OpenAs is Open for a process that needs a role in a cluster.
func OpenAs(dir string, want ID, events Events) (*Source, error) {
	s, err := Open(dir, events)
	if err != nil {
		return nil, err
	}
	if s.ID() != want {
		s.Close()
		return nil, fmt.Errorf("identity of %s: the certificate is for %s, this process is %s",
			dir, s.ID(), want)
	}
	return s, nil
}

// Close stops following the folder.
func (s *Source) Close() { s.files.Close() }

// Reload reads the folder now, and says whether something new is in force.
func (s *Source) Reload() (changed bool, err error) { return s.files.Check() }

// ID is who the process is.
func (s *Source) ID() ID { return s.now.Load().id }

// NotAfter is when its certificate expires.
func (s *Source) NotAfter() time.Time { return s.now.Load().certificate.Leaf.NotAfter }

// SignedUntil is when who signed it expires, an authority or one between, and the certificate
// with it: the last time, if the files have more than one way to an authority.
func (s *Source) SignedUntil() time.Time { return s.now.Load().signedUntil }

// Dir is the folder.
func (s *Source) Dir() string { return s.dir }

// use takes the contents of the files.
func (s *Source) use(contents [][]byte) error {
	roots, err := parseAuthorities(contents[0])
	if err != nil {
		return fmt.Errorf("%s: %w", AuthorityFile, err)
	}
	c, err := tls.X509KeyPair(contents[1], contents[2])
	if err != nil {
		return fmt.Errorf("%s and %s: %w", CertificateFile, KeyFile, err)
	}
	m := &material{certificate: c, roots: x509.NewCertPool()}
	for _, r := range roots {
		m.roots.AddCert(r)
	}
	if m.id, err = Of(c.Leaf); err != nil {
		return fmt.Errorf("%s: %w", CertificateFile, err)
	}
	if old := s.now.Load(); old != nil && old.id != m.id {
		return fmt.Errorf("%s is for %s now, it was for %s: that needs a new start",
			CertificateFile, m.id, old.id)
	}
	chain, err := parseChain(c)
	if err != nil {
		return fmt.Errorf("%s: %w", CertificateFile, err)
	}
	ways, err := m.ways(chain, x509.ExtKeyUsageAny)
	if err != nil {
		return fmt.Errorf("%s against %s: %w", CertificateFile, AuthorityFile, err)
	}
	for _, way := range ways {
		if end := firstEnd(way[1:]); end.After(m.signedUntil) {
			m.signedUntil = end
		}
	}
	s.now.Store(m)
	return nil
}

func parseChain(c tls.Certificate) ([]*x509.Certificate, error) {
	chain := []*x509.Certificate{c.Leaf}
	for _, raw := range c.Certificate[1:] {
		x, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, err
		}
		chain = append(chain, x)
	}
	return chain, nil
}

// firstEnd is when the first of some certificates expires.
func firstEnd(all []*x509.Certificate) time.Time {
	end := all[0].NotAfter
	for _, c := range all[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// ways checks a chain of certificates against the authorities: each way begins with the
// chain's first and ends with an authority.
func (m *material) ways(chain []*x509.Certificate, usage x509.ExtKeyUsage) (
	[][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	return chain[0].Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{usage}})
}

// verify checks a chain of certificates against the authorities and reads its identity.
func (m *material) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (ID, error) {
	if _, err := m.ways(chain, usage); err != nil {
		return ID{}, err
	}
	return Of(chain[0])
}

// admit checks the other side of a connection.
func (m *material) admit(c tls.ConnectionState, usage x509.ExtKeyUsage, roles []Role) error {
	if len(c.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	id, err := m.verify(c.PeerCertificates, usage)
	switch {
	case err != nil:
		return err
	case id.Cluster != m.id.Cluster:
		return fmt.Errorf("a certificate of cluster %q, this is %q", id.Cluster, m.id.Cluster)
	case !slices.Contains(roles, id.Role):
		return fmt.Errorf("a certificate of role %s, want %s", id.Role, join(roles))
	}
	return nil
}

// Server is the configuration of a port that only these roles may reach (I1).
func (s *Source) Server(roles ...Role) *tls.Config { return s.server(roles, false) }

// OpenServer is Server for a port that also takes connections without a certificate:
// whoever serves it must ask for the Peer.
func (s *Source) OpenServer(roles ...Role) *tls.Config { return s.server(roles, true) }

func (s *Source) server(roles []Role, open bool) *tls.Config {
	base := func(m *material) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.certificate},
			// The certificate is checked in VerifyConnection, as strictly as by
			// RequireAndVerifyClientCert: that would not tell an operator who was refused.
			ClientAuth: tls.RequestClientCert, ClientCAs: m.roots,
			NextProtos: []string{"h2", "http/1.1"},
			// A resumed session would have been checked by older files.
			SessionTicketsDisabled: true,
			// Frames are large: small first records cost more than they bring forward.
			DynamicRecordSizingDisabled: true,
		}
	}
	outer := base(s.now.Load())
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		m := s.now.Load()
		cfg := base(m)
		cfg.VerifyConnection = func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 && open {
				return nil
			}
			err := m.admit(c, x509.ExtKeyUsageClientAuth, roles)
			if err != nil && s.events.Refused != nil {
				s.events.Refused(hello.Conn.RemoteAddr().String(), err)
			}
			return err
		}
		return cfg, nil
	}
	return outer
}

// Client is the configuration of connections to a role (I1).
func (s *Source) Client(role Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.now.Load().certificate, nil
		},
		// VerifyConnection checks the chain, the cluster and the role. The name of the host
		// is not compared: what is at an address is what its certificate says that it is.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			return s.now.Load().admit(c, x509.ExtKeyUsageServerAuth, []Role{role})
		},
		DynamicRecordSizingDisabled: true,
	}
}

// HostClient is the configuration of connections to a server that knows no roles, such as an
// etcd that others run: the authority is checked and the name of the host. The certificate in
// the folder, if there is one, shows who asks; it is read anew for each connection.
func HostClient(dir string) (*tls.Config, error) {
	cfg, err := TrustFile(filepath.Join(dir, AuthorityFile))
	if err != nil {
		return nil, err
	}
	certificate, key := filepath.Join(dir, CertificateFile), filepath.Join(dir, KeyFile)
	if _, err := os.Stat(certificate); errors.Is(err, fs.ErrNotExist) {
		return cfg, nil
	}
	if _, err := tls.LoadX509KeyPair(certificate, key); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(certificate, key)
		return &c, err
	}
	return cfg, nil
}

// TrustFile is the configuration of connections without a certificate of one's own, to a
// server whose certificate names its host and was signed by an authority in one of some files.
func TrustFile(paths ...string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		roots, err := parseAuthorities(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, r := range roots {
			cfg.RootCAs.AddCert(r)
		}
	}
	return cfg, nil
}
