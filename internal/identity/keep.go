package identity

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// secretBytes is the size of what NewSecret makes.
const secretBytes = 32

// NewSecret makes 64 hexadecimal digits that nobody can guess.
func NewSecret() string {
	b := make([]byte, secretBytes)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// SaveSecret writes a secret and the end of a line into a file that only its owner reads,
// and makes the file's folder. With keep, a file that is there stays and made is false;
// without, it is an error.
func SaveSecret(path, secret string, keep bool) (made bool, err error) {
	if i, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		switch {
		case err != nil:
			return false, err
		case !keep:
			return false, fmt.Errorf("%s exists", path)
		case i.Size() == 0:
			return false, fmt.Errorf("%s is empty", path)
		}
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	return true, writeFile(path, []byte(secret+"\n"), 0o600)
}

// stale tells whether two thirds of a certificate's life are over: time for the next one.
func stale(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

// EnsureAuthority has a folder hold a cluster's authority: one that is there stays, with a new
// certificate for its old key once two thirds of its life are over, and else one is made. It
// never replaces a key. What an authority signed is valid under its new certificate, too.
func EnsureAuthority(dir, cluster string, now time.Time, lifetime time.Duration) (
	a *Authority, made bool, err error) {
	missing := 0
	for _, name := range []string{AuthorityFile, AuthorityKeyFile} {
		_, err := os.Stat(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing++
		case err != nil:
			return nil, false, err
		}
	}
	if missing == 2 {
		if a, err = NewAuthority(cluster, now, lifetime); err != nil {
			return nil, false, err
		}
		return a, true, SaveAuthority(dir, a, false)
	}
	if a, err = OpenAuthority(dir); err != nil {
		return nil, false, err
	}
	name := a.Certificate.Subject.CommonName
	if other, ok := clusterOf(name); ok && other != cluster {
		return nil, false, fmt.Errorf("the authority in %s is cluster %s's, not %s's", dir, other,
			cluster)
	}
	if !stale(a.Certificate, now) {
		return a, false, nil
	}
	if a, err = a.renewed(now, lifetime); err != nil {
		return nil, false, err
	}
	return a, true, writeFile(filepath.Join(dir, AuthorityFile), encodeCertificate(a.Certificate),
		0o644)
}

// clusterOf reads whose authority has a name, if NewAuthority gave it.
func clusterOf(authority string) (cluster string, ok bool) {
	rest, ok := strings.CutPrefix(authority, authorityPrefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, authoritySuffix)
}

// renewed is the authority with a new certificate of the same name and key. A lifetime of zero
// is the one that it had.
func (a *Authority) renewed(now time.Time, lifetime time.Duration) (*Authority, error) {
	old := a.Certificate
	if lifetime == 0 {
		lifetime = old.NotAfter.Sub(old.NotBefore) - backdate
	}
	if lifetime <= 0 {
		return nil, fmt.Errorf("a lifetime of %v, want a positive one", lifetime)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	c := authorityTemplate(now, lifetime)
	c.SerialNumber, c.RawSubject, c.SubjectKeyId = serial, old.RawSubject, old.SubjectKeyId
	if c, err = sign(c, nil, a.key, a.key); err != nil {
		return nil, err
	}
	return &Authority{c, a.key}, nil
}

// Ensure has a folder hold a certificate as it is asked for. One that is there stays, if a
// process would start with it, this authority signed it, it is for the same role and hosts, and
// a third of its life is left; else Ensure does what Save does.
func (a *Authority) Ensure(dir string, r Request) (made bool, err error) {
	if err := r.check(); err != nil {
		return false, err
	}
	f, err := Look(dir)
	var path *fs.PathError
	switch {
	case errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist):
		return false, err // it may be there
	case err == nil && a.keeps(f, r):
		return false, Trust(dir, a, false)
	}
	return true, a.Save(dir, r)
}

// keeps tells whether what a folder holds is as requested.
func (a *Authority) keeps(f Folder, r Request) bool {
	return f.Problem == nil && f.ID == r.ID && slices.Equal(sorted(f.Hosts()), sorted(r.Hosts)) &&
		f.Certificate.CheckSignatureFrom(a.Certificate) == nil && !stale(f.Certificate, r.Now)
}

// sorted are hosts in one order, each once and addresses in one form.
func sorted(hosts []string) []string {
	all := slices.Clone(hosts)
	for i, h := range all {
		if ip := net.ParseIP(h); ip != nil {
			all[i] = ip.String()
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
