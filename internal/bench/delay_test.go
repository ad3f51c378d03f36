package bench

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestDelay checks that bytes arrive unchanged, in order, exactly so much later in both
// directions, and that Close leaves nothing behind.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const oneWay = 5 * time.Millisecond
		here, there := net.Pipe()
		c := delay(here, oneWay)
		defer c.Close()
		sent := bytes.Repeat([]byte("0123456789"), 20000)
		begin := time.Now()
		go func() { _, _ = c.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(there, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("read other bytes, error %v", err)
		}
		if took := time.Since(begin); took != oneWay {
			t.Errorf("bytes arrived after %v, want %v", took, oneWay)
		}
		begin = time.Now()
		go func() { _, _ = there.Write([]byte("back")) }()
		if _, err := io.ReadFull(c, got[:4]); err != nil || string(got[:4]) != "back" {
			t.Fatalf("read %q, error %v", got[:4], err)
		}
		if took := time.Since(begin); took != oneWay {
			t.Errorf("bytes came back after %v, want %v", took, oneWay)
		}
	})
}

// TestDelayEnds checks that the end of either side reaches the other.
func TestDelayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		c := delay(here, time.Millisecond)
		there.Close()
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read %d bytes, %v; want the end", n, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		here, there = net.Pipe()
		delay(here, time.Millisecond).Close()
		if n, err := there.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the other side read %d bytes, %v; want the end", n, err)
		}
	})
}
