package bench

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"drover/internal/role"
	"drover/internal/testcluster"
	"drover/kernel"
	"drover/model"
)

// TestTransport looks at whether nodes speak TLS, which they do unless plain text is asked for.
func TestTransport(t *testing.T) {
	pool := kernel.NewPool(1)
	defer pool.Close()
	m, err := role.OpenModel(testcluster.Path("models/tiny-maverick"),
		model.Options{Mode: kernel.BF16, Device: kernel.NewCPU(pool)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, plaintext := range []bool{false, true} {
		ns, err := startNodes(t.Context(), m, pool, 2, plaintext)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		for id, n := range ns.view.Nodes {
			c, err := net.Dial("tcp", n.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute)) // a connection of TCP takes deadlines
			secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			if err := secure.Handshake(); (err != nil) != plaintext {
				t.Errorf("plain text %v: a handshake with %s ends with %v", plaintext, id, err)
			}
		}
	}
}

// TestOverlapTransport measures one step both ways: the report says which was measured.
func TestOverlapTransport(t *testing.T) {
	for _, plaintext := range []bool{false, true} {
		rep, err := Overlap(t.Context(), testcluster.Path("models/tiny-maverick"), kernel.BF16,
			OverlapOptions{Plaintext: plaintext, Batch: 2, PromptTokens: 4, Steps: 1,
				Delays: []time.Duration{0}})
		if err != nil {
			t.Fatal(err)
		}
		want := transport(plaintext)
		if first, _, _ := strings.Cut(rep.Text(), "\n"); rep.Transport != want ||
			!strings.Contains(first, "2 nodes, "+want+",") {
			t.Errorf("plain text %v: %s, in JSON %q", plaintext, first, rep.Transport)
		}
	}
}
