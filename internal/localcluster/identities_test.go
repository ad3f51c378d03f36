package localcluster

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"drover/internal/identity"
)

// TestIdentities makes certificates under a state folder: those that last stay as they are,
// others are made anew by the same authority.
func TestIdentities(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	read := func(parts ...string) []byte {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(append([]string{dir, "tls"}, parts...)...))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	open := func(at time.Time) identities {
		t.Helper()
		i, err := openIdentities(dir, at)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	open(now.Add(-200 * 24 * time.Hour))
	authority, old := read("authority", "ca.crt"), read("etcd", "tls.crt")
	i := open(now.Add(-100 * 24 * time.Hour))
	if !bytes.Equal(read("etcd", "tls.crt"), old) {
		t.Error("a certificate with most of its life left was made anew")
	}
	open(now)
	if bytes.Equal(read("etcd", "tls.crt"), old) {
		t.Error("a certificate with less than half its life left stays")
	}
	if !bytes.Equal(read("authority", "ca.crt"), authority) {
		t.Error("the authority changed")
	}
	for _, role := range []identity.Role{identity.Etcd, identity.Coordinator, identity.ExpertNode} {
		s, err := identity.OpenAs(i.of(role), identity.ID{Cluster: clusterName, Role: role},
			identity.Events{})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	for _, secret := range []string{"etcd/tls.key", "authority/ca.key"} {
		info, err := os.Stat(filepath.Join(dir, "tls", secret))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", secret, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tls", "authority", "ca.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentities(dir, now); err == nil {
		t.Error("an authority without a key was used, or replaced")
	}
}
