package role

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"drover/cluster"
	"drover/internal/answer"
	"drover/internal/identity"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// get asks an admin port.
func get(t *testing.T, address, path string, header ...string) (code int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
	}
	reply, err := http.DefaultClient.Do(r)
	for tries := 1; err != nil; tries++ { // a busy machine may let the server's patience end
		if tries == 10 {
			t.Fatal(err)
		}
		reply, err = http.DefaultClient.Do(r)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

// measured is a coordinator with two nodes, all of whose admin ports are served.
func measured(t *testing.T, tokenFile string) (coordinator, node string) {
	t.Helper()
	store, quiet := &cluster.Memory{}, slog.New(slog.DiscardHandler)
	for _, id := range []string{"a", "b"} {
		admin := Admin{Listener: loopback(t)}
		node = admin.Listener.Addr().String()
		n, err := StartExpertNode(t.Context(), ExpertNodeOptions{ModelDir: demo, Mode: kernel.BF16,
			Store: store, ID: id, Epoch: NewEpoch(), Listen: "127.0.0.1:0", Domain: id, Admin: admin,
			Version: "v1", ShortLease: true, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
	}
	admin := Admin{Listener: loopback(t), TokenFile: tokenFile}
	coordinator = admin.Listener.Addr().String()
	c, err := StartCoordinator(t.Context(), CoordinatorOptions{ModelDir: demo, Mode: kernel.BF16,
		Store: store, MinNodes: 2, GRPC: loopback(t), Admin: admin, Version: "v1",
		LastResort: LastResort{Bytes: 1 << 30}, ShortLease: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if code, body := get(t, coordinator, "/readyz"); code != http.StatusServiceUnavailable ||
		!strings.Contains(body, "no token") {
		t.Errorf("before it is ready: %d, %s", code, body)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = answer.Ask(t.Context(), droverv1.NewCoordinatorServiceClient(c.Conn),
		answer.Chat("Tell me a story about a fox."))
	if err != nil {
		t.Fatal(err)
	}
	return coordinator, node
}

// typed is a line that names a metric and its type.
var typed = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)

// documented is a row of the tables in docs/metrics.md.
var documented = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\|")

// TestMetricsDocumented compares what a cluster that has answered tells with docs/metrics.md,
// both ways, and checks names and texts as Prometheus advises.
func TestMetricsDocumented(t *testing.T) {
	coordinator, node := measured(t, "")
	told := map[string]string{}
	for _, address := range []string{coordinator, node} {
		code, body := get(t, address, "/metrics")
		if code != http.StatusOK {
			t.Fatalf("%d: %s", code, body)
		}
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
		for _, m := range typed.FindAllStringSubmatch(body, -1) {
			if !strings.HasPrefix(m[1], "go_") && !strings.HasPrefix(m[1], "process_") {
				told[m[1]] = m[2]
			}
		}
	}
	id := newGuild(t, "x").as(t, identity.Metrics)
	all, err := Admin{Identity: id, Clients: id}.certificates().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		told[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]string{}
	for _, m := range documented.FindAllStringSubmatch(string(text), -1) {
		written[m[1]] = m[2]
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if written[name] != told[name] {
			t.Errorf("%s is a %s; docs/metrics.md has it as %q", name, told[name], written[name])
		}
		delete(written, name)
	}
	for name := range written {
		t.Errorf("docs/metrics.md has %s, which nobody tells", name)
	}
}

// TestCertificateMetrics wants the times of certificates and authorities that are in force, also
// after they were changed.
func TestCertificateMetrics(t *testing.T) {
	g := newGuild(t, "x")
	cluster, clients := g.as(t, identity.Coordinator), g.as(t, identity.Coordinator)
	gatherer := Admin{Identity: cluster, Clients: clients}.certificates()
	check := func(port string, certificate, authority time.Time) {
		t.Helper()
		all, err := gatherer.Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range all[0].Metric {
			want := map[string]time.Time{"kind:certificate": certificate, "kind:authority": authority}
			labels := map[string]bool{}
			for _, l := range m.Label {
				labels[l.GetName()+":"+l.GetValue()] = true
			}
			for kind, at := range want {
				if labels["port:"+port] && labels[kind] {
					if found++; m.Gauge.GetValue() != float64(at.Unix()) {
						t.Errorf("%s %s: %v, want %v", port, kind, m.Gauge.GetValue(), at.Unix())
					}
				}
			}
		}
		if found != 2 {
			t.Errorf("port %s has %d series, want 2", port, found)
		}
	}
	authority := g.authority.Certificate.NotAfter
	check("cluster", cluster.NotAfter(), authority)
	was := clients.NotAfter()
	check("clients", was, authority)
	if err := g.authority.Renew(clients.Dir(), time.Now(), time.Hour, true); err != nil {
		t.Fatal(err)
	}
	if _, err := clients.Reload(); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(clients.NotAfter()); left > time.Hour || clients.NotAfter().Equal(was) {
		t.Errorf("%v are left after a renewal for an hour", left)
	}
	check("clients", clients.NotAfter(), authority)
	check("cluster", cluster.NotAfter(), authority)
}

// TestAdminPort asks for metrics with and without leave. That this machine may read them
// does not hold for a browser's page that has a name of its own for it.
func TestAdminPort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	coordinator, node := measured(t, file)
	for name, tc := range map[string]struct {
		path   string
		header []string
		code   int
	}{
		"this machine":       {"/metrics", nil, http.StatusOK},
		"another name":       {"/metrics", []string{"Host: evil.example"}, http.StatusUnauthorized},
		"token":              {"/metrics", []string{"Host: x", "Authorization: Bearer secret"}, http.StatusOK},
		"wrong token":        {"/metrics", []string{"Host: x", "Authorization: Bearer secre"}, http.StatusUnauthorized},
		"health for anybody": {"/healthz", []string{"Host: x"}, http.StatusOK},
		"ready for anybody":  {"/readyz", []string{"Host: x"}, http.StatusOK},
		"nothing else":       {"/", nil, http.StatusNotFound},
	} {
		if code, body := get(t, coordinator, tc.path, tc.header...); code != tc.code {
			t.Errorf("%s: %d, want %d: %s", name, code, tc.code, body)
		}
	}
	if code, _ := get(t, node, "/metrics", "Host: x", "Authorization: Bearer secret"); code !=
		http.StatusUnauthorized {
		t.Errorf("a node without a token: %d", code)
	}
	_, body := get(t, coordinator, "/metrics")
	for _, want := range []string{
		`drover_requests_total{operation="chat",outcome="ok"} 1`, "drover_ready 1",
		"drover_store_up 1", "drover_planner 1", `drover_nodes{state="quarantined"} 0`,
		"drover_experts 512", "drover_experts_unreachable 0", `drover_node_quarantined{node="a"} 0`,
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("the coordinator does not tell %s", want)
		}
	}
	if _, err := ListenAdmin("127.0.0.1:1:1", "", nil); err == nil {
		t.Error("an address that is none was taken")
	}
	bad := Admin{Listener: loopback(t), TokenFile: filepath.Join(t.TempDir(), "none")}
	if _, err := bad.Serve(nil, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a token file that is not there was taken")
	}
}
