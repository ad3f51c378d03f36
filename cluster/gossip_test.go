package cluster

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var testSecret = []byte("a secret of 24 bytes ...")

type heard struct {
	name  string
	alive bool
	meta  string
}

func startGossip(t *testing.T, name, seed string, secret []byte) (*Gossip, chan heard) {
	t.Helper()
	ch := make(chan heard, 64)
	opts := GossipOptions{Name: name, Secrets: [][]byte{secret}, Meta: []byte("of " + name),
		Events: GossipEvents{Hint: func(name string, alive bool, meta []byte) {
			ch <- heard{name, alive, string(meta)}
		}}}
	if seed != "" {
		opts.Seeds = func() []string { return []string{seed} }
	}
	g, err := StartGossip(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return g, ch
}

func expectHint(t *testing.T, ch chan heard, want heard) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case got := <-ch:
			if got == want {
				return
			}
		case <-limit:
			t.Fatalf("no hint %+v", want)
		}
	}
}

func TestGossip(t *testing.T) {
	a, heardA := startGossip(t, "a", "", testSecret)
	b, heardB := startGossip(t, "b", a.Address(), testSecret)
	expectHint(t, heardA, heard{"b", true, "of b"})
	expectHint(t, heardB, heard{"a", true, "of a"})
	if err := b.SetMeta([]byte("draining")); err != nil {
		t.Fatal(err)
	}
	expectHint(t, heardA, heard{"b", true, "draining"})
	if err := b.SetMeta(make([]byte, 513)); err == nil {
		t.Error("513 bytes of metadata are accepted")
	}
	// One with another key is not heard.
	stranger, _ := startGossip(t, "x", "", bytes.Repeat([]byte("x"), 32))
	if _, err := stranger.list.Join([]string{a.Address()}); err == nil {
		t.Error("a process with another secret joins")
	}
	if n := a.list.NumMembers(); n != 2 {
		t.Errorf("%d members, want 2", n)
	}
	if err := stranger.Close(); err != nil {
		t.Error(err)
	}
	// A death without good-bye.
	b.stop()
	b.running.Wait()
	if err := b.list.Shutdown(); err != nil {
		t.Fatal(err)
	}
	expectHint(t, heardA, heard{"b", false, "draining"})
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestGossipRefuses(t *testing.T) {
	for name, opts := range map[string]GossipOptions{
		"no secret":    {Name: "a"},
		"short secret": {Name: "a", Secrets: [][]byte{testSecret, []byte("short")}},
		"no name":      {Secrets: [][]byte{testSecret}},
		"address":      {Name: "a", Secrets: [][]byte{testSecret}, Address: "nowhere"},
		"port":         {Name: "a", Secrets: [][]byte{testSecret}, Address: "127.0.0.1:http"},
		"advertise":    {Name: "a", Secrets: [][]byte{testSecret}, Advertise: "1.2.3.4"},
		"many secrets": {Name: "a", Secrets: slices.Repeat([][]byte{testSecret}, maxSecrets+1)},
		"metadata":     {Name: "a", Secrets: [][]byte{testSecret}, Meta: make([]byte, 513)},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := StartGossip(t.Context(), opts)
			if err == nil {
				g.Close()
				t.Fatal("StartGossip accepts it")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %v", err)
			}
		})
	}
}

// TestGossipSecretChanges changes the secret of two that gossip, each at its own time. They
// hear each other at each step, and in the end nobody with the old secret hears them.
func TestGossipSecretChanges(t *testing.T) {
	fresh := bytes.Repeat([]byte("fresh"), 8)
	a, heardA := startGossip(t, "a", "", testSecret)
	b, heardB := startGossip(t, "b", a.Address(), testSecret)
	expectHint(t, heardA, heard{"b", true, "of b"})
	expectHint(t, heardB, heard{"a", true, "of a"})
	for i, secrets := range [][][]byte{{testSecret, fresh}, {fresh, testSecret}, {fresh}} {
		for _, g := range []*Gossip{a, b} {
			if err := g.SetSecrets(secrets); err != nil {
				t.Fatal(err)
			}
			for _, g := range []*Gossip{a, b} {
				_ = g.SetMeta([]byte(g.opts.Name + strconv.Itoa(i))) // the hints below tell
			}
		}
		expectHint(t, heardA, heard{"b", true, "b" + strconv.Itoa(i)})
		expectHint(t, heardB, heard{"a", true, "a" + strconv.Itoa(i)})
	}
	if keys := a.keys.GetKeys(); len(keys) != 1 {
		t.Errorf("%d keys are accepted, want 1", len(keys))
	}
	stranger, _ := startGossip(t, "x", "", testSecret)
	if _, err := stranger.list.Join([]string{a.Address()}); err == nil {
		t.Error("a process with the old secret joins")
	}
	if err := a.SetSecrets([][]byte{[]byte("short")}); err == nil {
		t.Error("a short secret is taken")
	}
	for _, g := range []*Gossip{stranger, b, a} {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}
