package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"drover/internal/identity"
	"drover/internal/show"
	droverv1 "drover/proto/drover/v1"
)

// TestCapture runs a cluster with certificates whose processes do not use loopback, and
// captures all that they send: nothing of it may be plain text, from a client's prompt to
// the records in etcd.
func TestCapture(t *testing.T) {
	hub := newNetwork(t)
	dir := certificates(t, "etcd", "expertnode", "coordinator", "client")
	of := func(role string) string { return filepath.Join(dir, role) }
	const host = "10.213.77.1"
	if code, _, stderr := drover(t, "certs", "issue", "coordinator", "--ca", dir, "--out",
		of("named"), "--host", host); code != 0 {
		t.Fatal(stderr)
	}
	c := startCapture(t, hub.prefix+"hub")
	awaitReady(t, launch(t, hub.place, "etcd", "--dir", filepath.Join(dir, "state"), "--tls",
		of("etcd"), "--client", "https://"+host+":2379", "--peer", "https://"+host+":2380"))
	r := &roles{etcd: "https://" + host + ":2379", model: demoModel(t)}
	at := hub.place
	at.env = []string{"DROVER_GOSSIP_KEY=" + strings.Repeat("5eed", 16)}
	for i, id := range []string{"leftmost", "rightmost"} {
		r.expertNode(t, at, id, "--tls", of("expertnode"), "--listen", fmt.Sprint(host, ":707", 1+i),
			"--gossip", fmt.Sprint(host, ":708", 1+i), "--join", host+":7081")
	}
	p, endpoint := r.coordinator(t, at, "--tls", of("named"), "--grpc", host+":7070",
		"--gossip", host+":7080", "--join", host+":7081", "--admin", host+":7090")
	const marker = "Ein Satz, den niemand mitlesen soll."
	run := launch(t, hub.place, "run", "--endpoint", endpoint, "--tls", of("client"), marker)
	if code := run.wait(20 * slack * time.Second); code != exitDone {
		t.Fatalf("run: exit code %d, %s", code, &run.errors)
	}
	eventually(t, 30*slack*time.Second, "every hop is used", func() (bool, string) {
		sizes := c.sizes()
		for _, port := range []uint16{2379, 7070, 7071, 7072, 7080, 7081} {
			if sizes[port] == 0 { // gossip begins when it likes
				return false, fmt.Sprintf("nothing was sent to port %d", port)
			}
		}
		return true, ""
	})
	c.stop()
	c.check(t, []string{marker, "leftmost", "rightmost", "/drover/", "HTTP/2.0"},
		func(port uint16) bool { return port >= 7080 && port < 7090 })
	t.Run("ports", func(t *testing.T) { checkPorts(t, hub.prefix+"hub", host, listening(t, p.pid(), "tcp")) })
}

// TestCaptureUp captures all that drover up and its clients send without any flag about TLS, while
// the cluster answers by gRPC and HTTP and moves weights between its nodes.
func TestCaptureUp(t *testing.T) {
	for _, coordinators := range []string{"1", "2"} {
		t.Run(coordinators, func(t *testing.T) { captureUp(t, coordinators) })
	}
}

func captureUp(t *testing.T, coordinators string) {
	hub := newNetwork(t)
	c := startCapture(t, hub.prefix+"hub")
	u := launch(t, hub.place, "up", "--json", "--nodes", "3", "--replicas", "2", "--cache", "off",
		"--coordinators", coordinators, "--model", demoModel(t))
	var line struct {
		upLine
		NodeAdmins map[string]string `json:"node_admins"`
	}
	eventually(t, 60*slack*time.Second, "drover up is ready", func() (bool, string) {
		err := json.Unmarshal([]byte(u.out.String()), &line)
		return err == nil, fmt.Sprint(err, u.errors.String())
	})
	const marker = "Ein Satz, den niemand mitlesen soll."
	client := func(args ...string) string {
		t.Helper()
		p := launch(t, hub.place, append(args, "--endpoint", line.GRPC)...)
		if code := p.wait(60 * slack * time.Second); code != exitDone {
			t.Fatalf("%v: exit code %d, %s", args, code, &p.errors)
		}
		return p.out.String()
	}
	client("run", marker)
	var list show.NodeList
	if err := json.Unmarshal([]byte(client("nodes", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	in := func(ctx context.Context, _, address string) (conn net.Conn, err error) {
		err = errors.New("the namespace cannot be entered")
		within(hub.prefix+"hub", func() { conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address) })
		return conn, err
	}
	trust, err := identity.TrustFile(line.CA)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Transport: &http.Transport{DialContext: in, TLSClientConfig: trust,
		DisableKeepAlives: true}}
	ask := `{"messages":[{"role":"user","content":"` + marker + `"}]}`
	r, err := browser.Post("https://"+line.HTTP+"/v1/chat/completions", "application/json",
		strings.NewReader(ask))
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("HTTP: %v, %v", r, err)
	}
	r.Body.Close()
	client("drain", "node-1") // others fetch what it held
	moved := func() (sum float64) {
		for _, address := range line.NodeAdmins {
			r, err := browser.Get("https://" + address + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			sum += metricIn(t, r.Body, `drover_expertnode_fetch_bytes_total{direction="sent"}`)
			r.Body.Close()
		}
		return sum
	}
	if sum := moved(); sum == 0 {
		t.Error("no node fetched anything from another one")
	}
	used := []string{line.Etcd, line.GRPC, line.HTTP, line.Admin}
	for _, n := range list.Nodes {
		used = append(used, n.Address)
	}
	for _, address := range used {
		port, err := strconv.ParseUint(address[strings.LastIndex(address, ":")+1:], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		if address != line.Admin && c.sizes()[uint16(port)] == 0 {
			t.Errorf("nothing was sent to %s", address)
		}
	}
	gossip := listening(t, u.pid(), "udp")
	if len(gossip) < 4 {
		t.Errorf("gossip at ports %v, want those of 3 nodes and a coordinator", gossip)
	}
	c.stop()
	c.check(t, []string{marker, "node-1", "/drover/", "HTTP/2.0", "HTTP/1.1"},
		func(port uint16) bool { return slices.Contains(gossip, fmt.Sprint(port)) })
}

// listening lists the ports on which somebody listens in the namespace of a process, by tcp or
// udp.
func listening(t *testing.T, pid int, by string) (ports []string) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, by))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ *\d+: [0-9A-F]{8}:([0-9A-F]{4}) \S+ 0[A7] `).
		FindAllSubmatch(text, -1) {
		port, err := strconv.ParseUint(string(m[1]), 16, 16)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, strconv.FormatUint(port, 10))
	}
	return ports
}

// checkPorts asks each port of a cluster, as somebody who has no certificate and no key:
// nobody may learn anything but the health of the coordinator.
func checkPorts(t *testing.T, namespace, host string, ports []string) {
	for _, want := range []string{"2379", "2380", "7070", "7071", "7072", "7080", "7090"} {
		if !slices.Contains(ports, want) {
			t.Errorf("port %s is not among those found: %v", want, ports)
		}
	}
	dial := func(ctx context.Context, address string) (conn net.Conn, err error) {
		err = errors.New("the namespace cannot be entered")
		within(namespace, func() { conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address) })
		return conn, err
	}
	told := map[string]bool{}
	for _, port := range ports {
		address := net.JoinHostPort(host, port)
		for _, how := range []string{"http", "https"} {
			for _, path := range []string{"/", "/metrics", "/v1/models", "/healthz", "/version"} {
				if httpTells(dial, how, address, path) {
					told[how+" "+port+path] = true
				}
			}
		}
		for _, secure := range []bool{false, true} {
			for _, method := range grpcTells(t, dial, secure, address) {
				told["grpc "+port+" "+method] = true
			}
		}
	}
	want := map[string]bool{"https 7090/healthz": true, "grpc 7070 health": true}
	if !maps.Equal(told, want) {
		t.Errorf("without a certificate or a key one is told of %v, want %v", told, want)
	}
}

type dialer func(ctx context.Context, address string) (net.Conn, error)

// httpTells tells whether a GET is answered with success.
func httpTells(dial dialer, how, address, path string) bool {
	client := http.Client{Timeout: 5 * slack * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return dial(ctx, address)
		}}}
	reply, err := client.Get(how + "://" + address + path)
	if err != nil {
		return false
	}
	defer reply.Body.Close()
	return reply.StatusCode < 300
}

// grpcTells lists the calls that are answered, of one of each service.
func grpcTells(t *testing.T, dial dialer, secure bool, address string) (methods []string) {
	t.Helper()
	how := insecure.NewCredentials()
	if secure {
		how = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(how),
		grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*slack*time.Second)
	defer cancel()
	for name, call := range map[string]func() error{
		"health": func() error {
			_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
			return err
		},
		"nodes": func() error {
			_, err := droverv1.NewClusterServiceClient(conn).ListNodes(ctx,
				&droverv1.ListNodesRequest{})
			return err
		},
		"model": func() error {
			_, err := droverv1.NewCoordinatorServiceClient(conn).Describe(ctx,
				&droverv1.DescribeRequest{})
			return err
		},
	} {
		if call() == nil {
			methods = append(methods, name)
		}
	}
	return methods
}

// within calls f in a network namespace.
func within(namespace string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // which ends with the goroutine, and its namespace with it
		space, err := unix.Open("/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(space, unix.CLONE_NEWNET)
			_ = unix.Close(space)
		}
		if err == nil {
			f()
		}
	}()
	<-done
}

// TestCaptureFinds checks that a capture would find plain text, or the test above is none.
func TestCaptureFinds(t *testing.T) {
	hub := newNetwork(t)
	c := startCapture(t, hub.prefix+"hub")
	awaitReady(t, launch(t, hub.place, "etcd", "--dir", t.TempDir(), "--client",
		"http://127.0.0.1:2379", "--plaintext"))
	r := &roles{etcd: "http://127.0.0.1:2379", model: demoModel(t)}
	node := r.expertNode(t, hub.place, "one")
	eventually(t, 20*slack*time.Second, "a node is registered", func() (bool, string) {
		return strings.Contains(node.errors.String(), "registered in etcd"), node.errors.String()
	})
	c.stop()
	found := c.plain(nil, func(uint16) bool { return false })
	if !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, "no TLS") }) {
		t.Errorf("etcd in plain text: %q", found)
	}
	if found := c.plain([]string{"PRI * HTTP/2.0"}, func(uint16) bool { return true }); len(found) == 0 {
		t.Error("the words that begin HTTP/2 were not found")
	}
}

// capture is what was sent in a network namespace.
type capture struct {
	socket  int
	ending  atomic.Bool
	done    chan struct{}
	dropped uint32 // the reader owns it, and failed, until done
	failed  error

	mu      sync.Mutex // guards packets until done
	packets [][]byte   // from the IP header on
}

// startCapture captures in a namespace until stop.
func startCapture(t *testing.T, namespace string) *capture {
	t.Helper()
	c := &capture{done: make(chan struct{})}
	err := errors.New("there is no such namespace, or no leave to enter it")
	within(namespace, func() { c.socket, err = openCapture() })
	if err != nil {
		t.Skip("packets cannot be captured here: ", err)
	}
	go c.read()
	t.Cleanup(c.stop)
	return c
}

// openCapture opens a socket for all packets of this thread's namespace.
func openCapture() (int, error) {
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00 // in network order
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return 0, err
	}
	err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20)
	if err == nil {
		err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO,
			&unix.Timeval{Usec: 100_000})
	}
	return socket, err
}

// read collects packets until stop, and then those that had arrived: a cluster that runs sends
// more all the time.
func (c *capture) read() {
	defer close(c.done)
	buffer := make([]byte, 1<<17)
	const unknown = -1
	for taken, left := 0, unknown; left != 0; {
		if left == unknown && c.ending.Load() {
			stats, err := unix.GetsockoptTpacketStats(c.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				c.failed = err
				return
			}
			c.dropped = stats.Drops
			left = int(stats.Packets-stats.Drops) - taken
			continue
		}
		n, from, err := unix.Recvfrom(c.socket, buffer, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			c.failed = err
			return
		}
		taken++
		if left > 0 {
			left--
		}
		link, _ := from.(*unix.SockaddrLinklayer)
		if link.Pkttype != unix.PACKET_OUTGOING { // which comes in, too
			c.mu.Lock()
			c.packets = append(c.packets, bytes.Clone(buffer[:n]))
			c.mu.Unlock()
		}
	}
}

// stop ends the capture.
func (c *capture) stop() {
	if c.ending.CompareAndSwap(false, true) {
		<-c.done
		_ = unix.Close(c.socket)
	}
}

// check reports what is not encrypted: words anywhere, and connections that are not TLS,
// other than those to ports that have an encryption of their own.
func (c *capture) check(t *testing.T, words []string, own func(port uint16) bool) {
	t.Helper()
	if c.failed != nil || c.dropped > 0 {
		t.Fatalf("the capture is not whole: %d packets lost, %v", c.dropped, c.failed)
	}
	for _, problem := range c.plain(words, own) {
		t.Error(problem)
	}
	t.Logf("%d packets, bytes to ports: %v", len(c.packets), c.sizes())
}

// sizes counts the bytes that were sent so far, by the port that they were sent to.
func (c *capture) sizes() map[uint16]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sizes := map[uint16]int{}
	for _, p := range c.packets {
		if at := int(p[0]&15) * 4; p[0]>>4 == 4 && len(p) >= at+4 {
			sizes[binary.BigEndian.Uint16(p[at+2:])] += len(p)
		}
	}
	return sizes
}

// flow is one direction of a connection.
type flow struct {
	from, to string
	own      bool
	segments map[uint32][]byte // by sequence number
	first    uint32            // of the bytes
}

// plain lists what is not encrypted.
func (c *capture) plain(words []string, own func(port uint16) bool) (problems []string) {
	flows := map[string]*flow{}
	for _, p := range c.packets {
		for _, w := range words {
			if bytes.Contains(p, []byte(w)) {
				problems = append(problems, fmt.Sprintf("%q was sent in plain text", w))
			}
		}
		if len(p) < 20 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_TCP {
			continue
		}
		p = p[:min(len(p), int(binary.BigEndian.Uint16(p[2:])))]
		segment := p[int(p[0]&15)*4:]
		from, to := binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:])
		key := fmt.Sprintf("%v:%d > %v:%d", p[12:16], from, p[16:20], to)
		if flows[key] == nil {
			flows[key] = &flow{from: fmt.Sprint(from), to: fmt.Sprint(to), own: own(from) || own(to),
				segments: map[uint32][]byte{}}
		}
		f, number := flows[key], binary.BigEndian.Uint32(segment[4:])
		if segment[13]&2 != 0 { // SYN
			f.first = number + 1
		}
		if data := segment[int(segment[12]>>4)*4:]; len(data) > len(f.segments[number]) {
			f.segments[number] = data
		}
	}
	for _, f := range flows {
		if err := f.tls(); err != nil && !f.own {
			problems = append(problems, fmt.Sprintf("from port %s to port %s: %v", f.from, f.to, err))
		}
	}
	return problems
}

// tls returns nil if all bytes are in records of TLS 1.2 or later, whose outer version is
// 1.2, or 1.0 in the first.
func (f *flow) tls() error {
	numbers := make([]uint32, 0, len(f.segments))
	for n := range f.segments {
		numbers = append(numbers, n)
	}
	slices.SortFunc(numbers, func(a, b uint32) int { return cmp.Compare(a-f.first, b-f.first) })
	var all []byte
	for _, n := range numbers {
		at := n - f.first
		if at > uint32(len(all)) {
			return fmt.Errorf("no TLS to be seen: bytes are missing after %d", len(all))
		}
		if data := f.segments[n]; int(at)+len(data) > len(all) {
			all = append(all[:at], data...)
		}
	}
	for at := 0; at < len(all); {
		rest := all[at:]
		if rest[0] < 20 || rest[0] > 23 || len(rest) > 2 && (rest[1] != 3 || rest[2] > 3) {
			return fmt.Errorf("no TLS at byte %d: %q", at, rest[:min(len(rest), 60)])
		}
		if len(rest) < 5 {
			break // the connection was cut off
		}
		at += 5 + int(binary.BigEndian.Uint16(rest[3:]))
	}
	return nil
}
