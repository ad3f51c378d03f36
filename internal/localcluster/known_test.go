package localcluster

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/identity"
)

// TestKnown has clusters tell their authorities: while they run and no longer, in the place of
// what one that was killed left there, and nothing in plain text.
func TestKnown(t *testing.T) {
	at := []Endpoint{{GRPC: "127.0.0.1:7070"}, {GRPC: "[::1]:7071"}}
	o := Options{KnownDir: filepath.Join(t.TempDir(), "drover", "clusters")}
	begin := func(plain bool) *Cluster {
		t.Helper()
		c := &Cluster{GRPC: at[0].GRPC, Coordinators: at}
		if !plain {
			var err error
			if c.identities, err = openIdentities(t.TempDir(), nil, time.Now()); err != nil {
				t.Fatal(err)
			}
			c.Authority = filepath.Join(c.identities.authorityDir(), identity.AuthorityFile)
		}
		return c
	}
	known := func() (all []string) {
		for _, e := range at {
			if text, err := os.ReadFile(KnownAuthority(o.KnownDir, e.GRPC)); err == nil {
				all = append(all, string(text))
			}
		}
		return all
	}
	killed := begin(false)
	killed.makeKnown(o)
	left := known()
	if len(left) != 2 || left[0] != left[1] || !killed.Known ||
		killed.Authority != KnownAuthority(o.KnownDir, "localhost:7070") {
		t.Fatalf("%s tells %q", killed.Authority, left)
	}
	info, err := os.Stat(o.KnownDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}
	next := begin(false)
	next.makeKnown(o)
	if now := known(); len(now) != 2 || now[0] == left[0] || now[1] == left[1] {
		t.Errorf("known is %q, want another authority than %q", now, left)
	}
	next.Close()
	if now := known(); len(now) != 0 {
		t.Errorf("after the end %q is known", now)
	}
	begin(false).makeKnown(o) // killed, too
	begin(true).makeKnown(o)
	if now := known(); len(now) != 0 {
		t.Errorf("in plain text %q is known", now)
	}
	entries, err := os.ReadDir(o.KnownDir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestKnownNowhere has a cluster whose user has no folder that it may write.
func TestKnownNowhere(t *testing.T) {
	var said strings.Builder
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Coordinators: []Endpoint{{GRPC: "127.0.0.1:1"}}}
	var err error
	if c.identities, err = openIdentities(t.TempDir(), nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(c.identities.authorityDir(), identity.AuthorityFile)
	c.Authority = own
	c.makeKnown(Options{KnownDir: file, Log: slog.New(slog.NewTextHandler(&said, nil))})
	if c.Known || c.Authority != own || !strings.Contains(said.String(), "--ca") {
		t.Errorf("known %v, %s; said %q", c.Known, c.Authority, &said)
	}
}

// TestKnownName checks that addresses are names of files.
func TestKnownName(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:7070": "127.0.0.1_7070", "localhost:1": "127.0.0.1_1", "[::1]:2": "--1_2",
		"[fe80::1%../../x]:3": "fe80--1-..-..-x_3", "nonsense": "_",
	} {
		if got := knownName(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
