package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/testcluster"
)

// retrained copies the demo model and changes all weights of one of its files a little, as
// another training does.
func retrained(t *testing.T, model string) string {
	t.Helper()
	dir := testcluster.HeadersOnly(t, model)
	entries, err := os.ReadDir(model)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".safetensors") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(model, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(e.Name(), "model-00002") {
			for at := 8 + int(binary.LittleEndian.Uint64(b)); at < len(b); at += 2 {
				b[at] ^= 1 // the least bit of a bf16
			}
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOtherTraining joins a node with another training of the model: it is not used, and the
// reason says so. A node that says it has weights and has only their headers does not start.
func TestOtherTraining(t *testing.T) {
	r := newRoles(t)
	r.expertNode(t, place{}, "first", "--short-lease")
	other := &roles{etcd: r.etcd, model: retrained(t, r.model)}
	other.expertNode(t, place{}, "other", "--short-lease")
	coordinator, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--min-nodes", "1")
	c := connectTo(t, endpoint)
	c.mustAsk(t, story)
	eventually(t, 20*slack*time.Second, "the other is unusable", func() (bool, string) {
		n := c.nodes(t)["other"]
		return n.GetState() == "unusable" && n.GetReplicaCount() == 0, n.String()
	})
	if log := coordinator.errors.String(); !strings.Contains(log, "other weights of the same") {
		t.Errorf("the coordinator's log does not say why:\n%s", log)
	}
	hollow := &roles{etcd: r.etcd, model: testcluster.HeadersOnly(t, r.model)}
	p := hollow.expertNode(t, place{}, "hollow")
	if code := p.wait(20 * slack * time.Second); code != exitFailed ||
		!strings.Contains(p.errors.String(), "hold no weights") {
		t.Errorf("a node without weights: exit code %d, %s", code, p.errors.String())
	}
}
