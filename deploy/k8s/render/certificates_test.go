package render

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func secret(t *testing.T, objects map[string]runtime.Object, name string) *core.Secret {
	t.Helper()
	s, ok := objects["Secret/"+name].(*core.Secret)
	if !ok {
		t.Fatalf("there is no secret %s", name)
	}
	return s
}

// serial checks a role's certificate against what its secret trusts and returns its number.
func serial(t *testing.T, objects map[string]runtime.Object, role string) string {
	t.Helper()
	s := secret(t, objects, "drover-tls-"+role)
	pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		t.Fatalf("%s: %v", role, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.Data["ca.crt"]) {
		t.Fatalf("%s trusts nobody", role)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots,
			KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
	if pair.Leaf.Subject.CommonName != role || pair.Leaf.IsCA {
		t.Errorf("the certificate of %s is for %v", role, pair.Leaf.Subject)
	}
	if name := roleName(role); !slices.Contains(pair.Leaf.DNSNames, name) {
		t.Errorf("the certificate of %s names %v, want %s", role, pair.Leaf.DNSNames, name)
	}
	return pair.Leaf.SerialNumber.String()
}

var roles = []string{"coordinator", "expertnode", "client", "etcd"}

func serials(t *testing.T, objects map[string]runtime.Object) string {
	t.Helper()
	var all []string
	for _, role := range roles {
		all = append(all, serial(t, objects, role))
	}
	return strings.Join(all, " ")
}

// TestUpgrades follows certificates that the chart makes through upgrades.
func TestUpgrades(t *testing.T) {
	r := newRelease(t)
	first := r.install(t, values{})
	was, authority := serials(t, first), secret(t, first, "drover-authority").Data
	same := func(what string, objects map[string]runtime.Object, want bool) {
		t.Helper()
		now := serials(t, objects)
		if (now == was) != want {
			t.Errorf("%s: the certificates stay: %v, want %v", what, now == was, want)
		}
		was = now
	}
	same("an upgrade", r.install(t, in("nodes.replicas", 6)), true)
	same("a cluster with cert-manager since", (&release{r.chart, r.cluster,
		[]string{"cert-manager.io/v1"}}).must(t, values{}), true)
	same("another host", r.install(t, in("tls.hosts", []any{"a.example"})), false)
	same("rotation", r.install(t, in("tls.generated.rotation", "2027")), false)
	rotated := in("tls.generated.rotation", "2027")
	same("the same again", r.install(t, rotated), true)
	now := secret(t, r.install(t, rotated), "drover-authority").Data
	if fmt.Sprint(now) != fmt.Sprint(authority) {
		t.Error("the authority is another one")
	}
	// The change of the authority, in its three steps.
	step := func(signs string, trusts ...any) map[string]runtime.Object {
		return r.install(t, all(rotated, in("tls.generated", values{"authority": signs,
			"trust": append([]any{}, trusts...)})))
	}
	old := serials(t, r.install(t, rotated))
	trusting := step("1", "2")
	if serials(t, trusting) != old {
		t.Error("to trust another authority makes new certificates")
	}
	signing := step("2", "1")
	if serials(t, signing) == old {
		t.Error("the new authority signs nothing")
	}
	for _, pair := range [][2]map[string]runtime.Object{{trusting, signing}, {signing, trusting}} {
		believes(t, pair[0], pair[1], true) // pods get the files at different times
	}
	last := step("2")
	believes(t, last, signing, true)
	believes(t, last, trusting, false)
	if kept := secret(t, last, "drover-authority").Data; len(kept) != 2 || kept["2.key"] == nil {
		t.Errorf("%d files of authorities are kept, want those of 2", len(kept))
	}
}

// believes compares whether one rendering's roles believe those of another.
func believes(t *testing.T, these, those map[string]runtime.Object, want bool) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret(t, these, "drover-tls-coordinator").Data["ca.crt"])
	s := secret(t, those, "drover-tls-expertnode")
	pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots}); (err == nil) != want {
		t.Errorf("believes: %v, want %v", err, want)
	}
}

// TestRenewal makes new certificates where two thirds of their life are over.
func TestRenewal(t *testing.T) {
	r := newRelease(t)
	was := serials(t, r.install(t, values{}))
	objects := r.must(t, values{})
	for _, role := range roles {
		const note = "drover/renew-after"
		s := secret(t, objects, "drover-tls-"+role)
		if s.Annotations[note] < "1" {
			t.Fatalf("%s has no time of renewal", role)
		}
		s.Annotations[note] = "1"
	}
	r.keep(objects)
	if serials(t, r.must(t, values{})) == was {
		t.Error("old certificates are not renewed")
	}
}

// TestManager wants cert-manager to be asked where it is, for certificates that name roles.
func TestManager(t *testing.T) {
	r := newRelease(t, "cert-manager.io/v1")
	objects := r.must(t, watched)
	for _, role := range append([]string{"metrics"}, roles...) {
		c, ok := objects["Certificate/drover-"+role].(*certmanager.Certificate)
		if !ok {
			t.Fatalf("no certificate of %s is asked for", role)
		}
		if want := "drover://drover/" + role; len(c.Spec.URIs) != 1 || c.Spec.URIs[0] != want ||
			c.Spec.CommonName != role {
			t.Errorf("%s: %v, want %s", role, c.Spec.URIs, want)
		}
		if c.Spec.IssuerRef.Name != "drover-authority" || c.Spec.RenewBefore.Duration*3 !=
			c.Spec.Duration.Duration {
			t.Errorf("%s: %+v", role, c.Spec)
		}
	}
	for name := range objects {
		if strings.HasPrefix(name, "Secret/") {
			t.Errorf("the chart makes %s by itself", name)
		}
	}
	issued := r.must(t, in("tls.certManager.issuerRef", values{"name": "x", "kind": "ClusterIssuer"}))
	c := issued["Certificate/drover-etcd"].(*certmanager.Certificate)
	if c.Spec.IssuerRef.Name != "x" || c.Spec.IssuerRef.Kind != "ClusterIssuer" ||
		c.Spec.IssuerRef.Group != "cert-manager.io" {
		t.Errorf("the issuer is %+v", c.Spec.IssuerRef)
	}
	if issued["Issuer/drover-authority"] != nil {
		t.Error("an authority is made that nobody asked for")
	}
}

// roleName is how a certificate names its role where it has no URI.
func roleName(role string) string { return role + ".drover.drover.invalid" }
