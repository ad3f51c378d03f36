// Package render tests what the chart makes of values, without a cluster: objects are read as
// strictly as their API's types allow, and pods must meet the restricted Pod Security. It is a
// module of its own, so that Helm and Kubernetes are not among what Drover needs.
package render

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	chartDir  = "../drover"
	namespace = "somewhere"
)

// known has the types of all objects that the chart may make.
var known = func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(s))
	utilruntime.Must(certmanager.AddToScheme(s))
	utilruntime.Must(monitoring.AddToScheme(s))
	utilruntime.Must(gateway.Install(s))
	s.AddKnownTypeWithName(schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1",
		Kind: "ScaledObject"}, &scaledObject{})
	return s
}()

// strict refuses unknown and repeated fields.
var strict = serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()

// values are what a user sets.
type values = map[string]any

// release is one installation: what the cluster holds, and which APIs it has.
type release struct {
	chart   *chart.Chart
	cluster *fake.FakeDynamicClient
	apis    []string
}

func newRelease(t *testing.T, apis ...string) *release {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return &release{c, fake.NewSimpleDynamicClient(known), apis}
}

// GetClientFor lets templates look up what is installed.
func (r *release) GetClientFor(version, kind string) (dynamic.NamespaceableResourceInterface, bool,
	error) {
	group, err := schema.ParseGroupVersion(version)
	return r.cluster.Resource(group.WithResource(strings.ToLower(kind) + "s")), true, err
}

// files returns what the templates make of objects in an upgrade.
func (r *release) files(v values) (map[string]string, error) {
	files, err := r.templates(v)
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasSuffix(name, ".txt") })
	return files, err
}

// templates returns what all templates make in an upgrade, that for people too.
func (r *release) templates(v values) (map[string]string, error) {
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.34.4", Major: "1", Minor: "34"}
	caps.APIVersions = append(caps.APIVersions, r.apis...)
	all, err := chartutil.ToRenderValues(r.chart, v, chartutil.ReleaseOptions{Name: "drover",
		Namespace: namespace, Revision: 2, IsUpgrade: true}, caps)
	if err != nil {
		return nil, err
	}
	return engine.RenderWithClientProvider(r.chart, all, r)
}

// render returns the objects by kind and name.
func (r *release) render(v values) (map[string]runtime.Object, error) {
	files, err := r.files(v)
	if err != nil {
		return nil, err
	}
	objects := map[string]runtime.Object{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for document := range strings.SplitSeq(files[name], "\n---\n") {
			text, err := yaml.ToJSON([]byte(document))
			if err != nil {
				return nil, &badObject{name, err}
			}
			if bytes.Equal(text, []byte("null")) {
				continue
			}
			o, kind, err := strict.Decode(text, nil, nil)
			if err != nil {
				return nil, &badObject{name, err}
			}
			objects[kind.Kind+"/"+o.(meta.Object).GetName()] = o
		}
	}
	return objects, nil
}

type badObject struct {
	file string
	err  error
}

func (e *badObject) Error() string { return e.file + ": " + e.err.Error() }

// must is render for values that are right.
func (r *release) must(t *testing.T, v values) map[string]runtime.Object {
	t.Helper()
	objects, err := r.render(v)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// install is must, and the cluster has the secrets and sets then.
func (r *release) install(t *testing.T, v values) map[string]runtime.Object {
	t.Helper()
	objects := r.must(t, v)
	r.keep(objects)
	return objects
}

func (r *release) keep(objects map[string]runtime.Object) {
	var kept []runtime.Object
	for _, o := range objects {
		switch o.(type) {
		case *core.Secret, *apps.StatefulSet:
			kept = append(kept, o)
		}
	}
	r.cluster = fake.NewSimpleDynamicClient(known, kept...)
}

// pods are the templates of all pods, by the object that makes them.
func pods(objects map[string]runtime.Object) map[string]core.PodTemplateSpec {
	all := map[string]core.PodTemplateSpec{}
	for name, o := range objects {
		switch o := o.(type) {
		case *apps.Deployment:
			all[name] = o.Spec.Template
		case *apps.StatefulSet:
			all[name] = o.Spec.Template
		case *core.Pod:
			all[name] = core.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec}
		}
	}
	return all
}

// in makes values of a path with dots and what stands there.
func in(path string, value any) values {
	head, rest, nested := strings.Cut(path, ".")
	if nested {
		value = in(rest, value)
	}
	return values{head: value}
}

// all joins values; later ones win.
func all(parts ...values) values {
	joined := values{}
	for _, p := range parts {
		for k, v := range p {
			below, isTable := v.(values)
			if above, ok := joined[k].(values); ok && isTable {
				v = all(above, below)
			}
			joined[k] = v
		}
	}
	return joined
}

// scaledObject is as much of KEDA's object as the chart uses: its API's types come with all
// of KEDA.
type scaledObject struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata,omitempty"`
	Spec            struct {
		ScaleTargetRef struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Name       string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount int32 `json:"minReplicaCount"`
		MaxReplicaCount int32 `json:"maxReplicaCount"`
		Advanced        struct {
			HorizontalPodAutoscalerConfig struct {
				Behavior map[string]any `json:"behavior"`
			} `json:"horizontalPodAutoscalerConfig"`
		} `json:"advanced"`
		Triggers []struct {
			Type       string            `json:"type"`
			MetricType string            `json:"metricType"`
			Metadata   map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// DeepCopyObject implements runtime.Object.
func (s *scaledObject) DeepCopyObject() runtime.Object {
	c := *s
	return &c
}
