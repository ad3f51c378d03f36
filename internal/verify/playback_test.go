package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/batch/batchtest"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

const fixtures = "../../testdata/fixtures"

// playback is a coordinator that answers with what a model fixture has recorded, after tamper,
// if there is one, has changed it.
type playback struct {
	droverv1.UnimplementedCoordinatorServiceServer
	want   *expected
	digest []byte
	score  func(prompt string, r *droverv1.ScoreResponse)
	tokens func(prompt string, ids []int32) []int32
}

func newPlayback(t *testing.T, dir string) *playback {
	t.Helper()
	e, err := openExpected(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.close() })
	digest, err := new(verifier).digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &playback{want: e, digest: digest[:],
		score:  func(string, *droverv1.ScoreResponse) {},
		tokens: func(_ string, ids []int32) []int32 { return ids },
	}
}

func (p *playback) client(t *testing.T) droverv1.CoordinatorServiceClient {
	return droverv1.NewCoordinatorServiceClient(batchtest.Serve(t, p))
}

// open is an Opener of the playback.
func (p *playback) open(t *testing.T) Opener {
	return func(context.Context, string, kernel.Mode) (
		droverv1.CoordinatorServiceClient, func(), error,
	) {
		return p.client(t), func() {}, nil
	}
}

func (p *playback) Describe(
	context.Context, *droverv1.DescribeRequest,
) (*droverv1.DescribeResponse, error) {
	return &droverv1.DescribeResponse{
		Model: "playback", ModelDigest: p.digest, NumericMode: "exact",
	}, nil
}

// find returns the prompt that ids are, or begin with, and how many of them it has.
func (p *playback) find(ids []int32) (prompt string, n int, err error) {
	for _, name := range p.want.prompts() {
		have, err := p.want.ids("ids." + name)
		if err != nil {
			return "", 0, err
		}
		if slices.Equal(have, ids) {
			return name, len(have), nil
		}
		if len(ids) > len(have) && len(have) > n && slices.Equal(have, ids[:len(have)]) {
			prompt, n = name, len(have)
		}
	}
	if prompt == "" {
		return "", 0, status.Error(codes.InvalidArgument, "not a recorded prompt")
	}
	return prompt, n, nil
}

func (p *playback) Score(
	req *droverv1.ScoreRequest, stream grpc.ServerStreamingServer[droverv1.ScoreResponse],
) error {
	prompt, n, err := p.find(req.TokenIds)
	if err != nil {
		return err
	}
	logits, width, err := p.want.rows("logits."+prompt, n)
	if err != nil {
		return err
	}
	if len(req.TokenIds) > n {
		more, _, err := p.want.rows("greedy."+prompt+".logits", 24)
		if err != nil {
			return err
		}
		logits = append(logits, more[width:]...)
	}
	for i := range req.TokenIds {
		r := &droverv1.ScoreResponse{Position: uint32(i)}
		for _, v := range logits[i*width : (i+1)*width] {
			r.Logits = binary.LittleEndian.AppendUint32(r.Logits, math.Float32bits(v))
		}
		if req.WithExperts {
			if r.Layers, err = p.layers(prompt, i, n); err != nil {
				return err
			}
		}
		p.score(prompt, r)
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *playback) layers(prompt string, at, n int) ([]*droverv1.LayerExperts, error) {
	var all []*droverv1.LayerExperts
	for _, l := range p.want.layers(prompt) {
		key := fmt.Sprintf("router.%s.layer%d.", prompt, l)
		ids, k, err := p.want.rows32(key+"indices", n)
		if err != nil {
			return nil, err
		}
		weights, _, err := p.want.rows(key+"weights", n)
		if err != nil {
			return nil, err
		}
		le := &droverv1.LayerExperts{Layer: uint32(l), Weights: weights[at*k : (at+1)*k]}
		for _, id := range ids[at*k : (at+1)*k] {
			le.ExpertIds = append(le.ExpertIds, uint32(id))
		}
		all = append(all, le)
	}
	return all, nil
}

func (p *playback) Generate(
	req *droverv1.GenerateRequest, stream grpc.ServerStreamingServer[droverv1.GenerateResponse],
) error {
	prompt, _, err := p.find(req.GetTokens().Ids)
	if err != nil {
		return err
	}
	ids, err := p.want.ids("greedy." + prompt + ".ids")
	if err != nil {
		return err
	}
	return batchtest.SendAnswer(stream, "", p.tokens(prompt, ids))
}

// addToLogit changes one logit of a response by a difference.
func addToLogit(r *droverv1.ScoreResponse, token int, d float32) {
	b := r.Logits[4*token:]
	v := math.Float32frombits(binary.LittleEndian.Uint32(b))
	binary.LittleEndian.PutUint32(b, math.Float32bits(v+d))
}

func TestModelCase(t *testing.T) {
	dir := filepath.Join(fixtures, "models", "llama4_scout_causal")
	prompts := []string{"b0", "b1", "b2", "long", "p1", "p2", "p7"}
	for name, tc := range map[string]struct {
		tamper func(*playback)
		want   map[string]string // failed prompt → part of its detail
	}{
		"as recorded": {func(*playback) {}, nil},
		"within tolerance": {func(p *playback) {
			p.score = func(_ string, r *droverv1.ScoreResponse) { addToLogit(r, 3, 1.5e-4) }
		}, nil},
		"a logit": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "b1" && r.Position == 4 {
					addToLogit(r, 17, 3e-4)
				}
			}
		}, map[string]string{"b1": "position 4, token 17: logit"}},
		"a logit that is no number": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "p2" {
					addToLogit(r, 1, float32(math.NaN()))
				}
			}
		}, map[string]string{"p2": "position 0, token 1: logit NaN"}},
		"a logit of the continuation": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "p7" && r.Position == 20 {
					addToLogit(r, 0, -1)
				}
			}
		}, map[string]string{"p7": "continuation 14, token 0: logit"}},
		"too few logits": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "p1" {
					r.Logits = r.Logits[4:]
				}
			}
		}, map[string]string{"p1": "319 logits, want 320"}},
		"an expert": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "long" && r.Position == 30 && r.Layers != nil {
					r.Layers[2].ExpertIds[0] ^= 1
				}
			}
		}, map[string]string{"long": "position 30, layer 2: chose experts"}},
		"an expert's weight": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "b0" && r.Position == 1 {
					r.Layers[1].Weights[0] += 2e-4
				}
			}
		}, map[string]string{"b0": "position 1, layer 1: expert"}},
		"a missing layer": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "b0" {
					r.Layers = r.Layers[:3]
				}
			}
		}, map[string]string{"b0": "3 MoE layers reported, want 4"}},
		"a position twice": {func(p *playback) {
			p.score = func(prompt string, r *droverv1.ScoreResponse) {
				if prompt == "b0" {
					r.Position = 0
				}
			}
		}, map[string]string{"b0": "position 0 came as number 1"}},
		"a greedy token": {func(p *playback) {
			p.tokens = func(prompt string, ids []int32) []int32 {
				if prompt == "p1" {
					ids[23]++
				}
				return ids
			}
		}, map[string]string{"p1": "generated token 23 is"}},
		"a short answer": {func(p *playback) {
			p.tokens = func(_ string, ids []int32) []int32 { return ids[:23] }
		}, map[string]string{"p1": "23 tokens generated, want 24", "p7": "23", "long": "23"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlayback(t, dir)
			tc.tamper(p)
			var got []string
			sum, err := Run(t.Context(), []string{dir}, Options{
				Open: p.open(t),
				Report: func(r Result) {
					prompt := filepath.Base(r.Name)
					got = append(got, prompt)
					want, fails := tc.want[prompt]
					if fails != (r.Status == Failed) || !strings.Contains(r.Detail, want) {
						t.Errorf("%+v, want failed %v with %q", r, fails, want)
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, prompts) {
				t.Errorf("cases %v, want %v", got, prompts)
			}
			if sum.Failed != len(tc.want) || sum.Passed != len(prompts)-len(tc.want) {
				t.Errorf("summary %+v", sum)
			}
		})
	}
}

// TestNearTie lets a mode with rounding choose another expert or token only where the recorded
// numbers are close.
func TestNearTie(t *testing.T) {
	tol := tolerance{weight: 0.02, tie: 0.05}
	want := choice{ids: []int32{1}, weights: []float32{0.6}, logits: []float32{0.38, 0.4, 0.1}}
	for name, tc := range map[string]struct {
		id     uint32
		weight float32
		want   bool
	}{
		"close":                        {0, 0.595, true},
		"its logit was far":            {2, 0.595, false},
		"its weight is far":            {0, 0.5, false},
		"its weight is not a number":   {0, float32(math.NaN()), false},
		"no such expert was recorded":  {9, 0.6, false},
		"the recorded one, far weight": {1, 0.9, false},
	} {
		if got := want.nearTie(tc.id, tc.weight, tol); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if want.nearTie(0, 0.6, tolerances(kernel.Exact)) {
		t.Error("mode exact accepts another expert")
	}
}

func TestEndpoint(t *testing.T) {
	scout := filepath.Join(fixtures, "models", "llama4_scout_causal")
	p := newPlayback(t, scout)
	count := map[Status]int{}
	opts := Options{Client: p.client(t), Report: func(r Result) { count[r.Status]++ }}
	sum, err := Run(t.Context(), []string{scout, filepath.Join(fixtures, "models", "llama3")}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if sum != (Summary{Passed: 7, Skipped: 1}) || count[Passed] != 7 || count[Skipped] != 1 {
		t.Errorf("summary %+v, reported %v", sum, count)
	}
	_, err = Run(t.Context(), []string{
		filepath.Join(fixtures, "models", "llama3"), filepath.Join(fixtures, "models", "gpt_oss"),
	}, opts)
	if err == nil || !strings.Contains(err.Error(), "the coordinator serves playback") {
		t.Errorf("another model: error %v", err)
	}
	opts.Mode = "bf16"
	if _, err := Run(t.Context(), []string{scout}, opts); err == nil {
		t.Error("another mode than the served one: no error")
	}
}

// TestQuantised leaves out models in modes whose rounding is as large as what is looked for.
func TestQuantised(t *testing.T) {
	for name, want := range map[string]bool{"exact": true, "bf16": true, "exact,rows=bf16": true,
		"int8": false, "int4": false, "fp8": false, "bf16,kv=int8": false, "bf16,head=int8": false} {
		m, err := kernel.ParseMode(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := comparable(m); got != want {
			t.Errorf("%s: comparable %v, want %v", name, got, want)
		}
	}
	var got []Result
	opts := Options{Mode: "int4", Open: serve, Report: func(r Result) { got = append(got, r) }}
	sum, err := Run(t.Context(), []string{filepath.Join(fixtures, "models", "llama3")}, opts)
	if err != nil || sum != (Summary{Skipped: 1}) || !strings.Contains(got[0].Detail, "eval --against") {
		t.Errorf("%+v, error %v: %+v", sum, err, got)
	}
	if _, err := Recorded(t.Context(), "none", "none", opts); err == nil ||
		!strings.Contains(err.Error(), "exact and bf16 only") {
		t.Errorf("recorded: error %v", err)
	}
}
