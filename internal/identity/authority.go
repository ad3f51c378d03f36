package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Lifetimes that suit certificates made by hand.
const (
	AuthorityLifetime   = 10 * 365 * 24 * time.Hour
	CertificateLifetime = 365 * 24 * time.Hour
	// backdate is how long before its making a certificate is valid: clocks differ.
	backdate = 5 * time.Minute
	// maxAuthorities bounds the authorities that are trusted at a time.
	maxAuthorities = 64
	// maxNames bounds the names of one certificate.
	maxNames = 256
)

// Authority signs the certificates of one cluster.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// NewAuthority makes an authority that is valid from now on. Zero lifetime means
// AuthorityLifetime.
func NewAuthority(cluster string, now time.Time, lifetime time.Duration) (*Authority, error) {
	if err := (ID{cluster, Client}).check(); err != nil {
		return nil, err
	}
	if lifetime == 0 {
		lifetime = AuthorityLifetime
	}
	if lifetime < 0 {
		return nil, fmt.Errorf("a lifetime of %v, want a positive one", lifetime)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	c := authorityTemplate(now, lifetime)
	c.SerialNumber = serial
	c.Subject = pkix.Name{CommonName: authorityPrefix + cluster + authoritySuffix,
		SerialNumber: serial.Text(36)} // authorities of one cluster must differ
	if c, err = sign(c, nil, key, key); err != nil {
		return nil, err
	}
	return &Authority{c, key}, nil
}

// The name of an authority is its cluster's between these.
const (
	authorityPrefix = "drover "
	authoritySuffix = " authority"
)

// authorityTemplate is what certificates of authorities have in common.
func authorityTemplate(now time.Time, lifetime time.Duration) *x509.Certificate {
	return &x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
}

// PEM is the authority's certificate, which everybody may know, and its key, which
// nobody else may.
func (a *Authority) PEM() (certificate, key []byte, err error) {
	if key, err = encodeKey(a.key); err != nil {
		return nil, nil, err
	}
	return encodeCertificate(a.Certificate), key, nil
}

// ParseAuthority reads what PEM returned.
func ParseAuthority(certificate, key []byte) (*Authority, error) {
	c, err := parseCertificates(certificate)
	if err != nil {
		return nil, err
	}
	if len(c) != 1 || !c[0].IsCA {
		return nil, errors.New("not one certificate of an authority")
	}
	k, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	if !belongs(k, c[0]) {
		return nil, errors.New("the certificate and the key do not belong together")
	}
	return &Authority{c[0], k}, nil
}

// Request describes a certificate to make.
type Request struct {
	ID
	// Hosts are the DNS names and IP addresses of the process. Only those who do not know
	// roles compare them: clients of a coordinator, members of etcd.
	Hosts []string
	// Now is when the certificate begins, and Lifetime how long it lasts, at most until its
	// authority ends. Zero means CertificateLifetime.
	Now      time.Time
	Lifetime time.Duration
	// Key, in PEM, is kept, of whichever kind it is. Empty makes a new one.
	Key []byte
}

// Issue makes a certificate and returns it and its key in PEM.
func (a *Authority) Issue(r Request) (certificate, key []byte, err error) {
	if err := r.check(); err != nil {
		return nil, nil, err
	}
	private, key, err := r.key()
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	end := r.Now.Add(r.Lifetime)
	if end.After(a.Certificate.NotAfter) {
		end = a.Certificate.NotAfter
	}
	if !end.After(r.Now) {
		return nil, nil, fmt.Errorf("the authority ended at %v",
			a.Certificate.NotAfter.Format(time.RFC3339))
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: string(r.Role)},
		NotBefore: r.Now.Add(-backdate), NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: scheme, Host: r.Cluster, Path: "/" + string(r.Role)}},

		BasicConstraintsValid: true,
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	if c, err = sign(c, a.Certificate, private, a.key); err != nil {
		return nil, nil, err
	}
	return encodeCertificate(c), key, nil
}

// key is the one that is kept, as it stands in its file, or a new one.
func (r *Request) key() (crypto.Signer, []byte, error) {
	if len(r.Key) > 0 {
		k, err := parseKey(r.Key)
		return k, r.Key, err
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	text, err := encodeKey(k)
	return k, text, err
}

func (r *Request) check() error {
	if err := r.ID.check(); err != nil {
		return err
	}
	if len(r.Hosts) > maxNames {
		return fmt.Errorf("%d names, at most %d", len(r.Hosts), maxNames)
	}
	for _, h := range r.Hosts {
		if h == "" || len(h) > 253 {
			return fmt.Errorf("name %q, want a DNS name or an IP address", h)
		}
	}
	if r.Lifetime == 0 {
		r.Lifetime = CertificateLifetime
	}
	if r.Lifetime < 0 {
		return fmt.Errorf("a lifetime of %v, want a positive one", r.Lifetime)
	}
	return nil
}

// sign makes a certificate; without an issuer it is its own.
func sign(c, issuer *x509.Certificate, of, by crypto.Signer) (*x509.Certificate, error) {
	if issuer == nil {
		issuer = c
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, issuer, of.Public(), by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(raw)
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})
}

func encodeKey(k crypto.Signer) ([]byte, error) {
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: raw}), nil
}

// keyParsers are those of the PEM blocks in which tools write private keys.
var keyParsers = map[string]func([]byte) (any, error){
	keyBlock:          x509.ParsePKCS8PrivateKey,
	"EC PRIVATE KEY":  func(raw []byte) (any, error) { return x509.ParseECPrivateKey(raw) },
	"RSA PRIVATE KEY": func(raw []byte) (any, error) { return x509.ParsePKCS1PrivateKey(raw) },
}

// parseKey reads a private key. What openssl writes before one of SEC1, the curve's
// parameters, is passed over: they stand in the key, too.
func parseKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	if block == nil || keyParsers[block.Type] == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not one PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY")
	}
	k, err := keyParsers[block.Type](block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("a private key that cannot sign")
	}
	return key, nil
}

// belongs tells whether a key is a certificate's.
func belongs(k crypto.Signer, c *x509.Certificate) bool {
	public, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// parseCertificates reads all certificates of a PEM text, at least one.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			if len(bytes.TrimSpace(text)) > 0 || len(all) == 0 {
				return nil, errors.New("not certificates in PEM")
			}
			return all, nil
		}
		if text = rest; block.Type != certificateBlock {
			return nil, fmt.Errorf("a PEM block %q among certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if all = append(all, c); len(all) > maxAuthorities {
			return nil, fmt.Errorf("more than %d certificates", maxAuthorities)
		}
	}
}

// parseAuthorities reads the authorities that are trusted.
func parseAuthorities(text []byte) ([]*x509.Certificate, error) {
	all, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if !c.IsCA {
			return nil, fmt.Errorf("the certificate %q is not an authority's", c.Subject)
		}
	}
	return all, nil
}
