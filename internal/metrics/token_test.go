package metrics

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/reload"
)

// TestToken replaces a token: one that cannot be used changes nothing, a good one is in force
// a second later.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "token")
		write := func(text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("first\n")
		var reloaded, failed int
		token, err := OpenToken(path, reload.Events{Reloaded: func() { reloaded++ },
			Failed: func(error) { failed++ }})
		if err != nil {
			t.Fatal(err)
		}
		defer token.Close()
		expect := func(good string, bad ...string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			r := httptest.NewRequest("GET", "/metrics", nil)
			for _, text := range append(bad, "", "Bearer ", good, "Bearer "+good+" ") {
				if r.Header.Set("Authorization", text); token.shownBy(r) {
					t.Errorf("%q was taken", text)
				}
			}
			if r.Header.Set("Authorization", "Bearer "+good); !token.shownBy(r) {
				t.Errorf("%q was refused", good)
			}
		}
		expect("first", "Bearer firs", "Basic first")
		write("")
		expect("first")
		write("second")
		expect("second", "Bearer first")
		if reloaded != 1 || failed != 1 {
			t.Errorf("%d good and %d bad tokens were told of, want 1 and 1", reloaded, failed)
		}
	})
	for name, text := range map[string]string{"empty": " \n", "two": "a b", "not ASCII": "clé",
		"too long": strings.Repeat("x", maxTokenBytes+1)} {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if token, err := OpenToken(path, reload.Events{}); err == nil {
			token.Close()
			t.Errorf("a token that is %s was taken", name)
		}
	}
}
