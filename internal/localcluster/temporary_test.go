package localcluster

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTemporary leaves folders behind as killed processes do: the next one removes those, and
// neither one that is in use nor what is no state folder.
func TestTemporary(t *testing.T) {
	parent := t.TempDir()
	used, remove, err := temporary(parent)
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(parent, temporaryPrefix+"killed")
	unlocked := filepath.Join(parent, temporaryPrefix+"unlocked")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, dir := range []string{killed, unlocked, elsewhere} {
		if err := os.MkdirAll(filepath.Join(dir, "etcd"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{killed, elsewhere} {
		if err := os.WriteFile(filepath.Join(dir, lockName), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(parent, temporaryPrefix+"link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	_, removeNext, err := temporary(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer removeNext()
	for dir, want := range map[string]bool{used: true, killed: false, unlocked: true, link: true,
		filepath.Join(elsewhere, "etcd"): true} {
		if _, err := os.Lstat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", filepath.Base(dir), err == nil, want)
		}
	}
	remove()
	if _, err := os.Lstat(used); err == nil {
		t.Error("remove left the folder")
	}
}
