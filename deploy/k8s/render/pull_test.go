package render

import (
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// TestSlices looks at what each role pulls before it starts and later, at what lets it in there,
// and at the room that it gets.
func TestSlices(t *testing.T) {
	pull := func(more values) values {
		v := values{"source": "https://h:8443/m/", "hub": "https://hub", "tokenSecret": "t",
			"authoritySecret": "c"}
		for name, value := range more {
			v[name] = value
		}
		return in("model", values{"source": "pull", "path": "m", "pull": v})
	}
	for name, tc := range map[string]struct {
		v      values
		slices map[string]bool
		room   map[string]string // of volume and of all volumes of the pod
	}{
		"default": {pull(nil), map[string]bool{"coordinator": true, "expertnode": true},
			map[string]string{"coordinator": "64Gi 128Gi", "expertnode": "1Gi 16Gi"}},
		"room": {pull(values{"size": "30Gi", "ephemeralStorage": "40Gi", "nodeSize": "2Gi",
			"nodeEphemeralStorage": "200Gi"}), map[string]bool{"coordinator": true, "expertnode": true},
			map[string]string{"coordinator": "30Gi 40Gi", "expertnode": "2Gi 200Gi"}},
		"peers": {all(pull(nil), in("nodes.source", "peers")), map[string]bool{"coordinator": true},
			map[string]string{"coordinator": "64Gi 128Gi", "expertnode": "1Gi 16Gi"}},
		"whole": {pull(values{"slices": false}), nil,
			map[string]string{"coordinator": "64Gi 128Gi", "expertnode": "64Gi 128Gi"}},
	} {
		t.Run(name, func(t *testing.T) {
			for role, p := range rolePods(t, tc.v) {
				if role == "coordinator" || role == "expertnode" {
					checkInit(t, role, p, name != "whole", tc.room[role])
				}
				checkPulls(t, role, p.Containers[0], tc.slices[role])
			}
		})
	}
}

// checkInit looks at what fetches a role's part of the model, and at its room.
func checkInit(t *testing.T, role string, p core.PodSpec, part bool, room string) {
	t.Helper()
	c := p.InitContainers[0]
	if slices.Contains(c.Args, "--for="+role) != part {
		t.Errorf("%s: arguments %v", role, c.Args)
	}
	most := c.Resources.Limits.StorageEphemeral().String()
	for _, v := range p.Volumes {
		if v.Name != "model" {
			continue
		}
		got := v.EmptyDir.SizeLimit.String()
		if asked := c.Resources.Requests.StorageEphemeral().String(); got != asked || got+" "+most != room {
			t.Errorf("%s: a volume of %s, %s asked for, of %s in all; want %s", role, got, asked, most, room)
		}
	}
}

// checkPulls wants a role to have all that reading from the source takes, or nothing of it.
func checkPulls(t *testing.T, role string, c core.Container, want bool) {
	t.Helper()
	for _, arg := range []string{"--pull=https://h:8443/m/", "--pull-hub=https://hub",
		"--pull-token-file=/pull-token/token"} {
		if slices.Contains(c.Args, arg) != want {
			t.Errorf("%s: %s is not in its place: %v", role, arg, c.Args)
		}
	}
	trusts := slices.ContainsFunc(c.Env, func(e core.EnvVar) bool {
		return e.Name == "SSL_CERT_FILE" && strings.HasPrefix(e.Value, "/pull-authority/")
	})
	if trusts != want || mounts(c, "pull-authority", true) != want || mounts(c, "pull-token", true) != want {
		t.Errorf("%s: trusts the source %v, mounts %v; want %v", role, trusts, c.VolumeMounts, want)
	}
}
