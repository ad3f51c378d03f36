package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// AuthorityKeyFile holds an authority's key, beside its AuthorityFile.
const AuthorityKeyFile = "ca.key"

// SaveAuthority writes an authority into a folder. It refuses to replace a key unless
// force is set: everything that it signed would be lost with it.
func SaveAuthority(dir string, a *Authority, force bool) error {
	path := filepath.Join(dir, AuthorityKeyFile)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) && !force {
		if err != nil {
			return err
		}
		return fmt.Errorf("%s exists", path)
	}
	certificate, key, err := a.PEM()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(path, key, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, AuthorityFile), certificate, 0o644)
}

// OpenAuthority reads what SaveAuthority wrote.
func OpenAuthority(dir string) (*Authority, error) {
	certificate, err := os.ReadFile(filepath.Join(dir, AuthorityFile))
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, AuthorityKeyFile))
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	a, err := ParseAuthority(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	return a, nil
}

// Save makes a certificate in a folder, with its key, and has the folder trust the
// authority, beside those that it trusts already. A Request without a key keeps none that
// is there.
func (a *Authority) Save(dir string, r Request) error {
	certificate, key, err := a.Issue(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := Trust(dir, a, false); err != nil {
		return err
	}
	if !bytes.Equal(key, r.Key) {
		if err := writeFile(filepath.Join(dir, KeyFile), key, 0o600); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, CertificateFile), certificate, 0o644)
}

// Renew makes a folder's certificate anew, for the same role and hosts; its lifetime is
// that which it had, if none is given. Unless newKey is set the key stays.
func (a *Authority) Renew(dir string, now time.Time, lifetime time.Duration, newKey bool) error {
	f, err := Look(dir)
	if err != nil {
		return err
	}
	if lifetime == 0 {
		lifetime = f.Certificate.NotAfter.Sub(f.Certificate.NotBefore) - backdate
	}
	r := Request{ID: f.ID, Hosts: f.Hosts(), Now: now, Lifetime: lifetime}
	if !newKey {
		if r.Key, err = os.ReadFile(filepath.Join(dir, KeyFile)); err != nil {
			return err
		}
	}
	return a.Save(dir, r)
}

// Trust adds an authority to those that a folder trusts, or with only makes it the only
// one: the beginning and the end of a change of authorities.
func Trust(dir string, a *Authority, only bool) error {
	path := filepath.Join(dir, AuthorityFile)
	bundle := encodeCertificate(a.Certificate)
	if old, err := os.ReadFile(path); err == nil {
		present, err := parseAuthorities(old)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, c := range present {
			if !only && !c.Equal(a.Certificate) {
				bundle = append(bundle, encodeCertificate(c)...)
			}
		}
		if bytes.Equal(bundle, old) {
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := parseAuthorities(bundle); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return writeFile(path, bundle, 0o644)
}

// Folder is what stands in a folder's certificates.
type Folder struct {
	ID
	Certificate *x509.Certificate
	Authorities []*x509.Certificate
	// Problem says why a process would not start with this folder; nil if it would.
	Problem error
}

// Hosts are the names and addresses in the certificate.
func (f Folder) Hosts() []string {
	hosts := slices.Clone(f.Certificate.DNSNames)
	for _, ip := range f.Certificate.IPAddresses {
		hosts = append(hosts, net.IP.String(ip))
	}
	return hosts
}

// Look reads a folder without its key.
func Look(dir string) (Folder, error) {
	var f Folder
	text, err := os.ReadFile(filepath.Join(dir, AuthorityFile))
	if err != nil {
		return f, err
	}
	if f.Authorities, err = parseAuthorities(text); err != nil {
		return f, fmt.Errorf("%s: %w", filepath.Join(dir, AuthorityFile), err)
	}
	path := filepath.Join(dir, CertificateFile)
	if text, err = os.ReadFile(path); err != nil {
		return f, err
	}
	chain, err := parseCertificates(text)
	if err == nil {
		f.Certificate = chain[0]
		f.ID, err = Of(chain[0])
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	if s, err := Open(dir, Events{}); err != nil {
		f.Problem = err
	} else {
		s.Close()
	}
	return f, nil
}

// writeFile replaces a file whole: a reader sees the old one or the new one, also after a
// crash.
func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // the first error says more
		}
	}()
	_, err = file.Write(content)
	if err == nil {
		err = file.Chmod(mode)
	}
	if err == nil {
		err = file.Sync()
	}
	if e := file.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	return err
}
