package localcluster

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
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
		i, err := openIdentities(dir, nil, at)
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
	key := read("coordinator", "tls.key")
	i, err := openIdentities(dir, []string{"127.0.0.2", "localhost"}, now)
	if err != nil {
		t.Fatal(err)
	}
	f, err := identity.Look(i.of(identity.Coordinator))
	if err != nil {
		t.Fatal(err)
	}
	names := append(slices.Clone(usualHosts), "127.0.0.2")
	if got := f.Hosts(); len(got) != len(names) || !slices.Contains(got, "127.0.0.2") {
		t.Errorf("the certificate is for %v, want %v", got, names)
	}
	if !bytes.Equal(read("coordinator", "tls.key"), key) {
		t.Error("another name changed the key")
	}
	if err := os.WriteFile(filepath.Join(dir, "tls", "authority", "ca.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentities(dir, nil, now); err == nil {
		t.Error("an authority without a key was used, or replaced")
	}
}

// TestIdentitiesKept lets a cluster run while half the life of its certificates passes: they
// are made anew within an hour, with their keys, and who follows a folder has the new one.
func TestIdentitiesKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const half = (365*24 + 1) * time.Hour / 2
		dir := t.TempDir()
		i, err := openIdentities(dir, nil, time.Now().Add(10*time.Hour-half))
		if err != nil {
			t.Fatal(err)
		}
		roles := []identity.Role{identity.Etcd, identity.Coordinator, identity.ExpertNode}
		read := func(file string) (all [][]byte) {
			t.Helper()
			for _, role := range roles {
				text, err := os.ReadFile(filepath.Join(i.of(role), file))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, text)
			}
			return all
		}
		same := func(a, b [][]byte) (count int) {
			for n := range a {
				if bytes.Equal(a[n], b[n]) {
					count++
				}
			}
			return count
		}
		certificates, keys := read(identity.CertificateFile), read(identity.KeyFile)
		failures := make(chan error, 100)
		stop := i.keep(func(err error) { failures <- err })
		defer stop()
		time.Sleep(8 * time.Hour)
		synctest.Wait()
		if n := same(certificates, read(identity.CertificateFile)); n != len(roles) {
			t.Errorf("%d of %d certificates stay before half their life is over", n, len(roles))
		}
		s, err := identity.Open(i.of(identity.ExpertNode), identity.Events{})
		if err != nil {
			t.Fatal(err)
		}
		old := s.NotAfter()
		time.Sleep(4*time.Hour + 2*time.Second)
		synctest.Wait()
		if n := same(certificates, read(identity.CertificateFile)); n != 0 {
			t.Errorf("%d certificates stay after half their life", n)
		}
		if n := same(keys, read(identity.KeyFile)); n != len(roles) {
			t.Errorf("%d of %d keys stay", n, len(roles))
		}
		s.Close()
		if now := s.NotAfter(); now.Sub(old) < half-24*time.Hour {
			t.Errorf("who follows a folder has a certificate until %v, had one until %v", now, old)
		}
		if len(failures) > 0 {
			t.Errorf("renewing failed: %v", <-failures)
		}

		// Without the authority nothing is made anew, least of all an authority.
		for _, role := range roles {
			if err := os.Remove(filepath.Join(i.of(role), identity.CertificateFile)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(i.authorityDir()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if n := len(failures); n != 3 {
			t.Errorf("%d failures told in three hours without an authority, want 3", n)
		}
		if _, err := os.Stat(i.authorityDir()); err == nil {
			t.Error("another authority was made while the cluster runs")
		}
	})
}
