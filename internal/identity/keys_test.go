package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKeys reads keys as other tools write them: those of authorities, and those that a
// renewal keeps.
func TestKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key    crypto.Signer
		blocks []*pem.Block
	}{
		"SEC1": {ec, []*pem.Block{{Type: "EC PRIVATE KEY", Bytes: sec1}}},
		"SEC1 after its curve": {ec, []*pem.Block{{Type: "EC PARAMETERS", Bytes: []byte{5, 0}},
			{Type: "EC PRIVATE KEY", Bytes: sec1}}},
		"PKCS#1": {old, []*pem.Block{{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(old)}}},
		"PKCS#8 RSA":     {old, []*pem.Block{pkcs8(t, old)}},
		"PKCS#8 ECDSA":   {ec, []*pem.Block{pkcs8(t, ec)}},
		"PKCS#8 Ed25519": {edwards, []*pem.Block{pkcs8(t, edwards)}},
	} {
		t.Run(name, func(t *testing.T) {
			var text []byte
			for _, b := range tc.blocks {
				text = append(text, pem.EncodeToMemory(b)...)
			}
			checkKey(t, foreignAuthority(t, tc.key), text)
		})
	}
}

func pkcs8(t *testing.T, key any) *pem.Block {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &pem.Block{Type: "PRIVATE KEY", Bytes: raw}
}

// foreignAuthority is the certificate of an authority that another tool made for a key.
func foreignAuthority(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	c, err := sign(&x509.Certificate{SerialNumber: big.NewInt(1),
		Subject: pkix.Name{CommonName: "foreign"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, nil, key, key)
	if err != nil {
		t.Fatal(err)
	}
	return encodeCertificate(c)
}

// checkKey uses a key for an authority, and for a process whose certificate is renewed.
func checkKey(t *testing.T, certificate, key []byte) {
	t.Helper()
	a, err := ParseAuthority(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, a, Request{ID: ID{"x", ExpertNode}})
	path := filepath.Join(dir, KeyFile)
	if err := os.WriteFile(path, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir, Request{ID: ID{"x", ExpertNode}, Now: time.Now(), Key: key}); err != nil {
		t.Fatal(err)
	}
	if err := a.Renew(dir, time.Now(), 0, false); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(path); err != nil || !bytes.Equal(kept, key) {
		t.Errorf("the key file changed, %v", err)
	}
	node := source(t, dir, Events{})
	other := source(t, folder(t, a, Request{ID: ID{"x", Coordinator}}), Events{})
	atServer, atClient := shake(t, node.Server(Coordinator), other.Client(ExpertNode))
	if atServer != nil || atClient != nil {
		t.Errorf("handshake: %v, %v", atServer, atClient)
	}
	if _, err := ParseAuthority(encodeCertificate(authority(t, "x").Certificate), key); err == nil {
		t.Error("a key of another authority was taken")
	}
}

// TestBadKeys checks what is refused.
func TestBadKeys(t *testing.T) {
	agree, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, good, err := authority(t, "x").PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"empty":       nil,
		"not PEM":     []byte("key"),
		"two keys":    append(bytes.Clone(good), good...),
		"certificate": encodeCertificate(authority(t, "x").Certificate),
		"parameters":  pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{5, 0}}),
		"cannot sign": pem.EncodeToMemory(pkcs8(t, agree)),
		"not DER":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("x")}),
		"other kind":  pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: []byte("x")}),
	} {
		if k, err := parseKey(text); err == nil {
			t.Errorf("%s: a key %T", name, k)
		}
	}
}
