package localcluster

import "testing"

// TestExpertNodes counts them as people do.
func TestExpertNodes(t *testing.T) {
	for n, want := range []string{"0 expert nodes", "1 expert node", "2 expert nodes"} {
		if got := expertNodes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
