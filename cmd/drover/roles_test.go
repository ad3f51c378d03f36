package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drover/internal/testcluster"
	droverv1 "drover/proto/drover/v1"
)

// demoModel is the bundled model's directory.
func demoModel(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(testcluster.Path("models/tiny-maverick"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// roles is a cluster whose processes are started one by one.
type roles struct {
	etcd, model string
}

func (r *roles) expertNode(t *testing.T, at place, id string, more ...string) *process {
	t.Helper()
	return launch(t, at, append([]string{"expertnode", "--etcd", r.etcd, "--model", r.model,
		"--mode", "exact", "--id", id}, orPlaintext(more)...)...)
}

// orPlaintext adds --plaintext to arguments that have no --tls.
func orPlaintext(args []string) []string {
	if slices.Contains(args, "--tls") {
		return args
	}
	return append([]string{"--plaintext"}, args...)
}

// ready is what a coordinator logs when it is ready, with its address.
var ready = regexp.MustCompile(`msg=ready grpc=(\S+)`)

// coordinator starts a coordinator and waits until it is ready.
func (r *roles) coordinator(t *testing.T, at place, more ...string) (p *process, endpoint string) {
	t.Helper()
	p = launch(t, at, append([]string{"coordinator", "--etcd", r.etcd, "--model", r.model,
		"--mode", "exact", "--http", "none", "--min-nodes", "2"}, orPlaintext(more)...)...)
	eventually(t, 60*slack*time.Second, "the coordinator is ready", func() (bool, string) {
		found := ready.FindStringSubmatch(p.errors.String())
		if found == nil {
			return false, "it does not say so"
		}
		endpoint = found[1]
		return true, ""
	})
	return p, endpoint
}

// TestRoles starts each role by hand, in folders of their own, with one etcd.
func TestRoles(t *testing.T) {
	r := &roles{etcd: startEtcd(t), model: demoModel(t)}
	left := r.expertNode(t, place{dir: t.TempDir()}, "left")
	right := r.expertNode(t, place{dir: t.TempDir()}, "right")
	coordinator, endpoint := r.coordinator(t, place{dir: t.TempDir()}, "--grpc", "127.0.0.1:0",
		"--allow-score")
	c := connectTo(t, endpoint)
	want := c.mustAsk(t, story)
	code, stdout, _ := drover(t, "run", "--model", r.model, "--mode", "exact", story)
	if code != exitDone || stdout != want+"\n" {
		t.Errorf("the nodes answer %q, one process %q", want, stdout)
	}
	t.Run("slices", func(t *testing.T) { checkSlices(t, c) })
	t.Run("score", func(t *testing.T) { checkScore(t, c) })
	t.Run("another node", func(t *testing.T) {
		third := checkAnotherNode(t, r, c, want)
		third.signal(os.Interrupt)
		if code := third.wait(10 * slack * time.Second); code != exitDone {
			t.Errorf("exit code %d, want 0", code)
		}
	})
	for _, p := range []*process{coordinator, left, right} {
		p.signal(os.Interrupt)
		if code := p.wait(10 * slack * time.Second); code != exitDone {
			t.Errorf("%v: exit code %d, want 0", p.cmd.Args[:2], code)
		}
	}
}

// checkSlices compares what two nodes have read and hold with their slice of the experts.
func checkSlices(t *testing.T, c *client) {
	const (
		replicas    = 4 * 128
		inFile      = replicas * 3 * 128 * 64 * 2 // bytes: three matrices an expert, in bf16
		besideSlice = 64 << 20
	)
	nodes := c.nodes(t)
	if len(nodes) != 2 || nodes["left"] == nil || nodes["right"] == nil {
		t.Fatalf("nodes %v, want left and right", nodes)
	}
	for id, n := range nodes {
		if n.ReplicaCount < replicas*2/5 || n.ReplicaCount > replicas*3/5 {
			t.Errorf("%s holds %d replicas, want about half of %d", id, n.ReplicaCount, replicas)
		}
		s, err := droverv1.NewExpertServiceClient(connectTo(t, n.Address).conn).Status(t.Context(),
			&droverv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d replicas, %d bytes read, %d of weights, %d resident", id, s.ReplicaCount,
			s.CheckpointBytesRead, s.WeightBytes, s.ResidentBytes)
		if s.ReplicaCount != n.ReplicaCount {
			t.Errorf("%s holds %d replicas, the placement says %d", id, s.ReplicaCount,
				n.ReplicaCount)
		}
		slice := uint64(inFile) * uint64(s.ReplicaCount) / replicas
		if s.CheckpointBytesRead < slice || s.CheckpointBytesRead > inFile*3/5 {
			t.Errorf("%s has read %d bytes of the checkpoint, want about %d of %d", id,
				s.CheckpointBytesRead, slice, inFile)
		}
		// The race detector takes more memory.
		if slack == 1 && s.ResidentBytes > s.WeightBytes+besideSlice {
			t.Errorf("%s: %d bytes resident, want at most %d more than its slice of %d", id,
				s.ResidentBytes, besideSlice, s.WeightBytes)
		}
	}
}

// checkScore asks for logits, which the coordinator was told to show.
func checkScore(t *testing.T, c *client) {
	d, err := c.coordinator.Describe(t.Context(), &droverv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.coordinator.Score(t.Context(),
		&droverv1.ScoreRequest{TokenIds: []int32{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if int(r.Position) != i || len(r.Logits) != 4*int(d.VocabularySize) {
			t.Errorf("position %d with %d bytes, want %d with 4 for each of %d tokens", r.Position,
				len(r.Logits), i, d.VocabularySize)
		}
	}
}

// checkAnotherNode starts a third node while a client asks again and again: the client
// notices nothing, and the node gets its share.
func checkAnotherNode(t *testing.T, r *roles, c *client, want string) *process {
	ctx, enough := context.WithCancel(t.Context())
	var asked atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ; ctx.Err() == nil; asked.Add(1) {
			if got, err := c.ask(ctx, story); ctx.Err() == nil && (err != nil || got != want) {
				t.Errorf("while a node joins: %v, %q; before: %q", err, got, want)
				return
			}
		}
	}()
	third := r.expertNode(t, place{dir: t.TempDir()}, "third")
	eventually(t, 10*slack*time.Second, "the third node has its share", func() (bool, string) {
		n := c.nodes(t)["third"]
		return n.GetState() == "ready" && n.GetReplicaCount() > 100 && n.GetRowsDispatched() > 0 &&
			asked.Load() > 1, fmt.Sprintf("%d answers, %v", asked.Load(), n)
	})
	enough()
	<-ended
	return third
}

// TestRolesRefuse starts roles that cannot work; each says why in one line.
func TestRolesRefuse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	demo := demoModel(t)
	for name, tc := range map[string]struct {
		role, model string
		more        []string
		says        string
		code        int
	}{
		"no such model": {"expertnode", "/nowhere", nil, "/nowhere", exitFailed},
		"no model": {"coordinator", t.TempDir(), []string{"--grpc", "127.0.0.1:0", "--http",
			"none"}, "config.json", exitFailed},
		"no gossip key": {"expertnode", demo, []string{"--gossip", "127.0.0.1:0"},
			"DROVER_GOSSIP_KEY", exitFailed},
		"no file of gossip keys": {"coordinator", demo, []string{"--gossip", "127.0.0.1:0", "--grpc",
			"127.0.0.1:0", "--http", "none", "--gossip-key-file", "/nowhere"}, "/nowhere", exitFailed},
		"no gossip key in the file": {"expertnode", demo, []string{"--gossip", "127.0.0.1:0",
			"--gossip-key-file", os.DevNull}, "no key", exitFailed},
		"no address": {"coordinator", demo, []string{"--grpc", "127.0.0.1:1:1"},
			"127.0.0.1:1:1", exitUsage},
		"gRPC taken": {"coordinator", demo, []string{"--grpc", address, "--http", "none"},
			address, exitFailed},
		"HTTP taken": {"coordinator", demo, []string{"--grpc", "127.0.0.1:0", "--http", address},
			address, exitFailed},
		"rows taken": {"expertnode", demo, []string{"--listen", address}, address, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, place{env: []string{"DROVER_GOSSIP_KEY="}}, append([]string{tc.role,
				"--plaintext", "--etcd", "127.0.0.1:1", "--model", tc.model}, tc.more...)...)
			code, said := p.wait(10*slack*time.Second), p.errors.String()
			if code != tc.code || !strings.HasPrefix(said, "drover: ") ||
				!strings.Contains(said, tc.says) {
				t.Errorf("exit code %d, want %d with %q; said: %s", code, tc.code, tc.says, said)
			}
		})
	}
}
