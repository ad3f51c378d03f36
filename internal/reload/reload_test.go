package reload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFollow replaces files under a process that follows them: contents count, not times,
// and what is not valid changes nothing and is told of once.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		write(t, a, "one")
		write(t, b, "two")
		var got, log []string
		use := func(contents [][]byte) error {
			text := fmt.Sprintf("%s %s", contents[0], contents[1])
			if strings.Contains(text, "bad") {
				return errors.New("it is bad")
			}
			got = append(got, text)
			return nil
		}
		f, err := Open([]string{a, b}, use, Events{
			Reloaded: func() { log = append(log, "reloaded") },
			Failed:   func(err error) { log = append(log, err.Error()) }})
		if err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour)
		for _, step := range []func(){
			func() {},
			func() { write(t, b, "three"); _ = os.Chtimes(b, old, old) },
			func() { write(t, a, "bad") },
			func() { _ = os.Remove(a) },
			func() { write(t, a, "four") },
		} {
			step()
			time.Sleep(5 * every)
			synctest.Wait()
		}
		f.Close()
		write(t, a, "after the end")
		time.Sleep(5 * every)
		if got := strings.Join(got, ", "); got != "one two, one three, four three" {
			t.Errorf("used %q", got)
		}
		all := strings.Join(log, ", ")
		if len(log) != 4 || log[1] != "it is bad" || !strings.Contains(log[2], "no such file") ||
			log[0] != "reloaded" || log[3] != "reloaded" {
			t.Errorf("told of %q", all)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	write(t, large, strings.Repeat("x", maxBytes+1))
	take := func([][]byte) error { return nil }
	for path, use := range map[string]Use{
		filepath.Join(dir, "missing"): take,
		large:                         take,
		os.Args[0] + "/x":             take,
	} {
		if f, err := Open([]string{path}, use, Events{}); err == nil {
			f.Close()
			t.Errorf("Open(%s) accepts it", path)
		}
	}
	small := filepath.Join(dir, "small")
	write(t, small, "x")
	if _, err := Open([]string{small}, func([][]byte) error { return errors.ErrUnsupported },
		Events{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Open = %v, want the error of use", err)
	}
}
