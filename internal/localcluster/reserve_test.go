package localcluster

import (
	"net"
	"testing"
)

// TestReserve checks that a reserved port refuses connections while nobody serves it, can be
// served again and again, and is not given to others.
func TestReserve(t *testing.T) {
	for _, host := range []string{"127.0.0.1:0", "localhost:0"} {
		address, release, err := reserve(host)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		for range 3 {
			if c, err := net.Dial("tcp", address); err == nil {
				_ = c.Close()
				t.Error("a port that nobody serves takes connections")
			}
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
			} else {
				_ = c.Close()
			}
			_ = l.Close()
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, _, err := reserve(taken.Addr().String()); err == nil {
		t.Error("a port that another serves was reserved")
	}
}
