package fetch_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"drover/expertnode"
	"drover/internal/fetch"
	"drover/packed"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// counted counts what a node is asked for.
type counted struct {
	mu      sync.Mutex // guards the fields below
	headers int        // calls for headers
	further int        // replicas in them beside the first
	bodies  int
}

func (c *counted) wrap() *wrap {
	return &wrap{asked: func(r *droverv1.FetchRequest) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.HeaderOnly {
			c.headers++
			c.further += len(r.Further)
		} else {
			c.bodies++
		}
	}}
}

// TestOpinionsTogether fetches 20 replicas that two nodes hold: each is asked once for what it
// says of all that the other one sends.
func TestOpinionsTogether(t *testing.T) {
	holders := map[placement.Replica][]placement.Node{}
	var want []expertnode.Replica
	for e := range 20 {
		want = append(want, expertnode.Replica{Layer: one.Layer, Expert: e})
	}
	var counts [2]counted
	var at []placement.Node
	for i, id := range []string{"left", "middle"} {
		n := newNode(t, id, demo(), "", fetch.Disk)
		if err := n.host.Assign(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		at = append(at, n.serve(t, counts[i].wrap(), nil))
	}
	for _, r := range want {
		holders[placement.Replica{Layer: r.Layer, Expert: r.Expert}] = at
	}
	right := newNode(t, "right", demo(), "", fetch.Nodes)
	right.source.Locate(holders)
	if err := right.host.Assign(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	bodies := 0
	for i := range counts {
		c, other := &counts[i], &counts[1-i]
		if c.headers != 1 || c.further+1 != other.bodies {
			t.Errorf("%s was asked %d times for headers, of %d replicas beside the first; the other "+
				"one sent %d", at[i].ID, c.headers, c.further, other.bodies)
		}
		bodies += c.bodies
	}
	if n, _ := right.source.Fetched(); n != 20 || bodies != 20 {
		t.Errorf("%d replicas fetched, %d sent, want 20", n, bodies)
	}
}

// TestSenderIsNotItsOwnJudge has two nodes that lie alike, of which the first that sends dies, and
// an honest one. In whatever order they are asked, which depends on names, a liar that sends is
// compared with the honest one in the end, and nobody is believed.
func TestSenderIsNotItsOwnJudge(t *testing.T) {
	honest := loaded(t, "honest", "")
	truth := honest.serve(t, nil, nil)
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		at := []placement.Node{truth}
		var first sync.Once
		lies := func(r *droverv1.FetchResponse) (err error) {
			if h := r.GetHeader(); h != nil {
				h.ContentSha256[3] ^= 1
				h.Crc32C = expertnode.FetchHeaderSum(h)
			} else {
				first.Do(func() { err = status.Error(codes.Unavailable, "the machine lost power") })
			}
			return err
		}
		for _, liar := range []string{"one", "two"} {
			at = append(at, loaded(t, liar, "").serve(t, &wrap{tamper: lies}, nil))
		}
		right := newNode(t, id, demo(), "", fetch.Auto)
		right.locate(at...)
		if err := right.assign(); err != nil {
			t.Fatal(err)
		}
		got := right.noted()
		if !slices.ContainsFunc(got, func(e string) bool {
			return strings.HasPrefix(e, "disagreed honest")
		}) || !strings.HasPrefix(got[len(got)-1], "fell back") {
			t.Errorf("%s: events %q, want that one disagrees with the honest node", id, got)
		}
		if !slices.Equal(right.rows(t), honest.rows(t)) {
			t.Errorf("%s: other rows", id)
		}
	}
}

// TestHeadersOfMany asks a node itself: for more than it may be, and for what it lacks.
func TestHeadersOfMany(t *testing.T) {
	left := loaded(t, "left", "")
	at := left.serve(t, nil, nil)
	conn, err := grpc.NewClient(at.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body, err := left.source.Body(one.Layer, one.Expert)
	if err != nil {
		t.Fatal(err)
	}
	digest := left.ck.Digest()
	ask := func(further ...*droverv1.FetchReplica) (headers []*droverv1.FetchHeader, err error) {
		s, err := droverv1.NewExpertServiceClient(conn).Fetch(t.Context(), &droverv1.FetchRequest{
			ModelDigest: digest[:], NumericMode: "bf16", FormatVersion: packed.Version,
			Layer: uint32(one.Layer), Expert: uint32(one.Expert), SizeBytes: uint64(body.Size()),
			HeaderOnly: true, Further: further})
		for err == nil {
			var r *droverv1.FetchResponse
			if r, err = s.Recv(); err == nil {
				headers = append(headers, r.GetHeader())
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return headers, err
	}
	same := &droverv1.FetchReplica{Layer: uint32(one.Layer), Expert: uint32(one.Expert)}
	_, err = ask(slices.Repeat([]*droverv1.FetchReplica{same}, 257)...)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("257 further replicas: %v", err)
	}
	lacks := &droverv1.FetchReplica{Layer: 1 << 31, Expert: 1<<32 - 1}
	h, err := ask(lacks, same)
	if err != nil || len(h) != 3 || h[0].SizeBytes != uint64(body.Size()) ||
		h[1].SizeBytes != 0 || !slices.Equal(h[2].ContentSha256, h[0].ContentSha256) {
		t.Errorf("one that it holds, one that it lacks, one that it holds: %v, %v", h, err)
	}
}
