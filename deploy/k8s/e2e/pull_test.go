//go:build kube

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// pulled is the release whose pods fetch their model.
	pulled = "pulled"
	// pulling chooses the pods that do.
	pulling = "app.kubernetes.io/instance=" + pulled +
		",app.kubernetes.io/component in (coordinator,expertnode)"
)

// TestPull has all pods fetch their part of the model from a server of this process, which wants
// a token and whose certificate is signed by nobody that is known elsewhere.
func TestPull(t *testing.T) {
	s := serveModel(t)
	t.Run("wrong", func(t *testing.T) { pullWrong(t, s) })
	t.Run("right", func(t *testing.T) { pullRight(t, s) })
	if !testing.Short() {
		t.Run("too little room", func(t *testing.T) { pullTooLarge(t, s) })
	}
}

// pullRight wants each pod to have fetched what it needs and no more, in parts, the kubelet to allow
// what the init container's limit gives the pod, and the answer of helm test.
func pullRight(t *testing.T, s *modelServer) {
	defer removePulled(t)
	began := time.Now()
	// A container's own limit is that of its cache, less than model and cache: the pod's is the
	// init container's.
	s.install(t, "--set", "coordinator.cache.size=16Mi,nodes.cache.size=28Mi,etcd.members=3", "--wait",
		"--timeout", patience.String())
	t.Logf("pods with a model that they pulled are ready after %.1f s", time.Since(began).Seconds())
	must(t, "helm", "test", pulled, "--timeout", patience.String())
	s.checkAsked(t)
	loseMembers(t)
	if testing.Short() {
		return
	}
	// The kubelet looks at volumes every 10 s, and evicts 10 s later.
	time.Sleep(45 * time.Second)
	for _, field := range []string{".status.reason", ".status.containerStatuses[*].restartCount"} {
		got := must(t, "kubectl", "get", "pods", "-l", pulling, "-o", "jsonpath={.items[*]"+field+"}")
		if strings.Trim(got, "0 ") != "" {
			t.Errorf("pods with a full volume: %s is %q", field, got)
		}
	}
}

// checkAsked wants each node to have asked for its half of the experts beside a few samples, and
// the coordinator for no experts but those.
func (s *modelServer) checkAsked(t *testing.T) {
	t.Helper()
	weights, err := filepath.Glob(filepath.Join(modelDir, "model-*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	whole := int64(0)
	for _, path := range weights {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		whole += st.Size()
	}
	pods := strings.Fields(must(t, "kubectl", "get", "pods", "-l", pulling, "-o",
		`jsonpath={range .items[*]}{.metadata.labels.app\.kubernetes\.io/component}={.status.podIP} {end}`))
	if len(pods) != 3 {
		t.Fatalf("pods %v, want a coordinator and two nodes", pods)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pod := range pods {
		role, ip, _ := strings.Cut(pod, "=")
		a, most := s.asked[ip], whole/2
		if role == "expertnode" {
			most = whole * 3 / 4
		}
		t.Logf("the %s at %s has got %d bytes of the %d of weights in %d parts", role, ip, a.bytes, whole,
			a.parts)
		if a.parts < 3 || a.files < 3 || a.wholeWeights != 0 || a.bytes == 0 || a.bytes > most {
			t.Errorf("the %s at %s has asked for %d parts of weights, %d bytes, want at most %d; for %d whole "+
				"files of them and %d others", role, ip, a.parts, a.bytes, most, a.wholeWeights, a.files)
		}
	}
}

// pullTooLarge wants a pod whose volume is too small to say so.
func pullTooLarge(t *testing.T, s *modelServer) {
	defer removePulled(t)
	s.install(t, "--set", "model.pull.size=8Mi")
	within(t, patience, "a pod that says that its volume is too small", func() error {
		return said(pulled, `EmptyDir volume "model" exceeds the limit "8Mi"`)
	})
}

// pullWrong wants the status of pods to say why they have no model.
func pullWrong(t *testing.T, s *modelServer) {
	for name, tc := range map[string]struct {
		set  []string
		says string
	}{
		"another folder": {[]string{"--set", "model.pull.source=" + s.address + "nothing/"},
			"404 Not Found"},
		"no token": {[]string{"--set", "model.pull.tokenSecret="}, "the model needs a token"},
		"no secret": {[]string{"--set", "model.pull.tokenSecret=nowhere"},
			`secret "nowhere" not found`},
		"no authority": {[]string{"--set", "model.pull.authoritySecret="},
			"signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			defer removePulled(t)
			began := time.Now()
			s.install(t, tc.set...)
			within(t, patience, "a status that says "+tc.says, func() error {
				return said(pulled, tc.says)
			})
			t.Logf("kubectl describe says it after %.1f s", time.Since(began).Seconds())
		})
	}
}

// said looks for a text in what kubectl describe tells of a release's pods.
func said(release, text string) error {
	status, err := try("kubectl", "describe", "pods", "-l", "app.kubernetes.io/instance="+release)
	if err == nil && !strings.Contains(strings.ReplaceAll(status, `\"`, `"`), text) {
		err = fmt.Errorf("the status is %s", status)
	}
	return err
}

func removePulled(t *testing.T) {
	t.Helper()
	must(t, "helm", "uninstall", pulled, "--wait", "--timeout", patience.String())
	must(t, "kubectl", "delete", "pvc", "--all", "--wait=false")
}

// modelServer serves the model directory to who has its token, and counts.
type modelServer struct {
	address string // of the folder

	mu    sync.Mutex // guards the field below
	asked map[string]asked
}

// asked counts what one pod has asked for.
type asked struct {
	parts, wholeWeights, files int
	bytes                      int64 // of weights, that were sent
}

// install installs a small cluster that pulls from the server.
func (s *modelServer) install(t *testing.T, more ...string) {
	t.Helper()
	must(t, "helm", append([]string{"install", pulled, chart, "--set",
		"nodes.replicas=2,expertReplicas=1,model.source=pull,model.path=tiny,model.pull.source=" + s.address +
			",model.pull.tokenSecret=pull-token,model.pull.authoritySecret=pull-authority" +
			",model.pull.size=64Mi,model.pull.ephemeralStorage=128Mi,model.pull.nodeSize=64Mi" +
			",model.pull.nodeEphemeralStorage=128Mi"}, more...)...)
}

// serveModel serves until the test ends, and makes the secrets with which pods get in.
func serveModel(t *testing.T) *modelServer {
	t.Helper()
	host, _, _ := strings.Cut(machine, "/")
	pair, authority := selfSigned(t, host)
	s := &modelServer{asked: map[string]asked{}}
	token, files := rand.Text(), http.FileServer(http.Dir(modelDir))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "a token is needed", http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(s.count(w, r), r)
	}))
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Listener.Close() // another one takes its place
	server.Listener, server.TLS = l, &tls.Config{Certificates: []tls.Certificate{pair}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // who does not trust it says so
	server.StartTLS()
	t.Cleanup(server.Close)
	s.address = "https://" + l.Addr().String() + "/"
	dir := t.TempDir()
	for name, content := range map[string][]byte{"token": []byte(token), "ca.crt": authority} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for secret, file := range map[string]string{"pull-token": "token", "pull-authority": "ca.crt"} {
		must(t, "kubectl", "create", "secret", "generic", secret, "--from-file="+filepath.Join(dir, file))
		t.Cleanup(func() { _, _ = try("kubectl", "delete", "secret", secret) })
	}
	return s
}

// count notes who asks for what, and returns a writer that counts what is sent of weights.
func (s *modelServer) count(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.asked[ip]
	switch weights := strings.HasSuffix(r.URL.Path, ".safetensors"); {
	case weights && r.Header.Get("Range") != "":
		a.parts++
	case weights:
		a.wholeWeights++
	default:
		a.files++
	}
	s.asked[ip] = a
	if strings.HasSuffix(r.URL.Path, ".safetensors") {
		return &sent{w, s, ip}
	}
	return w
}

// sent counts the weights that a pod gets.
type sent struct {
	http.ResponseWriter
	server *modelServer
	ip     string
}

// Write implements io.Writer.
func (w *sent) Write(b []byte) (int, error) {
	w.server.mu.Lock()
	a := w.server.asked[w.ip]
	a.bytes += int64(len(b))
	w.server.asked[w.ip] = a
	w.server.mu.Unlock()
	return w.ResponseWriter.Write(b)
}

// selfSigned makes a certificate of a host that is its own authority.
func selfSigned(t *testing.T, host string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.ParseIP(host)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}
