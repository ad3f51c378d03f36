package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// certificatesLast is longer than any test, and not much longer.
const certificatesLast = 48 * time.Hour

// authority issues certificates into a folder. The first error is kept and ends the rest.
type authority struct {
	dir, name string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	err       error
}

// pki writes the certificates of a cluster: of its API server, its components, its nodes and
// its administrator, all from keys that are made now.
func pki(fs *flag.FlagSet, args []string) error {
	dir := fs.String("dir", "", "folder to write to")
	server := fs.String("server", "", "IP address of the API server, which serves port 6443")
	service := fs.String("service", "", "IP address of the service kubernetes")
	nodes := fs.String("nodes", "", "NAME=IP of each node, separated by commas")
	_ = fs.Parse(args) // it exits on an error
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	ca, front := newAuthority(*dir, "ca"), newAuthority(*dir, "front-proxy-ca")
	ca.issue("apiserver", "kube-apiserver", "", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local", *server, *service)
	ca.issue("apiserver-client", "kube-apiserver", "system:masters")
	front.issue("front-proxy", "front-proxy-client", "")
	ca.accounts()
	url := "https://" + *server + ":6443"
	for user, cn := range map[string]string{
		"controller-manager": "system:kube-controller-manager", "scheduler": "system:kube-scheduler",
		"proxy": "system:kube-proxy", "netpol": "lab:netpol", "volumes": "lab:volumes",
	} {
		ca.user(url, user, cn, "")
	}
	ca.user(url, "admin", "lab:admin", "system:masters")
	for _, n := range strings.FieldsFunc(*nodes, func(r rune) bool { return r == ',' }) {
		name, ip, _ := strings.Cut(n, "=")
		ca.user(url, "node-"+name, "system:node:"+name, "system:nodes")
		ca.issue("kubelet-"+name, "system:node:"+name, "", name, ip)
	}
	if ca.err != nil {
		return ca.err
	}
	return front.err
}

func newAuthority(dir, name string) *authority {
	a := &authority{dir: dir, name: name}
	cert := certificate(name, "")
	cert.IsCA, cert.BasicConstraintsValid = true, true
	cert.KeyUsage = x509.KeyUsageCertSign
	a.cert = cert // its own issuer
	a.key = a.sign(name, cert)
	return a
}

func certificate(cn, group string) *x509.Certificate {
	c := &x509.Certificate{
		Subject:      pkix.Name{CommonName: cn},
		SerialNumber: new(big.Int).SetBytes([]byte(rand.Text())[:16]),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificatesLast),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if group != "" {
		c.Subject.Organization = []string{group}
	}
	return c
}

// issue writes FILE.crt and FILE.key for a name, of a group if there is one, with names and
// addresses at which it serves.
func (a *authority) issue(file, cn, group string, serves ...string) {
	c := certificate(cn, group)
	for _, s := range serves {
		if ip := net.ParseIP(s); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, s)
		}
	}
	a.sign(file, c)
}

// sign makes a key for c and writes both.
func (a *authority) sign(file string, c *x509.Certificate) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.fail(err)
		return nil
	}
	by := a.key
	if c.IsCA {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), by)
	a.write(file+".crt", "CERTIFICATE", der, err)
	der, err = x509.MarshalECPrivateKey(key)
	a.write(file+".key", "EC PRIVATE KEY", der, err)
	return key
}

// accounts writes the key pair that signs the tokens of service accounts.
func (a *authority) accounts() {
	key := a.sign("accounts", certificate("accounts", ""))
	if key == nil {
		return
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	a.write("accounts.pub", "PUBLIC KEY", der, err)
}

// user issues a certificate and writes NAME.kubeconfig, which refers to its files.
func (a *authority) user(url, name, cn, group string) {
	a.issue(name, cn, group)
	file := func(name string) string { return filepath.Join(a.dir, name) }
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "lab",
"contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
"clusters": [{"name": "lab", "cluster": {"server": %q, "certificate-authority": %q}}],
"users": [{"name": "lab", "user": {"client-certificate": %q, "client-key": %q}}]}
`, url, file("ca.crt"), file(name+".crt"), file(name+".key"))
	a.fail(os.WriteFile(file(name+".kubeconfig"), []byte(text), 0o600))
}

func (a *authority) write(file, kind string, der []byte, err error) {
	if err == nil {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		err = os.WriteFile(filepath.Join(a.dir, file), text, 0o600)
	}
	a.fail(err)
}

func (a *authority) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}
