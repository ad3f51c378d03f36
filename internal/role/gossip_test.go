package role

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/cluster"
)

func TestGossipName(t *testing.T) {
	id, epoch, ok := parseGossipName(gossipName("rack@3", 42))
	if id != "rack@3" || epoch != 42 || !ok {
		t.Errorf("name of a node's life reads as %q, %d, %t", id, epoch, ok)
	}
	for _, other := range []string{"coordinator", "a@", "a@b"} {
		if _, _, ok := parseGossipName(other); ok {
			t.Errorf("%q reads as a node's life", other)
		}
	}
}

// TestGossipKeyFile changes a file of gossip keys: who has only the new key is heard then,
// and a file that cannot be used changes nothing.
func TestGossipKeyFile(t *testing.T) {
	const old, fresh = "an old secret of the cluster", "a new secret of the cluster"
	file := filepath.Join(t.TempDir(), "keys")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# the key\n" + old + "\n")
	g, err := ListenGossip("c", "127.0.0.1:0", GossipSecret{File: file},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	heard := make(chan string, 16)
	peer, err := cluster.StartGossip(t.Context(), cluster.GossipOptions{Name: "n@1",
		Secrets: [][]byte{[]byte(fresh)}, Seeds: func() []string { return []string{g.Address} },
		Events: cluster.GossipEvents{Hint: func(name string, alive bool, _ []byte) {
			if alive {
				heard <- name
			}
		}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()

	write(fresh + "\n\n" + old)
	if _, err := g.files.Check(); err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-heard:
		if name != "c" {
			t.Errorf("heard %q", name)
		}
	case <-time.After(time.Minute):
		t.Fatal("who has the new key is not heard")
	}
	for _, tc := range [][2]string{{"# nothing\n", "no key"}, {fresh + "\nshort", "5 bytes"},
		{strings.Repeat(fresh+"\n", 9), "9 secrets"}} {
		write(tc[0])
		if _, err := g.files.Check(); err == nil || !strings.Contains(err.Error(), tc[1]) {
			t.Errorf("%q: %v, want one that says %q", tc[0], err, tc[1])
		}
	}
	if _, err := ListenGossip("d", "127.0.0.1:0", GossipSecret{File: file + ".none"},
		slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "keys.none") {
		t.Errorf("a file that is not there: %v", err)
	}
}
