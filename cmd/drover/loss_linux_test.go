package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// apart is set in the process that runs a test in a network of its own.
const apart = "DROVER_TEST_APART"

// TestPacketLoss has a tenth of all packets to and from a node vanish, each way: frames that wait
// for what TCP sends again are noticed, all answers are the same, and it heals by itself.
func TestPacketLoss(t *testing.T) {
	if os.Getenv(apart) == "" {
		runApart(t)
		return
	}
	const address = "127.77.0.1"
	r := newRoles(t)
	r.expertNode(t, place{}, "far", "--listen", address+":7071")
	r.expertNode(t, place{}, "near")
	p, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--last-resort-bytes", "0", "--expert-wait", "10m")
	f := newFaulty(t, p, endpoint, "far")
	f.check(t, &fault{
		on: func(t *testing.T) {
			mustRun(t, "nft add table ip faults")
			mustRun(t, "nft add chain ip faults output { type filter hook output priority 0 ; }")
			for _, way := range []string{"saddr", "daddr"} {
				mustRun(t, "nft add rule ip faults output ip "+way+" "+address+
					" numgen random mod 10 < 1 drop")
			}
		},
		off:   func(t *testing.T) { mustRun(t, "nft delete table ip faults") },
		ready: staysReady,
		rises: []string{"drover_suspicions_total drover_silent_links_total"},
		says:  []string{`msg="(node is silent and routed around|link down)" node=far`},
	})
}

// runApart runs the test once more in a network namespace that has loopback alone and ends with
// its last process, or skips it where that is not permitted.
func runApart(t *testing.T) {
	t.Helper()
	for _, name := range []string{"ip", "nft", "sh"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip("it needs the command "+name+": ", err)
		}
	}
	inside := func(command ...string) *exec.Cmd {
		c := exec.Command(command[0], command[1:]...)
		c.Env = append(os.Environ(), apart+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET,
			Pdeathsig: syscall.SIGKILL}
		return c
	}
	try := "ip link set lo up && nft add table ip t && nft add chain ip t c && " +
		"nft add rule ip t c numgen random mod 10 '<' 1 drop"
	if out, err := inside("sh", "-c", try).CombinedOutput(); err != nil {
		t.Skipf("networks that lose packets are not permitted here: %v: %s", err, out)
	}
	runtime.LockOSThread() // or the end of a thread may end the process
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := inside("sh", "-c", `ip link set lo up && exec "$@"`, "sh", self, "-test.run",
		"^"+t.Name()+"$", "-test.v").CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	t.Logf("%s", out)
}

// mustRun runs a short command; a word has no blanks.
func mustRun(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
}
