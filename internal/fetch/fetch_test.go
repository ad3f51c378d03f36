package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"drover/checkpoint"
	"drover/expertnode"
	"drover/internal/fetch"
	"drover/internal/testcluster"
	"drover/kernel"
	"drover/model"
	"drover/packed"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/tensor"
)

// TestMain runs the test binary as a process that fetches, when told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FETCH_TEST_DIR"); dir != "" {
		if err := fetchInProcess(dir, os.Getenv("FETCH_TEST_FROM")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if role := os.Getenv("FETCH_TEST_ROLE"); role != "" {
		if err := playRole(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var plain = insecure.NewCredentials()

var one = placement.Replica{Layer: 3, Expert: 7}

// node is an expert node without a cluster: a Source, a Host and, if it serves, a Server.
type node struct {
	id     string
	ck     *checkpoint.Checkpoint
	source *fetch.Source
	host   *expertnode.Host
	server *expertnode.Server
	store  *packed.Store

	mu     sync.Mutex // guards the field below
	events []string
}

func (n *node) note(parts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, strings.Join(parts, " "))
}

func (n *node) noted() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// open opens a checkpoint. One that needs no weights is of the demo's.
func open(dir string, from fetch.Preference) (*checkpoint.Checkpoint, error) {
	if from != fetch.Nodes {
		return checkpoint.Open(dir)
	}
	return checkpoint.OpenHeaders(dir, func([32]byte) (d [32]byte, err error) {
		ck, err := checkpoint.Open(demo())
		if err != nil {
			return d, err
		}
		defer ck.Close()
		return ck.Digest(), nil
	})
}

// newNode makes a node that keeps its packed weights in cache; "" keeps none.
func newNode(t testing.TB, id, dir, cache string, from fetch.Preference) *node {
	t.Helper()
	ck, err := open(dir, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ck.Close() })
	n := &node{id: id, ck: ck}
	o := model.Options{Mode: kernel.BF16}
	if cache != "" {
		if n.store, err = packed.Open(cache, packed.Options{SmallestBytes: -1}); err != nil {
			t.Fatal(err)
		}
		o.Store = n.store
	}
	n.source, err = fetch.New(fetch.Options{Checkpoint: ck, Model: o, NodeID: id, From: from,
		Events: fetch.Events{
			Fetched: func(_ placement.Replica, id string, bytes, from int64) {
				n.note("fetched from", id)
			},
			Failed: func(_ placement.Replica, id string, err error) {
				n.note("failed", id, err.Error())
			},
			FellBack: func(_ placement.Replica, err error) { n.note("fell back", err.Error()) },
			Disagreed: func(_ placement.Replica, ids [2]string) {
				slices.Sort(ids[:])
				n.note("disagreed", ids[0], ids[1])
			},
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.source.Close)
	n.host = expertnode.NewHost(n.source, kernel.BF16, expertnode.HostOptions{})
	return n
}

// wrap is an ExpertService whose Fetch may be tampered with.
type wrap struct {
	droverv1.ExpertServiceServer
	server *expertnode.Server
	tamper func(*droverv1.FetchResponse) error
	asked  func(*droverv1.FetchRequest)
}

type wrapped struct {
	grpc.ServerStreamingServer[droverv1.FetchResponse]
	tamper func(*droverv1.FetchResponse) error
}

func (w wrapped) Send(r *droverv1.FetchResponse) error {
	if err := w.tamper(r); err != nil {
		return err
	}
	return w.ServerStreamingServer.Send(r)
}

func (w *wrap) Fetch(r *droverv1.FetchRequest,
	g grpc.ServerStreamingServer[droverv1.FetchResponse]) error {
	if w.asked != nil {
		w.asked(r)
	}
	if w.tamper != nil {
		g = wrapped{g, w.tamper}
	}
	return w.server.Fetch(r, g)
}

// serve makes the node serve what it holds, and returns how the placement names it.
func (n *node) serve(t testing.TB, w *wrap, change func(*expertnode.Options)) placement.Node {
	t.Helper()
	return n.serveAt(t, "127.0.0.1:0", w, change)
}

func (n *node) serveAt(t testing.TB, address string, w *wrap,
	change func(*expertnode.Options)) placement.Node {
	t.Helper()
	digest := n.ck.Digest()
	o := expertnode.Options{Replicas: n.host, NodeID: n.id, Epoch: 1, ModelDigest: digest[:],
		Mode: kernel.BF16, Packed: n.source, PackedVersion: packed.Version}
	if change != nil {
		change(&o)
	}
	var err error
	if n.server, err = expertnode.NewServer(o); err != nil {
		t.Fatal(err)
	}
	if w == nil {
		w = &wrap{}
	}
	w.server, w.ExpertServiceServer = n.server, n.server
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(expertnode.ServerOptions()...)
	droverv1.RegisterExpertServiceServer(g, w)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(listener) })
	t.Cleanup(func() {
		g.Stop()
		running.Wait()
		n.server.Close()
	})
	return placement.Node{ID: n.id, Address: listener.Addr().String()}
}

// loaded makes a node that has one replica, from the checkpoint.
func loaded(t testing.TB, id, cache string) *node {
	t.Helper()
	n := newNode(t, id, demo(), cache, fetch.Disk)
	if err := n.assign(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) assign() error {
	return n.host.Assign(context.Background(), []expertnode.Replica{{Layer: one.Layer,
		Expert: one.Expert}})
}

func (n *node) locate(at ...placement.Node) {
	n.source.Locate(map[placement.Replica][]placement.Node{one: at})
}

// rows is what a node computes with the replica.
func (n *node) rows(t *testing.T) []float32 {
	t.Helper()
	hidden := n.host.Spec().Hidden
	x, y := tensor.MakeRows(2, hidden), tensor.MakeRows(2, hidden)
	for i := range x.Data {
		x.Data[i] = float32(i%13)/8 - 0.5
	}
	if err := n.host.Compute(one.Layer, one.Expert, y, x); err != nil {
		t.Fatal(err)
	}
	return y.Data
}

func demo() string { return testcluster.Path("models/tiny-maverick") }

func TestFetch(t *testing.T) {
	for name, cache := range map[string]bool{"with files": true, "in memory": false} {
		t.Run(name, func(t *testing.T) {
			dirs := []string{"", ""}
			if cache {
				dirs = []string{t.TempDir(), t.TempDir()}
			}
			left := loaded(t, "left", dirs[0])
			right := newNode(t, "right", testcluster.HeadersOnly(t, demo()), dirs[1], fetch.Nodes)
			right.locate(left.serve(t, nil, nil))
			if err := right.assign(); err != nil {
				t.Fatal(err)
			}
			if got, want := right.rows(t), left.rows(t); !slices.Equal(got, want) {
				t.Errorf("rows %v, want %v", got[:4], want[:4])
			}
			if got := right.noted(); !slices.Equal(got, []string{"fetched from left"}) {
				t.Errorf("events %q", got)
			}
			s, err := left.server.Status(t.Context(), nil)
			if err != nil || s.FetchedBytes == 0 {
				t.Errorf("left says that it sent %d bytes: %v", s.GetFetchedBytes(), err)
			}
			// What was fetched can be fetched again.
			third := newNode(t, "third", testcluster.HeadersOnly(t, demo()), "", fetch.Nodes)
			third.locate(right.serve(t, nil, nil))
			if err := third.assign(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(third.rows(t), left.rows(t)) {
				t.Error("the third node computes other rows")
			}
		})
	}
}

// TestFetchOrder tries the ways in which a replica may come, in their order.
func TestFetchOrder(t *testing.T) {
	left := loaded(t, "left", "")
	at := left.serve(t, nil, nil)
	nowhere := placement.Node{ID: "gone", Address: "127.0.0.1:1"}
	cache := t.TempDir()
	for _, step := range []struct {
		name  string
		from  fetch.Preference
		at    []placement.Node
		cache string
		want  []string // prefixes of events
		fails bool
	}{
		{"nobody has it", fetch.Auto, nil, "", nil, false},
		{"nobody has it, nodes only", fetch.Nodes, nil, "", nil, true},
		{"a node has it", fetch.Auto, []placement.Node{at}, cache, []string{"fetched from left"}, false},
		{"the cache has it", fetch.Auto, []placement.Node{at}, cache, nil, false},
		{"the only node is gone", fetch.Auto, []placement.Node{nowhere}, "",
			[]string{"failed gone", "fell back"}, false},
		{"the only node is gone, nodes only", fetch.Nodes, []placement.Node{nowhere}, "",
			[]string{"failed gone"}, true},
		{"from the checkpoint only", fetch.Disk, []placement.Node{at}, "", nil, false},
		{"not from itself", fetch.Nodes, []placement.Node{{ID: "right", Address: at.Address}}, "",
			nil, true},
	} {
		n := newNode(t, "right", demo(), step.cache, step.from)
		n.locate(step.at...)
		err := n.assign()
		if (err != nil) != step.fails {
			t.Errorf("%s: %v", step.name, err)
		}
		got := n.noted()
		if !slices.EqualFunc(got, step.want, strings.HasPrefix) {
			t.Errorf("%s: events %q, want %q", step.name, got, step.want)
		}
		if err == nil && !slices.Equal(n.rows(t), left.rows(t)) {
			t.Errorf("%s: other rows", step.name)
		}
	}
}

// TestSecondNodeHelps has one node that fails in the middle: the other goes on there.
func TestSecondNodeHelps(t *testing.T) {
	var offsets []uint64
	var mu sync.Mutex
	sent := 0
	fails := &wrap{tamper: func(r *droverv1.FetchResponse) error {
		mu.Lock()
		defer mu.Unlock()
		if r.GetChunk() != nil {
			if sent++; sent == 3 {
				return status.Error(codes.Unavailable, "the machine lost power")
			}
		}
		return nil
	}, asked: func(r *droverv1.FetchRequest) {
		mu.Lock()
		defer mu.Unlock()
		if !r.HeaderOnly {
			offsets = append(offsets, r.Offset)
		}
	}}
	left, middle := loaded(t, "left", ""), loaded(t, "middle", "")
	// At a low rate chunks are small; the demo model's experts are, too.
	slow := func(o *expertnode.Options) { o.FetchBytesPerSecond = 160_000 }
	right := newNode(t, "right", testcluster.HeadersOnly(t, demo()), t.TempDir(), fetch.Nodes)
	// Both fail once in the third chunk that they send together; then either goes on.
	right.locate(left.serve(t, fails, slow), middle.serve(t, fails, slow))
	if err := right.assign(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(right.rows(t), left.rows(t)) {
		t.Error("other rows")
	}
	if len(offsets) != 2 || offsets[0] != 0 || offsets[1] != 2*16_000 {
		t.Errorf("asked for offsets %v, want 0 and where the first ended", offsets)
	}
}

// TestGoneNodeIsSkipped has a holder that does not answer: it is asked twice, not for each
// replica.
func TestGoneNodeIsSkipped(t *testing.T) {
	left := loaded(t, "left", "")
	holders := map[placement.Replica][]placement.Node{}
	var want []expertnode.Replica
	for e := range 10 {
		holders[placement.Replica{Layer: 3, Expert: e}] = []placement.Node{
			{ID: "gone", Address: "127.0.0.1:1"}}
		want = append(want, expertnode.Replica{Layer: 3, Expert: e})
	}
	holders[one] = append(holders[one], left.serve(t, nil, nil))
	right := newNode(t, "right", demo(), "", fetch.Auto)
	right.host = expertnode.NewHost(right.source, kernel.BF16, expertnode.HostOptions{LoadParallel: 1})
	right.source.Locate(holders)
	if err := right.host.Assign(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, e := range right.noted() {
		counts[strings.Join(strings.Fields(e)[:2], " ")]++
	}
	if counts["failed gone"] != 2 || counts["fetched from"] != 1 {
		t.Errorf("events %v", counts)
	}
	if n, bytes := right.source.Fetched(); n != 1 || bytes == 0 {
		t.Errorf("%d replicas of %d bytes fetched", n, bytes)
	}
	right.source.Locate(holders)
	right.host.Drop(want)
	if err := right.host.Assign(t.Context(), want[:1]); err != nil {
		t.Fatal(err)
	}
	if got := right.noted(); !strings.HasPrefix(got[len(got)-2], "failed gone") {
		t.Errorf("after the next Locate: %q", got)
	}
}

// TestConnectionsAreKept locates again and again: the connection to a node that still holds
// something stays, that to another one ends.
func TestConnectionsAreKept(t *testing.T) {
	left, other := loaded(t, "left", ""), loaded(t, "other", "")
	var mu sync.Mutex
	peers := map[string]bool{} // of the requests to left
	at := left.serve(t, nil, func(o *expertnode.Options) {
		o.Events.Fetched = func(f expertnode.FetchedReplica) {
			mu.Lock()
			defer mu.Unlock()
			peers[f.To] = true
		}
	})
	elsewhere := other.serve(t, nil, nil)
	right := newNode(t, "right", demo(), "", fetch.Nodes)
	fetched := func(from placement.Node) {
		t.Helper()
		right.host.Drop([]expertnode.Replica{{Layer: one.Layer, Expert: one.Expert}})
		right.locate(from)
		if err := right.assign(); err != nil {
			t.Fatal(err)
		}
	}
	connections := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(peers)
	}
	for range 3 {
		fetched(at)
	}
	if n := connections(); n != 1 {
		t.Errorf("%d connections to a node that always holds it, want 1", n)
	}
	fetched(elsewhere)
	fetched(at)
	if n := connections(); n != 2 {
		t.Errorf("%d connections to a node that did not hold it for a while, want 2", n)
	}
}

// TestTampered flips bits in every part of what is sent. Each is refused, and the replica
// comes from the checkpoint, the same.
func TestTampered(t *testing.T) {
	left := loaded(t, "left", "")
	want := left.rows(t)
	for name, tamper := range map[string]func(*droverv1.FetchResponse){
		"size":            func(r *droverv1.FetchResponse) { r.GetHeader().SizeBytes ^= 1 << 12 },
		"offset":          func(r *droverv1.FetchResponse) { r.GetHeader().Offset ^= 1 },
		"sha-256":         func(r *droverv1.FetchResponse) { r.GetHeader().ContentSha256[9] ^= 16 },
		"short sha-256":   func(r *droverv1.FetchResponse) { r.GetHeader().ContentSha256 = []byte{1} },
		"header checksum": func(r *droverv1.FetchResponse) { r.GetHeader().Crc32C ^= 1 << 31 },
		"header sealed again": func(r *droverv1.FetchResponse) {
			h := r.GetHeader()
			h.ContentSha256[0] ^= 1
			h.Crc32C = expertnode.FetchHeaderSum(h)
		},
		"size sealed again": func(r *droverv1.FetchResponse) {
			h := r.GetHeader()
			h.SizeBytes -= 4096
			h.Crc32C = expertnode.FetchHeaderSum(h)
		},
		"no header":      func(r *droverv1.FetchResponse) { r.Kind = nil },
		"chunk offset":   func(r *droverv1.FetchResponse) { r.GetChunk().Offset ^= 1 << 8 },
		"chunk checksum": func(r *droverv1.FetchResponse) { r.GetChunk().Crc32C ^= 2 },
		"first weight":   func(r *droverv1.FetchResponse) { r.GetChunk().Weights[0] ^= 1 },
		"last weight":    func(r *droverv1.FetchResponse) { w := r.GetChunk().Weights; w[len(w)-1] ^= 128 },
		"short chunk":    func(r *droverv1.FetchResponse) { c := r.GetChunk(); c.Weights = c.Weights[1:] },
		"empty chunk":    func(r *droverv1.FetchResponse) { r.GetChunk().Weights = nil },
		"no chunk":       func(r *droverv1.FetchResponse) { r.Kind = nil },
		"chunk seal": func(r *droverv1.FetchResponse) {
			c := r.GetChunk()
			c.Weights[100] ^= 4
			c.Crc32C = packed.Sum(int64(c.Offset), c.Weights)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ofChunk := strings.Contains(name, "chunk") || strings.Contains(name, "weight")
			w := &wrap{tamper: func(r *droverv1.FetchResponse) error {
				if (r.GetChunk() != nil) == ofChunk {
					tamper(r)
				}
				return nil
			}}
			sender := loaded(t, "left", "")
			right := newNode(t, "right", demo(), t.TempDir(), fetch.Auto)
			right.locate(sender.serve(t, w, nil))
			if err := right.assign(); err != nil {
				t.Fatal(err)
			}
			got := right.noted()
			if len(got) != 2 || !strings.Contains(got[0], packed.ErrCorrupt.Error()) ||
				!strings.HasPrefix(got[1], "fell back") {
				t.Errorf("events %q, want it refused as corrupt", got)
			}
			if !slices.Equal(right.rows(t), want) {
				t.Error("other rows")
			}
		})
	}
}

// TestDisagree has two nodes with different weights for one replica: neither is believed.
func TestDisagree(t *testing.T) {
	lies := &wrap{tamper: func(r *droverv1.FetchResponse) error {
		if h := r.GetHeader(); h != nil {
			h.ContentSha256[3] ^= 1
			h.Crc32C = expertnode.FetchHeaderSum(h)
		}
		return nil
	}}
	left, middle := loaded(t, "left", ""), loaded(t, "middle", "")
	at := []placement.Node{left.serve(t, nil, nil), middle.serve(t, lies, nil)}
	right := newNode(t, "right", demo(), "", fetch.Auto)
	right.locate(at...)
	if err := right.assign(); err != nil {
		t.Fatal(err)
	}
	if got := right.noted(); len(got) != 2 || got[0] != "disagreed left middle" ||
		!strings.HasPrefix(got[1], "fell back") {
		t.Errorf("events %q", got)
	}
	only := newNode(t, "right", testcluster.HeadersOnly(t, demo()), "", fetch.Nodes)
	only.locate(at...)
	if err := only.assign(); err == nil {
		t.Error("one of two that disagree is believed")
	}
}

// TestRefusedFetch asks for what a node must refuse.
func TestRefusedFetch(t *testing.T) {
	left := loaded(t, "left", "")
	digest := left.ck.Digest()
	good := func() *droverv1.FetchRequest {
		return &droverv1.FetchRequest{ModelDigest: digest[:], NumericMode: "bf16",
			FormatVersion: packed.Version, Layer: 3, Expert: 7, SizeBytes: 3 * 128 * 64 * 2}
	}
	at := left.serve(t, nil, nil)
	conn := dial(t, at.Address)
	for name, tc := range map[string]struct {
		change func(*droverv1.FetchRequest)
		code   codes.Code
	}{
		"nothing wrong":   {func(*droverv1.FetchRequest) {}, codes.OK},
		"another model":   {func(r *droverv1.FetchRequest) { r.ModelDigest = make([]byte, 32) }, codes.FailedPrecondition},
		"no model":        {func(r *droverv1.FetchRequest) { r.ModelDigest = nil }, codes.FailedPrecondition},
		"another mode":    {func(r *droverv1.FetchRequest) { r.NumericMode = "int8" }, codes.FailedPrecondition},
		"another version": {func(r *droverv1.FetchRequest) { r.FormatVersion++ }, codes.FailedPrecondition},
		"another size":    {func(r *droverv1.FetchRequest) { r.SizeBytes++ }, codes.FailedPrecondition},
		"beyond the end":  {func(r *droverv1.FetchRequest) { r.Offset = r.SizeBytes + 1 }, codes.InvalidArgument},
		"not held":        {func(r *droverv1.FetchRequest) { r.Expert = 8 }, codes.NotFound},
		"no such layer":   {func(r *droverv1.FetchRequest) { r.Layer = 1 << 31 }, codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := good()
			tc.change(r)
			stream, err := conn.Fetch(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != tc.code {
				t.Errorf("%v, want %v", err, tc.code)
			}
		})
	}
}

// TestFetchIsCancelled ends an Assign while a replica is on its way.
func TestFetchIsCancelled(t *testing.T) {
	left := loaded(t, "left", "")
	ctx, cancel := context.WithCancel(t.Context())
	w := &wrap{tamper: func(r *droverv1.FetchResponse) error {
		if r.GetHeader() != nil {
			cancel()
		}
		return nil
	}}
	right := newNode(t, "right", demo(), "", fetch.Auto)
	// So slow that only the cancel can end it soon.
	right.locate(left.serve(t, w, func(o *expertnode.Options) { o.FetchBytesPerSecond = 10 }))
	err := right.host.Assign(ctx, []expertnode.Replica{{Layer: one.Layer, Expert: one.Expert}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the cancel", err)
	}
	if right.host.Count() != 0 {
		t.Error("the replica is held")
	}
}

func dial(t *testing.T, address string) droverv1.ExpertServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(plain))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return droverv1.NewExpertServiceClient(conn)
}
