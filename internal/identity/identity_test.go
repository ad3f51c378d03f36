package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes one that began ten years ago, so that certificates of the past are valid
// but for their own dates.
func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	a, err := NewAuthority(cluster, time.Now().Add(-10*365*24*time.Hour), 20*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// folder makes a folder with a certificate.
func folder(t *testing.T, a *Authority, r Request) string {
	t.Helper()
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	dir := t.TempDir()
	if err := a.Save(dir, r); err != nil {
		t.Fatal(err)
	}
	return dir
}

func source(t *testing.T, dir string, events Events) *Source {
	t.Helper()
	s, err := Open(dir, events)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// shake lets two configurations shake hands and exchange a byte each way.
func shake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err = s.Handshake(); err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := tls.Client(c, client)
	if atClient = s.Handshake(); atClient == nil {
		_, atClient = s.Read(make([]byte, 1))
	}
	_ = c.Close()
	return <-done, atClient
}

// TestHops lets every certificate knock at every kind of port.
func TestHops(t *testing.T) {
	a, foreign := authority(t, "x"), authority(t, "x")
	past := time.Now().Add(-48 * time.Hour)
	ports := map[Role][]Role{Coordinator: {Client, Coordinator}, ExpertNode: {Coordinator, ExpertNode},
		Etcd: {Etcd, Coordinator, ExpertNode}}
	for role, allowed := range ports {
		var refused []string
		server := source(t, folder(t, a, Request{ID: ID{"x", role}}), Events{
			Refused: func(_ string, err error) { refused = append(refused, err.Error()) }})
		for _, who := range Roles {
			client := source(t, folder(t, a, Request{ID: ID{"x", who}}), Events{})
			atServer, atClient := shake(t, server.Server(allowed...), client.Client(role))
			want := strings.Contains(fmt.Sprint(allowed), string(who))
			if (atServer == nil) != want || (atClient == nil) != want {
				t.Errorf("%s at the port of %s: %v, %v, want it let in: %v", who, role, atServer,
					atClient, want)
			}
			if !want && !strings.Contains(strings.Join(refused, "\n"), "role "+string(who)) {
				t.Errorf("the server tells of %q", refused)
			}
		}
		for _, wrong := range Roles {
			if wrong == role {
				continue
			}
			client := source(t, folder(t, a, Request{ID: ID{"x", allowed[0]}}), Events{})
			if _, err := shake(t, server.Server(allowed...), client.Client(wrong)); err == nil ||
				!strings.Contains(err.Error(), "role "+string(role)) {
				t.Errorf("who wants %s and finds %s: %v", wrong, role, err)
			}
		}
	}
	server := source(t, folder(t, a, Request{ID: ID{"x", ExpertNode}}), Events{})
	for name, tc := range map[string]struct {
		certificate tls.Certificate
		want        string
	}{
		"none":            {tls.Certificate{}, "no certificate"},
		"other authority": {pair(t, foreign, Request{ID: ID{"x", Coordinator}}), "unknown authority"},
		"other cluster":   {pair(t, a, Request{ID: ID{"y", Coordinator}}), `cluster "y"`},
		"expired": {pair(t, a, Request{ID: ID{"x", Coordinator}, Now: past,
			Lifetime: time.Hour}), "expired"},
		"not yet valid": {pair(t, a, Request{ID: ID{"x", Coordinator},
			Now: time.Now().Add(time.Hour)}), "not yet valid"},
		"no role": {odd(t, a, nil, "coordinator.x.drover.example", "drover.invalid"), "no role"},
		"two roles": {odd(t, a, []string{"drover://x/coordinator", "drover://x/expertnode"}),
			"several"},
		"odd role": {odd(t, a, []string{"drover://x/root"}), "unknown"},
		"odd URI":  {odd(t, a, []string{"drover://x/coordinator?a=b"}), "want drover://"},
		"odd user": {odd(t, a, []string{"drover://u@x/coordinator"}), "want drover://"},
		"two roles as names": {odd(t, a, nil, "coordinator.x.drover.invalid",
			"expertnode.x.drover.invalid"), "several"},
		"one role and another as a name": {odd(t, a, []string{"drover://x/coordinator"},
			"client.x.drover.invalid"), "several"},
		"odd role as a name": {odd(t, a, nil, "*.x.drover.invalid"), "unknown"},
		"no cluster":         {odd(t, a, nil, "coordinator.drover.invalid"), `cluster ""`},
		"other cluster as a name": {odd(t, a, nil, "coordinator.x.y.drover.invalid"),
			`cluster "x.y"`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &tls.Config{InsecureSkipVerify: true}
			if tc.certificate.Certificate != nil {
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return &tc.certificate, nil
				}
			}
			atServer, atClient := shake(t, server.Server(Coordinator), cfg)
			if atServer == nil || atClient == nil || !strings.Contains(atServer.Error(), tc.want) {
				t.Errorf("%v, %v, want %q", atServer, atClient, tc.want)
			}
			// The same as a server's certificate.
			if tc.certificate.Certificate == nil {
				return
			}
			client := source(t, folder(t, a, Request{ID: ID{"x", Client}}), Events{})
			_, atClient = shake(t, &tls.Config{Certificates: []tls.Certificate{tc.certificate}},
				client.Client(Coordinator))
			if atClient == nil || !strings.Contains(atClient.Error(), tc.want) {
				t.Errorf("as a server: %v, want %q", atClient, tc.want)
			}
		})
	}
	// TLS 1.2 is not spoken.
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
	if _, err := shake(t, server.Server(Coordinator), old); err == nil {
		t.Error("TLS 1.2 is let in")
	}
	// An open port takes who has no certificate, and refuses a bad one all the same.
	if _, err := shake(t, server.OpenServer(Client), &tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Errorf("without a certificate at an open port: %v", err)
	}
	node := source(t, folder(t, a, Request{ID: ID{"x", ExpertNode}}), Events{})
	if _, err := shake(t, server.OpenServer(Client), node.Client(ExpertNode)); err == nil {
		t.Error("a wrong role at an open port is let in")
	}
}

func pair(t *testing.T, a *Authority, r Request) tls.Certificate {
	t.Helper()
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	certificate, key, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// odd is a certificate with URIs and DNS names that an authority of this package would not sign.
func odd(t *testing.T, a *Authority, uris []string, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour),
		DNSNames: names,
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{
			x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	if c, err = sign(c, a.Certificate, key, a.key); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

// TestRoleAsName lets in who has its role as a DNS name, with a key as other tools write it.
func TestRoleAsName(t *testing.T) {
	a := authority(t, "x.y")
	for role, uris := range map[Role][]string{ExpertNode: nil,
		Coordinator: {"drover://x.y/coordinator"}} {
		pair := odd(t, a, uris, "localhost", string(role)+".x.y.drover.invalid")
		key, err := x509.MarshalECPrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		dir := folder(t, a, Request{ID: ID{"x.y", role}})
		for file, b := range map[string]*pem.Block{
			CertificateFile: {Type: certificateBlock, Bytes: pair.Certificate[0]},
			KeyFile:         {Type: "EC PRIVATE KEY", Bytes: key}} {
			err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600)
			if err != nil {
				t.Fatal(err)
			}
		}
		s, err := OpenAs(dir, ID{"x.y", role}, Events{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		other := source(t, folder(t, a, Request{ID: ID{"x.y", Client}}), Events{})
		if _, err := shake(t, s.Server(Client), other.Client(role)); err != nil {
			t.Errorf("%s serves: %v", role, err)
		}
		if _, err := shake(t, other.Server(role), s.Client(Client)); err != nil {
			t.Errorf("%s calls: %v", role, err)
		}
	}
}

// TestRotation changes the certificate, then the authority by way of a bundle; each step is
// in force for the next connection, and no step locks anybody out.
func TestRotation(t *testing.T) {
	old, fresh := authority(t, "x"), authority(t, "x")
	dirs := []string{folder(t, old, Request{ID: ID{"x", ExpertNode}}),
		folder(t, old, Request{ID: ID{"x", Coordinator}})}
	node, coordinator := source(t, dirs[0], Events{}), source(t, dirs[1], Events{})
	meet := func(when string) {
		t.Helper()
		if a, b := shake(t, node.Server(Coordinator), coordinator.Client(ExpertNode)); a != nil ||
			b != nil {
			t.Errorf("%s: %v, %v", when, a, b)
		}
	}
	each := func(when string, change func(dir string) error) {
		t.Helper()
		for i, s := range []*Source{node, coordinator} {
			before := s.now.Load()
			if err := change(dirs[i]); err != nil {
				t.Fatal(err)
			}
			if changed, err := s.Reload(); err != nil || !changed || s.now.Load() == before {
				t.Errorf("%s: reload %v, %v", when, changed, err)
			}
			meet(when)
		}
	}
	meet("at first")
	each("renewed", func(dir string) error { return old.Renew(dir, time.Now(), 0, false) })
	each("with new keys", func(dir string) error { return old.Renew(dir, time.Now(), 0, true) })
	each("trusting both", func(dir string) error { return Trust(dir, fresh, false) })
	each("signed by the new one", func(dir string) error { return fresh.Renew(dir, time.Now(), 0, true) })
	each("trusting the new one", func(dir string) error { return Trust(dir, fresh, true) })
	if changed, err := node.Reload(); changed || err != nil {
		t.Errorf("nothing changed, but reload = %v, %v", changed, err)
	}
	late := source(t, folder(t, old, Request{ID: ID{"x", Coordinator}}), Events{})
	if _, err := shake(t, node.Server(Coordinator), late.Client(ExpertNode)); err == nil {
		t.Error("the old authority is still trusted")
	}
}

// TestReloadRefuses checks that what does not fit leaves the old files in force.
func TestReloadRefuses(t *testing.T) {
	a := authority(t, "x")
	good, other := Request{ID: ID{"x", ExpertNode}}, folder(t, authority(t, "x"), Request{
		ID: ID{"x", ExpertNode}})
	for name, change := range map[string]func(dir string) error{
		"no key": func(dir string) error { return os.Remove(filepath.Join(dir, KeyFile)) },
		"another's key": func(dir string) error {
			return os.Rename(filepath.Join(other, KeyFile), filepath.Join(dir, KeyFile))
		},
		"another role": func(dir string) error {
			return a.Save(dir, Request{ID: ID{"x", Coordinator}, Now: time.Now()})
		},
		"expired": func(dir string) error {
			return a.Save(dir, Request{ID: good.ID, Now: time.Now().Add(-time.Hour), Lifetime: time.Minute})
		},
		"another authority": func(dir string) error { return Trust(dir, authority(t, "x"), true) },
		"no authority":      func(dir string) error { return os.WriteFile(filepath.Join(dir, AuthorityFile), nil, 0o600) },
		"no authority's": func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, CertificateFile))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, AuthorityFile), b, 0o600)
		},
	} {
		dir := folder(t, a, good)
		s := source(t, dir, Events{})
		before := s.now.Load()
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Reload(); err == nil || s.now.Load() != before {
			t.Errorf("%s: reload = %v", name, err)
		}
		if _, err := OpenAs(dir, good.ID, Events{}); err == nil {
			t.Errorf("%s: OpenAs accepts it", name)
		}
		if f, err := Look(dir); err == nil && f.Problem == nil && name != "another role" {
			t.Errorf("%s: Look sees no problem", name)
		}
	}
}

// TestFolder checks modes, what is refused, and that a renewed certificate keeps what the
// old one had.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	a := authority(t, "x")
	if err := SaveAuthority(dir, a, false); err != nil {
		t.Fatal(err)
	}
	if err := SaveAuthority(dir, authority(t, "x"), false); err == nil {
		t.Error("an authority's key was replaced")
	}
	read, err := OpenAuthority(dir)
	if err != nil || !read.Certificate.Equal(a.Certificate) {
		t.Fatalf("read %v, %v", read, err)
	}
	out := filepath.Join(t.TempDir(), "node")
	r := Request{ID: ID{"x", ExpertNode}, Hosts: []string{"a.example", "192.0.2.1"},
		Now: time.Now().Add(-time.Hour), Lifetime: 2 * time.Hour}
	if err := read.Save(out, r); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{filepath.Join(dir, AuthorityKeyFile): 0o600,
		filepath.Join(out, KeyFile): 0o600, out: 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	before, err := Look(out)
	if err != nil || before.Problem != nil {
		t.Fatal(err, before.Problem)
	}
	key, _ := os.ReadFile(filepath.Join(out, KeyFile))
	if err := read.Renew(out, time.Now(), 0, false); err != nil {
		t.Fatal(err)
	}
	after, err := Look(out)
	if err != nil || after.Problem != nil {
		t.Fatal(err, after.Problem)
	}
	same, _ := os.ReadFile(filepath.Join(out, KeyFile))
	if string(key) != string(same) || after.ID != before.ID ||
		strings.Join(after.Hosts(), " ") != "a.example 192.0.2.1" ||
		after.Certificate.SerialNumber.Cmp(before.Certificate.SerialNumber) == 0 ||
		after.Certificate.NotAfter.Sub(before.Certificate.NotAfter).Round(time.Minute) != time.Hour {
		t.Errorf("renewed %v %v until %v, was %v %v until %v", after.ID, after.Hosts(),
			after.Certificate.NotAfter, before.ID, before.Hosts(), before.Certificate.NotAfter)
	}
	if files, _ := os.ReadDir(out); len(files) != 3 {
		t.Errorf("files %v, want three", files)
	}
	for name, r := range map[string]Request{
		"role":     {ID: ID{"x", "root"}},
		"cluster":  {ID: ID{"x/y", Etcd}},
		"nameless": {ID: ID{"", Etcd}},
		"host":     {ID: ID{"x", Etcd}, Hosts: []string{""}},
		"lifetime": {ID: ID{"x", Etcd}, Lifetime: -1},
		"key":      {ID: ID{"x", Etcd}, Key: []byte("?")},
		"too late": {ID: ID{"x", Etcd}, Now: a.Certificate.NotAfter},
	} {
		if _, _, err := a.Issue(r); err == nil {
			t.Errorf("%s: Issue accepts it", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	a, err := NewAuthority("x", time.Now(), 0)
	if err != nil {
		f.Fatal(err)
	}
	certificate, key, err := a.PEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(certificate, key)
	f.Fuzz(func(t *testing.T, certificate, key []byte) {
		if all, err := parseAuthorities(certificate); err == nil && len(all) == 0 {
			t.Error("no authority and no error")
		}
		if a, err := ParseAuthority(certificate, key); err == nil && a.Certificate == nil {
			t.Error("an authority without a certificate")
		}
	})
}
