package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"drover/internal/faultproxy"
)

// farNode starts a node that others reach through a proxy only. It listens at an address of
// loopback that nobody else takes ports of.
func farNode(t *testing.T, r *roles, id string) *faultproxy.Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	proxy, err := faultproxy.Start(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	r.expertNode(t, place{}, id, "--listen", address, "--advertise", proxy.Address())
	return proxy
}

// TestLinkFaults spoils the network of a node that holds the only replicas of half of the
// experts, of a coordinator that must not compute them: metrics, log and readiness tell of it, no
// request fails, and all heals by itself.
func TestLinkFaults(t *testing.T) {
	r := newRoles(t)
	proxy := farNode(t, r, "far")
	r.expertNode(t, place{}, "near")
	p, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--last-resort-bytes", "0", "--expert-wait", "10m")
	c := connectTo(t, endpoint)
	want := c.mustAsk(t, translate)
	t.Run("black hole", func(t *testing.T) { checkSilence(t, p, c, proxy, faultproxy.BlackHole, want) })
	t.Run("half-open", func(t *testing.T) {
		checkSilence(t, p, c, proxy, faultproxy.Conditions{StallBack: true}, want)
	})
	// A question before a measure lets all calls end that began before the fault.
	const perSecond = 1e6 / 8 // 1 Mbit/s
	for name, tc := range map[string]struct {
		conditions faultproxy.Conditions
		least      func(calls, bytes float64) (seconds float64)
	}{
		"late": {faultproxy.Conditions{Delay: 20 * time.Millisecond},
			func(calls, _ float64) float64 { return calls * 2 * 0.02 }},
		"narrow": {faultproxy.Conditions{BytesPerSecond: perSecond},
			func(_, bytes float64) float64 { return bytes / perSecond }},
	} {
		t.Run(name, func(t *testing.T) {
			proxy.Set(tc.conditions)
			defer proxy.Set(faultproxy.Conditions{})
			onWire := func() float64 {
				return p.metric(t, `drover_node_call_seconds_total{node="far",where="wire"}`)
			}
			asked := func() (calls, bytes float64) {
				calls = p.metric(t, `drover_node_calls_total{node="far"}`)
				for _, way := range []string{"sent", "received"} {
					bytes += p.metric(t, `drover_node_wire_bytes_total{direction="`+way+`",node="far"}`)
				}
				return calls, bytes
			}
			c.mustAsk(t, translate)
			seconds := onWire()
			calls, bytes := asked()
			if got := c.mustAsk(t, translate); got != want {
				t.Errorf("answered %q, want %q", got, want)
			}
			callsNow, bytesNow := asked()
			took := onWire() - seconds
			// Half of it: a call of a canary may be under way at either end.
			if least := tc.least(callsNow-calls, bytesNow-bytes) / 2; took < least || least == 0 {
				t.Errorf("%v calls of %v bytes took %v s on the wire, want at least %v",
					callsNow-calls, bytesNow-bytes, took, least)
			}
		})
	}
	p.tells(t, "drover_ready", isOne)
}

// checkSilence lets a node's network say nothing for a while.
func checkSilence(t *testing.T, p *process, c *client, proxy *faultproxy.Proxy,
	conditions faultproxy.Conditions, want string) {
	// Whether a frame waits when the node falls silent is a matter of time.
	silences := func() float64 {
		return p.metric(t, "drover_suspicions_total") + p.metric(t, "drover_silent_links_total")
	}
	lines := func(line string) float64 { return float64(strings.Count(p.errors.String(), line)) }
	down := func() float64 { return lines(`msg="link down" node=far`) }
	unready := func() float64 { return lines(`msg="not ready"`) }
	rises := func(what string, now func() float64, before float64) {
		t.Helper()
		eventually(t, 60*slack*time.Second, what, func() (bool, string) {
			return now() > before, fmt.Sprint("it is ", before)
		})
	}
	silencesBefore, downBefore, unreadyBefore := silences(), down(), unready()
	proxy.Set(conditions)
	defer proxy.Set(faultproxy.Conditions{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var got string
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		got, err = c.ask(ctx, translate)
	}()
	rises("the count of silences", silences, silencesBefore)
	p.tells(t, "drover_ready", isZero)
	rises("the log of links", down, downBefore)
	rises("the log of readiness", unready, unreadyBefore)
	proxy.Set(faultproxy.Conditions{})
	if <-answered; err != nil || got != want {
		t.Errorf("%v, answered %q, want %q", err, got, want)
	}
	p.tells(t, "drover_ready", isOne)
}
