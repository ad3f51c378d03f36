package role

import "testing"

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
