package etcdserver

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBackup restores a member from a backup: what was written before it is there, what was
// written after it is not, and revisions do not go back.
func TestBackup(t *testing.T) {
	s, err := Start(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "old")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	read(t, s.Endpoint(), "before")
	file := filepath.Join(t.TempDir(), "backup")
	if err := Backup(t.Context(), s.Endpoint(), nil, file); err != nil {
		t.Fatal(err)
	}
	if err := Backup(t.Context(), s.Endpoint(), nil, file); err == nil ||
		!strings.Contains(err.Error(), "exists") {
		t.Errorf("a second backup to one file: %v", err)
	}
	read(t, s.Endpoint(), "after")
	newest := revision(t, s.Endpoint())

	opts := Options{Dir: filepath.Join(t.TempDir(), "new"), PeerURL: "http://127.0.0.1:2380"}
	if err := Restore(opts, file); err != nil {
		t.Fatal(err)
	}
	if err := Restore(opts, file); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restored over a member: %v", err)
	}
	opts.PeerURL, opts.AdvertisePeerURL = "", opts.PeerURL
	restored, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	if got := read(t, restored.Endpoint(), ""); got != "before" {
		t.Errorf("restored %q, want what was there at the backup", got)
	}
	if got := revision(t, restored.Endpoint()); got <= newest {
		t.Errorf("revision %d after restoring, %d before", got, newest)
	}
}

// TestBackupOfNobody asks for a backup where no etcd is: that is said, and no file is left.
func TestBackupOfNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	file := filepath.Join(t.TempDir(), "backup")
	err := Backup(ctx, "http://127.0.0.1:1", nil, file)
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v, want that it does not answer", err)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

func TestRestoreRefuses(t *testing.T) {
	s, err := Start(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "old")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	whole := filepath.Join(t.TempDir(), "backup")
	if err := Backup(t.Context(), s.Endpoint(), nil, whole); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, b...)
	flipped[len(b)/2] ^= 1
	for name, bad := range map[string]struct {
		content []byte
		want    string
	}{
		"cut off": {b[:len(b)-100], "cut off"},
		"empty":   {nil, "no backup of etcd"},
		"flipped": {flipped, "damaged"},
		"other":   {[]byte(strings.Repeat("x", 544)), "damaged"},
	} {
		file := filepath.Join(t.TempDir(), "backup")
		if err := os.WriteFile(file, bad.content, 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "new")
		err := Restore(Options{Dir: dir}, file)
		if err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %q", name, err, bad.want)
		}
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s: a folder was made", name)
		}
	}
	if err := Restore(Options{Dir: t.TempDir()}, filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file is no error")
	}
}
