package main

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestUpStoreKilled kills everything of a cluster at once, by SIGKILL while its placement
// changes, and starts it again on its state: it goes on from the placement that was.
func TestUpStoreKilled(t *testing.T) { upStoreKilled(t, 3) }

// TestSoakUpStoreKill is TestUpStoreKilled many times: DROVER_SOAK=1 go test ./cmd/drover
// -run TestSoakUpStoreKill -timeout 60m.
func TestSoakUpStoreKill(t *testing.T) {
	if os.Getenv("DROVER_SOAK") == "" {
		t.Skip("DROVER_SOAK is not set")
	}
	upStoreKilled(t, 100)
}

func upStoreKilled(t *testing.T, kills int) {
	state, want, revision := t.TempDir(), "", uint64(0)
	for kill := range kills + 1 {
		u := startUp(t, "--nodes", "3", "--dir", state)
		got := u.mustAsk(t, story)
		if want == "" {
			want = got
		}
		now := u.revision(t)
		if got != want || now < revision {
			t.Errorf("after %d kills: revision %d, before %d; answered %q, at first %q", kill, now,
				revision, got, want)
		}
		if revision = now; kill == kills {
			return
		}
		// A node that is stopped loses its lease; others load what it held.
		_, pid := u.node(t, 2)
		pids := u.pids(t)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Second + time.Duration(rand.IntN(1000))*time.Millisecond)
		u.signal(syscall.SIGKILL)
		for _, pid := range pids {
			if pid > 1 && alive(pid) { // they end with the first, but perhaps not at once
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		u.wait(10 * slack * time.Second)
	}
}
