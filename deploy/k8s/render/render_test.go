package render

import (
	"encoding/base64"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// Sets of values that use everything that templates can do.
var (
	existing = in("tls.existingSecrets", values{"coordinator": "a", "expertnode": "b", "etcd": "c",
		"client": "d", "metrics": "e"})
	external = in("etcd.external", values{"enabled": true, "endpoints": []any{"https://e:2379"}})
	watched  = in("monitoring", values{"enabled": true, "serviceMonitor": values{"enabled": true},
		"prometheusRule": values{"enabled": true}, "dashboard": values{"enabled": true}})
	scaled = all(in("coordinator.autoscaling", values{"enabled": true,
		"targetMetrics": values{"drover_requests_waiting": "4"}}),
		in("nodes.autoscaling", values{"enabled": true, "targetCPU": 0,
			"targetMetrics": values{"drover_expertnode_queue_frames": "500m"}}))
	outside = all(in("ingress", values{"enabled": true, "hosts": []any{"a.example"}}),
		in("grpcRoute", values{"enabled": true, "parentRefs": []any{values{"name": "gate"}}}))
	large = all(in("coordinator.replicas", 2), in("etcd.members", 3), in("nodes.cache.type", "claim"),
		in("coordinator.gpus", 1), in("nodes.gpus", 1), in("nodes.domain", "zone"),
		in("nodes.runtimeClassName", "nvidia"))
	keyed = in("apiKeys.existingSecret", "keys")
)

var sets = map[string]values{
	"defaults": {},
	"watched by token": all(watched, in("gossip.enabled", true),
		in("monitoring.tokenSecret", "token")),
	"large":      all(large, watched, scaled, outside, keyed, in("gossip.enabled", true)),
	"KEDA":       all(scaled, in("keda", values{"enabled": true, "prometheusAddress": "http://p:9090"})),
	"manager":    all(in("tls.certManager.enabled", "true"), watched),
	"own issuer": all(in("tls.certManager", values{"enabled": "true", "issuerRef": values{"name": "x", "kind": "ClusterIssuer"}})),
	"existing":   all(existing, watched, keyed, in("tls.clientPort.existingSecret", "shown")),
	"no client":  all(existing, keyed, in("tls.existingSecrets.client", "")),
	"etcd's own": all(external, in("etcd.external.tlsSecret", "x"),
		in("etcd.external.user", "u"), in("etcd.external.passwordSecret", "p"), in("gossip.existingSecret", "y"), in("gossip.enabled", true)),
	"no policy": in("networkPolicy.enabled", false),
	"claim":     in("model", values{"source": "claim", "claim": "weights", "path": "scout"}),
	"pull": in("model", values{"source": "pull", "path": "scout", "pull": values{"source": "hf:a/b@v1",
		"hub": "https://hub.example:8443", "tokenSecret": "t", "authoritySecret": "c"}}),
	"pull whole": in("model", values{"source": "pull", "path": "scout", "pull": values{
		"source": "https://h/m/", "slices": false, "size": "1Ti", "ephemeralStorage": "2Ti"}}),
	"image": all(in("model", values{"source": "image", "image": values{"reference": "r"}}), in("ipv6", true)),
	"bare": all(in("serviceAccount.create", false), in("commonLabels", values{"team": "a"}),
		in("image.pullSecrets", []any{"s"}), in("coordinator.extraArgs", []any{"--debug"}),
		in("coordinator.extraEnv", []any{values{"name": "A", "value": "b"}})),
}

// TestSets renders every set. What render reads it has read strictly; here pods are looked at.
func TestSets(t *testing.T) {
	for name, v := range sets {
		t.Run(name, func(t *testing.T) {
			objects := newRelease(t).must(t, v)
			secrets := contents(objects)
			made := pods(objects)
			if dir := os.Getenv("DROVER_RENDER_DIR"); dir != "" {
				// For scanners that are programs; some of them want network policies everywhere.
				if v["networkPolicy"] != nil {
					dir = filepath.Join(dir, "open")
				}
				write(t, filepath.Join(dir, strings.Map(plainName, name)+".yaml"), v)
			}
			if len(made) < 2 {
				t.Fatalf("pods of %d objects only", len(made))
			}
			for of, p := range made {
				checkPod(t, of, p)
				checkSecrets(t, of, p, secrets)
			}
		})
	}
}

// write writes everything that the chart makes of values into a file.
func write(t *testing.T, path string, v values) {
	t.Helper()
	files, err := newRelease(t).files(v)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(slices.Collect(maps.Values(files)), "\n---\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// plainName keeps letters.
func plainName(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
		return r
	}
	return '-'
}

// contents are what secrets hold, decoded and encoded.
func contents(objects map[string]runtime.Object) (all []string) {
	for _, o := range objects {
		if s, ok := o.(*core.Secret); ok {
			for _, d := range s.Data {
				all = append(all, string(d), base64.StdEncoding.EncodeToString(d))
			}
		}
	}
	return all
}

// checkPod wants the restricted Pod Security, and more.
func checkPod(t *testing.T, of string, p core.PodTemplateSpec) {
	t.Helper()
	e, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range e.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted,
		Version: api.LatestVersion()}, &p.ObjectMeta, &p.Spec) {
		if !r.Allowed {
			t.Errorf("%s: %s: %s", of, r.ForbiddenReason, r.ForbiddenDetail)
		}
	}
	if auto := p.Spec.AutomountServiceAccountToken; auto == nil || *auto {
		t.Errorf("%s gets a token of its service account", of)
	}
	for _, c := range append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...) {
		s := c.SecurityContext
		if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("%s writes to its root", of)
		}
		if len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" ||
			len(s.Capabilities.Add) != 0 {
			t.Errorf("%s has capabilities: %+v", of, s.Capabilities)
		}
		for _, list := range []core.ResourceList{c.Resources.Requests, c.Resources.Limits} {
			if list.Cpu().IsZero() || list.Memory().IsZero() {
				t.Errorf("%s does without a request or a limit: %v", of, c.Resources)
			}
		}
	}
	for _, c := range p.Spec.Containers {
		if c.ReadinessProbe == nil != (c.LivenessProbe == nil) ||
			c.ReadinessProbe == nil && !strings.HasPrefix(of, "Pod/") {
			t.Errorf("%s lacks probes", of)
		}
	}
}

// checkSecrets wants a pod to have only its own secrets, as files, and no authority's key.
func checkSecrets(t *testing.T, of string, p core.PodTemplateSpec, contents []string) {
	t.Helper()
	for _, c := range append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...) {
		var shown []string
		shown = append(append(shown, c.Args...), c.Command...)
		for _, e := range c.Env {
			shown = append(shown, e.Value)
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				t.Errorf("%s: a secret is in $%s", of, e.Name)
			}
		}
		if len(c.EnvFrom) > 0 {
			t.Errorf("%s has an environment from elsewhere", of)
		}
		for _, s := range contents {
			if slices.ContainsFunc(shown, func(arg string) bool { return strings.Contains(arg, s) }) {
				t.Errorf("%s: a secret is in the arguments or the environment", of)
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Secret == nil {
			continue
		}
		if strings.HasSuffix(v.Secret.SecretName, "-authority") {
			t.Errorf("%s mounts the authority's key", of)
		}
		role := p.Labels["app.kubernetes.io/component"]
		if role == "test" {
			role = "client"
		}
		for _, prefix := range []string{"drover-tls-", "drover-cert-"} {
			if whose, ok := strings.CutPrefix(v.Secret.SecretName, prefix); ok && whose != role {
				t.Errorf("%s mounts the certificate of %s", of, whose)
			}
		}
		if len(v.Secret.Items) == 0 {
			t.Errorf("%s mounts all of secret %s", of, v.Secret.SecretName)
		}
		if mode := v.Secret.DefaultMode; mode == nil || *mode != 0o440 {
			t.Errorf("%s: everybody reads secret %s", of, v.Secret.SecretName)
		}
	}
}

// TestRefused wants values that cannot work to be refused, with a reason.
func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		v    values
		says string
	}{
		"unknown":            {in("tls.enable", true), "enable"},
		"unknown below":      {in("monitoring.serviceMonitor.on", true), "on"},
		"text for a truth":   {in("gossip.enabled", "yes"), "gossip.enabled"},
		"no TLS":             {in("tls.enabled", false), "enabled"},
		"no TLS for clients": {in("tls.clientPort", values{"enabled": false}), "enabled"},
		"a number for a name": {in("tls.existingSecrets.coordinator", 3),
			"tls.existingSecrets.coordinator"},
		"no days":      {in("tls.days", 0), "tls.days"},
		"bad manager":  {in("tls.certManager.enabled", "maybe"), "tls.certManager.enabled"},
		"bad name":     {in("tls.generated.authority", "A b"), "tls.generated.authority"},
		"bad secret":   {in("apiKeys.existingSecret", "a/b"), "apiKeys.existingSecret"},
		"bad metric":   {in("nodes.autoscaling.targetMetrics", values{"a b": "1"}), "targetMetrics"},
		"bad target":   {in("nodes.autoscaling.targetMetrics", values{"a": "one"}), "targetMetrics"},
		"bad interval": {in("monitoring.serviceMonitor.interval", "often"), "interval"},
		"negative":     {in("nodes.replicas", -1), "nodes.replicas"},
		"part of the secrets": {in("tls.existingSecrets.coordinator", "a"),
			"set that of expertnode, too"},
		"secrets without the coordinator's": {in("tls.existingSecrets.etcd", "a"),
			"belong together"},
		"no clients": {all(existing, in("tls.existingSecrets.client", "")), "nobody could use"},
		"twice":      {in("tls.generated.trust", []any{"1"}), "names others"},
		"plain etcd": {in("etcd.external", values{"enabled": true,
			"endpoints": []any{"http://e:2379"}}), "want https://"},
		"pull in plain text": {in("model", values{"source": "pull", "pull": values{
			"source": "http://h/m/"}}), "model.pull.source"},
		"nothing to pull": {in("model.source", "pull"), "set model.pull.source"},
		"pull into nowhere": {in("model", values{"source": "pull", "path": "/",
			"pull": values{"source": "hf:a/b"}}), "set model.path"},
		"pull out of the volume": {in("model", values{"source": "pull", "path": "..",
			"pull": values{"source": "hf:a/b"}}), "within the volume"},
		"claim out of the volume": {in("model", values{"source": "claim", "claim": "c", "path": "a/../../b"}),
			"within the volume"},
		"half a login": {all(external, in("etcd.external.user", "u")), "passwordSecret"},
		"unwatched":    {in("monitoring.dashboard.enabled", true), "monitoring.enabled is false"},
		"KEDA without Prometheus": {all(scaled, in("keda.enabled", true)),
			"keda.prometheusAddress"},
		"nothing to scale on": {in("nodes.autoscaling", values{"enabled": true, "targetCPU": 0}),
			"without anything to scale on"},
		"two GPUs for a process": {in("nodes.gpus", 2), "nodes.gpus"},
		"a class that no node has": {in("coordinator.expertDevice", "cuda"),
			"no node would be used"},
		"nodes of another class": {all(in("nodes.gpus", 1), in("coordinator.expertDevice", "cpu")),
			"all nodes compute by cuda"},
		"a digest of the other image": {all(in("coordinator.gpus", 1), in("image.digest",
			"sha256:"+strings.Repeat("0", 64))), "image.cuda.digest"},
		"a bad runtime class":    {in("nodes.runtimeClassName", "A b"), "nodes.runtimeClassName"},
		"more copies than nodes": {in("nodes.replicas", 1), "a node of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newRelease(t).render(tc.v)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want an error with %q", err, tc.says)
			}
		})
	}
}

// TestPull looks at what fetches a model: it alone may write it, and egress is opened for its
// source only.
func TestPull(t *testing.T) {
	ports := func(v values) (open []string) {
		for _, o := range newRelease(t).must(t, v) {
			p, ok := o.(*networking.NetworkPolicy)
			if !ok || !strings.HasSuffix(p.Name, "-node") {
				continue
			}
			for _, rule := range p.Spec.Egress {
				for _, port := range rule.Ports {
					if len(rule.To) == 0 {
						open = append(open, port.Port.String())
					}
				}
			}
		}
		return open
	}
	for source, want := range map[string]string{"hf:123/name": "443", "https://h/a:80/": "443",
		"https://h:8443/m/": "443 8443"} {
		v := in("model", values{"source": "pull", "path": "m", "pull": values{"source": source}})
		if got := strings.Join(ports(v), " "); got != want {
			t.Errorf("%s: egress to ports %q, want %q", source, got, want)
		}
		made := 0
		for of, p := range pods(newRelease(t).must(t, v)) {
			for _, c := range p.Spec.InitContainers {
				made++
				if !mounts(c, "model", false) {
					t.Errorf("%s: init container %+v", of, c)
				}
			}
			if len(p.Spec.InitContainers) > 0 && !mounts(p.Spec.Containers[0], "model", true) {
				t.Errorf("%s: the model is not mounted, or can be written", of)
			}
		}
		if made != 2 {
			t.Errorf("%s: %d roles fetch the model, want 2", source, made)
		}
	}
	if got := ports(values{}); len(got) != 0 {
		t.Errorf("without a model to fetch: egress to ports %v", got)
	}
}

// mounts tells whether a container has a volume, to read it only or to write it, too.
func mounts(c core.Container, volume string, readOnly bool) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool {
		return m.Name == volume && m.ReadOnly == readOnly
	})
}

// TestUpgradeRefused wants what an installation cannot become to be refused.
func TestUpgradeRefused(t *testing.T) {
	r := newRelease(t)
	r.install(t, values{})
	_, err := r.render(in("etcd.members", 3))
	if err == nil || !strings.Contains(err.Error(), "one by one") {
		t.Errorf("got %v, want an error with %q", err, "one by one")
	}
}

// TestLint is helm lint.
func TestLint(t *testing.T) {
	for name, v := range sets {
		for _, m := range lint.All(chartDir, v, namespace, true).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// TestMetrics wants everything that looks at metrics to name those that there are.
func TestMetrics(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	exists := func(name string) bool { return strings.Contains(string(doc), "| `"+name+"` |") }
	objects := newRelease(t).must(t, sets["large"])
	for _, of := range []string{"coordinator", "node"} {
		h := objects["HorizontalPodAutoscaler/drover-"+of].(*autoscaling.HorizontalPodAutoscaler)
		for _, m := range h.Spec.Metrics {
			if m.Pods != nil && !exists(m.Pods.Metric.Name) {
				t.Errorf("%s: there is no metric %s", of, m.Pods.Metric.Name)
			}
		}
	}
	named := regexp.MustCompile(`\bdrover_[a-z_]+`)
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range named.FindAllString(string(text), -1) {
		if seen++; !exists(name) {
			t.Errorf("values.yaml names %s, which does not exist", name)
		}
	}
	rules := objects["PrometheusRule/drover"].(*monitoring.PrometheusRule)
	for _, g := range rules.Spec.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" && named.MatchString(r.Expr.String()) {
				seen++
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d metrics were looked up only", seen)
	}
	dashboard := objects["ConfigMap/drover-dashboard"].(*core.ConfigMap).Data["drover.json"]
	if !strings.HasPrefix(dashboard, "{") || !named.MatchString(dashboard) {
		t.Error("the dashboard shows nothing")
	}
}

// TestAdminPort wants only the monitoring namespace at the admin ports.
func TestAdminPort(t *testing.T) {
	open := func(v values) (n int) {
		for name, o := range newRelease(t).must(t, v) {
			p, ok := o.(*networking.NetworkPolicy)
			if !ok {
				continue
			}
			for _, rule := range p.Spec.Ingress {
				for _, port := range rule.Ports {
					if port.Port.IntValue() != 9090 {
						continue
					}
					n++
					if len(rule.From) != 1 || rule.From[0].NamespaceSelector.MatchLabels["kubernetes.io/"+
						"metadata.name"] != "monitoring" {
						t.Errorf("%s: %v may reach the admin port", name, rule.From)
					}
				}
			}
		}
		return n
	}
	if n := open(values{}); n != 0 {
		t.Errorf("%d rules open the admin port, want none without monitoring", n)
	}
	if n := open(watched); n != 3 {
		t.Errorf("%d rules open the admin port, want one for each role", n)
	}
}
