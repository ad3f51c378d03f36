package identity

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// files are the contents of a folder's files.
func files(t *testing.T, dir string, names ...string) (all [][]byte) {
	t.Helper()
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// TestEnsure asks again and again for one certificate: only what is wrong, or two thirds over,
// is made anew.
func TestEnsure(t *testing.T) {
	now, dir := time.Now(), t.TempDir()
	a, err := NewAuthority("x", now, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority("x", now, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := Request{ID: ID{"x", Etcd}, Hosts: []string{"etcd", "::1"}, Now: now,
		Lifetime: 3 * time.Hour}
	change := func(by func(*Request)) Request {
		r := want
		by(&r)
		return r
	}
	same := func(*Request) {}
	aged := func(by time.Duration) func() {
		return func() {
			if err := a.Save(dir, change(func(r *Request) { r.Now = now.Add(-by) })); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, step := range []struct {
		name   string
		before func()
		by     *Authority
		r      Request
		made   bool
	}{
		{"first", nil, a, want, true},
		{"again", nil, a, want, false},
		{"other order and form", nil, a, change(func(r *Request) {
			r.Hosts = []string{"0:0:0:0:0:0:0:1", "etcd", "etcd"}
		}), false},
		{"a third left", aged(110 * time.Minute), a, want, false},
		{"less left", aged(130 * time.Minute), a, want, true},
		{"another host", nil, a, change(func(r *Request) { r.Hosts = []string{"etcd"} }), true},
		{"another role", nil, a, change(func(r *Request) { r.Role = Client }), true},
		{"the first role", nil, a, change(same), true},
		{"another cluster", nil, a, change(func(r *Request) { r.Cluster = "y" }), true},
		{"the first cluster", nil, a, change(same), true},
		{"no key", func() { remove(t, dir, KeyFile) }, a, want, true},
		{"no certificate", func() { remove(t, dir, CertificateFile) }, a, want, true},
		{"a bad certificate", func() { write(t, dir, CertificateFile, "x") }, a, want, true},
		{"authority not trusted", func() {
			write(t, dir, AuthorityFile,
				string(encodeCertificate(other.Certificate)))
		}, a, want, true},
		{"another authority", nil, other, want, true},
		{"and again", nil, other, want, false},
	} {
		if step.before != nil {
			step.before()
		}
		made, err := step.by.Ensure(dir, step.r)
		if err != nil || made != step.made {
			t.Errorf("%s: made %v, want %v; %v", step.name, made, step.made, err)
		}
		f, err := Look(dir)
		if err != nil || f.Problem != nil || f.ID != step.r.ID {
			t.Fatalf("%s: the folder is %s's: %v, %v", step.name, f.ID, err, f.Problem)
		}
	}
	if _, err := a.Ensure(dir, change(func(r *Request) { r.Hosts = []string{""} })); err == nil {
		t.Error("an empty host was taken")
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestEnsureAuthority checks that an authority stays, that late in its life it gets a
// certificate under which what it signed is valid, and that half of one is refused.
func TestEnsureAuthority(t *testing.T) {
	now, dir := time.Now(), filepath.Join(t.TempDir(), "ca")
	first, made, err := EnsureAuthority(dir, "x", now, 0)
	if err != nil || !made {
		t.Fatalf("made %v, %v", made, err)
	}
	before := files(t, dir, AuthorityFile, AuthorityKeyFile)
	if _, made, err = EnsureAuthority(dir, "x", now.Add(AuthorityLifetime/2), 0); err != nil || made {
		t.Fatalf("at half of its life: made %v, %v", made, err)
	}
	leaf := t.TempDir()
	if _, err := first.Ensure(leaf, Request{ID: ID{"x", Etcd}, Now: now}); err != nil {
		t.Fatal(err)
	}
	late := now.Add(AuthorityLifetime / 4 * 3)
	second, made, err := EnsureAuthority(dir, "x", late, 0)
	if err != nil || !made {
		t.Fatalf("late in its life: made %v, %v", made, err)
	}
	after := files(t, dir, AuthorityFile, AuthorityKeyFile)
	if bytes.Equal(before[0], after[0]) || !bytes.Equal(before[1], after[1]) {
		t.Error("want a new certificate of the old key")
	}
	got, want := second.Certificate.NotAfter, late.Add(AuthorityLifetime)
	if got.Sub(want).Abs() > time.Second {
		t.Errorf("it lasts until %v, want %v", got, want)
	}
	f, err := Look(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Certificate.CheckSignatureFrom(second.Certificate); err != nil {
		t.Errorf("what it signed is not valid any more: %v", err)
	}
	if made, err := second.Ensure(leaf, Request{ID: ID{"x", Etcd}, Now: now}); err != nil || made {
		t.Errorf("the certificate was made anew (%v), %v", made, err)
	}
	if f, err = Look(leaf); err != nil || len(f.Authorities) != 2 {
		t.Errorf("the folder trusts %d authorities, want both; %v", len(f.Authorities), err)
	}
	if _, _, err := EnsureAuthority(dir, "y", now, 0); err == nil {
		t.Error("another cluster's authority was taken")
	}
	for _, name := range []string{AuthorityFile, AuthorityKeyFile} {
		half := t.TempDir()
		write(t, half, name, string(before[0]))
		if _, _, err := EnsureAuthority(half, "x", now, 0); err == nil {
			t.Errorf("a folder with only %s was taken", name)
		}
	}
}

func TestSaveSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "key")
	if made, err := SaveSecret(path, "one", false); !made || err != nil {
		t.Fatalf("made %v, %v", made, err)
	}
	if made, err := SaveSecret(path, "two", true); made || err != nil {
		t.Errorf("made %v over one that is there, %v", made, err)
	}
	if _, err := SaveSecret(path, "two", false); err == nil {
		t.Error("one that is there was replaced")
	}
	i, err := os.Stat(path)
	if got := files(t, filepath.Dir(path), "key")[0]; err != nil || string(got) != "one\n" ||
		i.Mode() != 0o600 {
		t.Errorf("the file holds %q, %v, %v", got, i, err)
	}
	write(t, filepath.Dir(path), "key", "")
	if _, err := SaveSecret(path, "two", true); err == nil {
		t.Error("an empty file was kept")
	}
	if a, b := NewSecret(), NewSecret(); len(a) != 64 || a == b {
		t.Errorf("secrets %q and %q", a, b)
	}
}
