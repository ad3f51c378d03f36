package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"drover/internal/faultproxy"
)

// farNode makes a node that others reach through a proxy only, and that start starts. It listens
// at an address of loopback that nobody else takes ports of.
func farNode(t *testing.T, r *roles, id string) (proxy *faultproxy.Proxy, start func() *process) {
	t.Helper()
	l, err := net.Listen("tcp", "127.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	proxy, err = faultproxy.Start(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	start = func() *process {
		return r.expertNode(t, place{}, id, "--listen", address, "--advertise", proxy.Address())
	}
	return proxy, start
}

// TestNodeFaults spoils the network or the process of a node that holds the only replicas of half
// of the experts, of a coordinator that must not compute them: metrics, log and readiness tell of
// it, no request fails, and all heals by itself.
func TestNodeFaults(t *testing.T) {
	r := newRoles(t)
	proxy, start := farNode(t, r, "far")
	far := start()
	r.expertNode(t, place{}, "near")
	p, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--last-resort-bytes", "0", "--expert-wait", "10m")
	f := newFaulty(t, p, endpoint, "far")
	network := func(c faultproxy.Conditions) func(*testing.T) {
		return func(*testing.T) { proxy.Set(c) }
	}
	well := network(faultproxy.Conditions{})
	signal := func(s syscall.Signal) func(*testing.T) {
		return func(*testing.T) { far.signal(s) }
	}
	const (
		// Whether a frame waits when the node falls silent is a matter of time.
		silences  = "drover_suspicions_total drover_silent_links_total"
		isDown    = `msg="link down" node=far .*error=.+`
		isUnready = `msg="not ready" reason=.+`
		perSecond = 1e6 / 8 // 1 Mbit/s
	)
	var stranger *process
	registrations := 0
	registered := func() int {
		return strings.Count(far.errors.String(), `msg="registered in etcd"`)
	}
	linksLost := f.of("drover_node_links_lost_total")
	throttle := &turns{stops: 150 * time.Millisecond, runs: 50 * time.Millisecond}
	late, narrow := faultproxy.Conditions{Delay: 50 * time.Millisecond},
		faultproxy.Conditions{BytesPerSecond: perSecond}
	for _, x := range []*fault{
		{name: "black hole", on: network(faultproxy.BlackHole), off: well, ready: notReady,
			rises: []string{silences, linksLost}, says: []string{isDown, isUnready}},
		{name: "half-open", on: network(faultproxy.Conditions{StallBack: true}), off: well,
			ready: notReady, rises: []string{silences, linksLost}, says: []string{isDown, isUnready}},
		{name: "refused", off: well, ready: notReady,
			on: func(*testing.T) {
				proxy.Set(faultproxy.Conditions{Refuse: true})
				proxy.Reset()
			},
			rises: []string{linksLost}, says: []string{isDown, isUnready}},
		{name: "late", on: network(late), off: well, shows: f.onWire(
			func(calls, _ float64) float64 { return calls * 2 * late.Delay.Seconds() })},
		{name: "narrow", on: network(narrow), off: well, shows: f.onWire(
			func(_, bytes float64) float64 { return bytes / perSecond })},
		{name: "throttled", ready: readyOrNot,
			on:    func(*testing.T) { throttle.start(far.pid()) },
			off:   func(*testing.T) { throttle.end() },
			rises: []string{"drover_suspicions_total"},
			says:  []string{`msg="node is silent and routed around" node=far`}},
		// The other node gets the experts when the lease of this one has ended.
		{name: "stopped", on: signal(syscall.SIGSTOP), off: signal(syscall.SIGCONT), ready: staysReady,
			rises: []string{silences, linksLost, "drover_placement_revision"},
			says:  []string{`msg="expert node lost" node=far`, isDown}},
		{name: "killed", on: signal(syscall.SIGKILL), ready: staysReady,
			off: func(t *testing.T) {
				far.wait(10 * slack * time.Second)
				far = start()
			},
			rises: []string{linksLost, "drover_placement_revision"},
			says:  []string{`msg="expert node lost" node=far`, isDown}},
		{name: "lease lost", ready: staysReady, off: func(*testing.T) {},
			on: func(t *testing.T) {
				registrations = registered()
				revokeLease(t, r.etcd, "far")
			},
			shows: func(*testing.T) (bool, string) {
				return registered() > registrations, fmt.Sprint("registered ", registrations, " times")
			}},
		{name: "absurd capacity", ready: staysReady,
			on: func(t *testing.T) {
				putRecord(t, r.etcd, "far", "absurd", map[string]json.RawMessage{
					"capacity_bytes": []byte("1152921504606846976")})
			},
			off:   func(t *testing.T) { putRecord(t, r.etcd, "far", "absurd", nil) },
			rises: []string{"drover_bad_records_total"},
			says:  []string{`msg="a record in etcd is ignored" key=.*absurd error=.*capacity`}},
		{name: "stranger", ready: staysReady,
			on: func(t *testing.T) {
				stranger = r.expertNode(t, place{}, "stranger", "--mode", "bf16")
			},
			off:   func(t *testing.T) { stranger.signal(syscall.SIGKILL) },
			rises: []string{`drover_nodes{state="unusable"}`},
			says:  []string{`msg="an expert node is not used" node=stranger .*reason=.*exact`}},
	} {
		t.Run(x.name, func(t *testing.T) { f.check(t, x) })
	}
}

// nodeRecord reads the record of a node from etcd.
func nodeRecord(t *testing.T, endpoint, id string) (*clientv3.Client, *mvccpb.KeyValue) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r, err := c.Get(t.Context(), nodeKeys+id)
	if err != nil || len(r.Kvs) != 1 || r.Kvs[0].Lease == 0 {
		t.Fatalf("%s: %v, %v", id, r, err)
	}
	return c, r.Kvs[0]
}

// nodeKeys is what keys of nodes begin with.
const nodeKeys = "/drover/default/nodes/"

// revokeLease has etcd forget the lease of a node.
func revokeLease(t *testing.T, endpoint, id string) {
	t.Helper()
	c, record := nodeRecord(t, endpoint, id)
	if _, err := c.Revoke(t.Context(), clientv3.LeaseID(record.Lease)); err != nil {
		t.Fatal(err)
	}
}

// putRecord writes the record of a node with some changes for another one, and without changes
// deletes that.
func putRecord(t *testing.T, endpoint, from, id string, changes map[string]json.RawMessage) {
	t.Helper()
	c, record := nodeRecord(t, endpoint, from)
	if changes == nil {
		if _, err := c.Delete(t.Context(), nodeKeys+id); err != nil {
			t.Error(err)
		}
		return
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(record.Value, &fields); err != nil {
		t.Fatal(err)
	}
	maps.Copy(fields, changes)
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), nodeKeys+id, string(text)); err != nil {
		t.Fatal(err)
	}
}

// onWire returns what shows that calls of the node take long on the way: at least as many seconds
// as are due for so many calls and bytes.
func (f *faulty) onWire(least func(calls, bytes float64) float64,
) func(*testing.T) (bool, string) {
	const enough = 20 // calls; those that are under way at either end matter little then
	begun := false
	var calls, bytes, seconds float64
	return func(t *testing.T) (bool, string) {
		nowCalls := f.sum(t, f.of("drover_node_calls_total"))
		nowBytes := f.sum(t, f.of("drover_node_wire_bytes_total", `direction="sent"`)+" "+
			f.of("drover_node_wire_bytes_total", `direction="received"`))
		nowSeconds := f.sum(t, f.of("drover_node_call_seconds_total", `where="wire"`))
		if !begun {
			begun, calls, bytes, seconds = true, nowCalls, nowBytes, nowSeconds
		}
		due := least(nowCalls-calls, nowBytes-bytes) / 2
		return nowCalls-calls >= enough && nowSeconds-seconds >= due, fmt.Sprintf(
			"%v calls of %v bytes took %v s on the wire, want at least %v for %d", nowCalls-calls,
			nowBytes-bytes, nowSeconds-seconds, due, enough)
	}
}

// turns lets a process stand still and run by turns.
type turns struct {
	stops, runs time.Duration
	end         func()
}

func (d *turns) start(pid int) {
	enough, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			_ = syscall.Kill(pid, syscall.SIGSTOP) // a process that is gone needs no signal
			time.Sleep(d.stops)
			_ = syscall.Kill(pid, syscall.SIGCONT)
			select {
			case <-enough:
				return
			case <-time.After(d.runs):
			}
		}
	}()
	d.end = func() {
		close(enough)
		<-done
	}
}
