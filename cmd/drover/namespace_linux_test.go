package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNamespaces runs two expert nodes in network namespaces of their own, which reach
// each other and the coordinator over a bridge only, as machines on one network do.
func TestNamespaces(t *testing.T) {
	hub := newNetwork(t)
	left, right := hub.machine(t, "left", "10.213.77.2"), hub.machine(t, "right", "10.213.77.3")
	dir := certificates(t, "etcd", "expertnode")
	of := func(role string) string { return filepath.Join(dir, role) }
	if code, _, stderr := drover(t, "certs", "issue", "coordinator", "--ca", dir, "--out",
		of("coordinator"), "--host", "10.213.77.1"); code != 0 {
		t.Fatal(stderr)
	}
	awaitReady(t, launch(t, hub.place, "etcd", "--dir", t.TempDir(), "--client",
		"https://10.213.77.1:2379", "--tls", of("etcd")))
	r := &roles{etcd: "https://10.213.77.1:2379", model: demoModel(t)}
	r.expertNode(t, left, "left", "--listen", "10.213.77.2:7071", "--tls", of("expertnode"))
	r.expertNode(t, right, "right", "--listen", "10.213.77.3:7071", "--tls", of("expertnode"))
	coordinator, endpoint := r.coordinator(t, hub.place, "--grpc", "10.213.77.1:7070", "--tls",
		of("coordinator"))
	reached := []string{"--tls", of("coordinator"), "--endpoint", endpoint} // an operator

	run := launch(t, left, append([]string{"run", translate}, reached...)...)
	code := run.wait(10 * slack * time.Second)
	if code != exitDone || run.out.String() != translated+"\n" {
		t.Errorf("run: exit code %d, printed %q", code, &run.out)
	}
	list := launch(t, right, append([]string{"nodes"}, reached...)...)
	if code := list.wait(10 * slack * time.Second); code != 0 {
		t.Errorf("nodes: exit code %d", code)
	}
	for _, want := range []string{"10.213.77.2:7071", "10.213.77.3:7071"} {
		if !strings.Contains(list.out.String(), want) {
			t.Errorf("nodes does not list %s:\n%s", want, &list.out)
		}
	}
	t.Run("unreachable, idle", func(t *testing.T) {
		const linkDown = `msg="link down" node=left `
		before := strings.Count(coordinator.errors.String(), linkDown)
		checkUnreachable(t, hub, reached, func() {
			cut := time.Now()
			eventually(t, recoversWithin, "the link goes down unasked", func() (bool, string) {
				said := coordinator.errors.String()
				return strings.Count(said, linkDown) > before, said
			})
			t.Logf("the coordinator noticed after %v", time.Since(cut))
		})
	})
	t.Run("unreachable", func(t *testing.T) { checkUnreachable(t, hub, reached, func() {}) })
}

// checkUnreachable cuts one machine off. Nothing tells the coordinator so, unlike the end
// of a process, and yet the next answer, after some time, comes: the other machine takes over.
func checkUnreachable(t *testing.T, hub *network, reached []string, meanwhile func()) {
	const leaseToo = 10 * slack * time.Second // the default lease ends after 5 s
	answers := func(when string) {
		p := launch(t, hub.place, append([]string{"run", translate}, reached...)...)
		code := p.wait(recoversWithin + leaseToo)
		if code != exitDone || p.out.String() != translated+"\n" {
			t.Errorf("with left %s: exit code %d, %s%s", when, code, &p.out, &p.errors)
		}
	}
	line := regexp.MustCompile(`(?m)^left .* ready .* (\d+) +\S+$`)
	rows := func() (n int, list string) {
		p := launch(t, hub.place, append([]string{"nodes"}, reached...)...)
		p.wait(10 * slack * time.Second)
		if found := line.FindStringSubmatch(p.out.String()); found != nil {
			n, _ = strconv.Atoi(found[1]) // the pattern has digits only
		}
		return n, p.out.String()
	}
	before, _ := rows()
	mustIP(t, "-n", hub.prefix+"hub", "link", "set", "left", "down")
	meanwhile()
	answers("cut off")
	mustIP(t, "-n", hub.prefix+"hub", "link", "set", "left", "up")
	eventually(t, time.Minute*slack, "left computes again", func() (bool, string) {
		answers("back")
		n, list := rows()
		return n > before, list
	})
}

// network is a bridge in a namespace of its own, to which machines are tied.
type network struct {
	place  place
	prefix string // of the names of namespaces
}

// newNetwork makes a network until the test ends, or skips the test where that is not
// permitted. The machine's own network is not touched.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the command ip: ", err)
	}
	n := &network{prefix: fmt.Sprintf("drover-test-%d-", os.Getpid())}
	if out, err := n.namespace(t, "hub"); err != nil {
		t.Skipf("network namespaces are not permitted here: %v: %s", err, out)
	}
	n.place = n.inside("hub")
	hub := n.prefix + "hub"
	if out, err := ip("-n", hub, "link", "add", "bridge", "type", "bridge"); err != nil {
		t.Skipf("bridges are not permitted here: %v: %s", err, out)
	}
	mustIP(t, "-n", hub, "address", "add", "10.213.77.1/24", "dev", "bridge")
	mustIP(t, "-n", hub, "link", "set", "bridge", "up")
	mustIP(t, "-n", hub, "link", "set", "lo", "up")
	return n
}

// machine makes a namespace with an address on the bridge.
func (n *network) machine(t *testing.T, name, address string) place {
	t.Helper()
	if out, err := n.namespace(t, name); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hub, space := n.prefix+"hub", n.prefix+name
	mustIP(t, "-n", hub, "link", "add", name, "type", "veth",
		"peer", "name", "eth0", "netns", space)
	mustIP(t, "-n", hub, "link", "set", name, "master", "bridge")
	mustIP(t, "-n", hub, "link", "set", name, "up")
	mustIP(t, "-n", space, "address", "add", address+"/24", "dev", "eth0")
	mustIP(t, "-n", space, "link", "set", "eth0", "up")
	return n.inside(name)
}

// namespace makes an empty namespace until the test ends.
func (n *network) namespace(t *testing.T, name string) (out string, err error) {
	t.Helper()
	space := n.prefix + name
	if out, err = ip("netns", "add", space); err == nil {
		t.Cleanup(func() { mustIP(t, "netns", "delete", space) })
	}
	return out, err
}

// inside is the place of processes in a namespace.
func (n *network) inside(name string) place {
	return place{via: []string{"ip", "netns", "exec", n.prefix + name}}
}

func ip(args ...string) (out string, err error) {
	text, err := exec.Command("ip", args...).CombinedOutput()
	return string(text), err
}

func mustIP(t *testing.T, args ...string) {
	t.Helper()
	if out, err := ip(args...); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
